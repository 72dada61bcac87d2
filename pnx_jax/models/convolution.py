"""Convolution, upsampling and pooling, each in its platform's fastest form.

The forms of one operation compute the same. Which one is used, and why
(benchmarks/RESULTS.md has the measurements):

operation            CPU                  GPU    TPU
1x1                  `cpu.pointwise`      XLA's  XLA's
3x3                  `cpu.convolve_...`   XLA's  XLA's
3x3 of upsampled     on the small map     XLA's  XLA's
depthwise            `cpu.depthwise`      XLA's  XLA's
other groups         block diagonal       XLA's  block diagonal
max pooling          `cpu.max_pool...`    XLA's  XLA's
"""

import functools
import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from pnx_jax.models import cpu

# 'any': the program holds the forms of all platforms and chooses where it
# runs. For inference: a gradient would choose again at every step.
PLATFORMS = ('cpu', 'gpu', 'tpu', 'any')
Pads = tuple[tuple[int, int], tuple[int, int]]
# Channels of a dense convolution that several groups share. On a CPU narrow
# groups run faster with fewer zeros; wider ones would only compile longer.
_DENSE_CHANNELS = 64
_DENSE_CHANNELS_OF_NARROW_GROUPS_ON_CPU = 32
# Up to so many output channels Eigen's convolution wastes most of its products.
_NARROW = 4


def padding_of(
  size: int, *, kernel: int, stride: int, padding: str
) -> tuple[int, int]:
  """Zeros before and after an axis of `size` values.

  Args:
    size: length of the axis.
    kernel: taps along the axis.
    stride: step of the convolution.
    padding: 'symmetric' (PyTorch) or 'same' (TensorFlow).
  """
  if padding == 'symmetric':
    return (kernel // 2, kernel // 2)
  total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
  return (total // 2, total - total // 2)


def convolve(
  x: jax.Array,
  kernel: jax.Array,
  *,
  platform: str,
  stride: int = 1,
  padding: str = 'symmetric',
  groups: int = 1,
) -> jax.Array:
  """Convolution of x by kernel.

  Args:
    x: `[B, H, W, C]`.
    kernel: `[K, K, C / groups, F]`.
    platform: one of `PLATFORMS`.
    stride: step along both axes.
    padding: see `padding_of`.
    groups: number of independent groups that the channels are split into.

  Returns:
    `[B, H / stride, W / stride, F]`.
  """
  size = kernel.shape[0]
  if platform == 'cpu' and groups == 1:
    if size == 1:
      return cpu.pointwise(x, kernel[0, 0], stride)
    if size == 3 and stride == 1:
      narrow = kernel.shape[-1] <= _NARROW
      return (cpu.convolve_narrow if narrow else cpu.convolve_3x3)(x, kernel)
  height, width = (
    padding_of(length, kernel=size, stride=stride, padding=padding)
    for length in x.shape[1:3]
  )
  arguments = {'stride': stride, 'pads': (height, width), 'groups': groups}
  if groups == 1:
    return direct(x, kernel, **arguments)
  forms = _forms(depthwise=groups == x.shape[-1] == kernel.shape[-1])
  if platform != 'any':
    return forms.get(platform, direct)(x, kernel, **arguments)
  return jax.lax.platform_dependent(
    x,
    kernel,
    default=functools.partial(direct, **arguments),
    **{
      name: functools.partial(form, **arguments) for name, form in forms.items()
    },
  )


def convolve_upsampled(
  below: jax.Array,
  skips: Sequence[jax.Array],
  kernel: jax.Array,
  *,
  platform: str,
) -> jax.Array:
  """3x3 convolution of `below`, enlarged by two, with the skips concatenated.

  Args:
    below: `[B, H / 2, W / 2, C]`.
    skips: Maps `[B, H, W, ...]`, which may be none.
    kernel: `[3, 3, C + channels of the skips, F]`.
    platform: One of `PLATFORMS`.

  Returns:
    `[B, H, W, F]`.
  """
  if platform == 'any':
    return jax.lax.platform_dependent(
      below, skips, kernel, cpu=_on_the_small_map, default=_on_the_large_map
    )
  form = _on_the_small_map if platform == 'cpu' else _on_the_large_map
  return form(below, skips, kernel)


def _on_the_large_map(
  below: jax.Array, skips: Sequence[jax.Array], kernel: jax.Array
) -> jax.Array:
  x = jnp.concatenate([upsample(below), *skips], axis=-1)
  return direct(x, kernel, stride=1, pads=((1, 1), (1, 1)))


def _on_the_small_map(
  below: jax.Array, skips: Sequence[jax.Array], kernel: jax.Array
) -> jax.Array:
  channels = below.shape[-1]
  y = cpu.convolve_upsampled(below, kernel[:, :, :channels])
  if not skips:
    return y
  skip = skips[0] if len(skips) == 1 else jnp.concatenate(skips, axis=-1)
  return y + cpu.convolve_3x3(skip, kernel[:, :, channels:])


def _forms(*, depthwise: bool) -> dict[str, Callable[..., jax.Array]]:
  """The forms of a convolution in groups other than XLA's, by platform."""
  if depthwise:
    return {'cpu': _cpu_depthwise}
  return {'cpu': _cpu_block_diagonal, 'tpu': block_diagonal}


def _cpu_block_diagonal(
  x: jax.Array, kernel: jax.Array, *, stride: int, pads: Pads, groups: int
) -> jax.Array:
  """Dense convolutions with block-diagonal kernels, on a CPU."""
  narrow = kernel.shape[2] <= 8
  return block_diagonal(
    x,
    kernel,
    stride=stride,
    pads=pads,
    groups=groups,
    dense=_DENSE_CHANNELS_OF_NARROW_GROUPS_ON_CPU if narrow else None,
  )


def _cpu_depthwise(
  x: jax.Array, kernel: jax.Array, *, stride: int, pads: Pads, groups: int
) -> jax.Array:
  """One filter per channel, on a CPU."""
  del groups
  return cpu.depthwise(x, kernel[:, :, 0], stride, pads)


def direct(
  x: jax.Array, kernel: jax.Array, *, stride: int, pads: Pads, groups: int = 1
) -> jax.Array:
  """XLA's own convolution."""
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(stride, stride),
    padding=pads,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )


def block_diagonal(
  x: jax.Array,
  kernel: jax.Array,
  *,
  stride: int,
  pads: Pads,
  groups: int,
  dense: int | None = None,
) -> jax.Array:
  """Dense convolutions with block-diagonal kernels.

  So many groups share one that it has about `dense` channels, by default
  `_DENSE_CHANNELS`: the zeros cost less than many narrow convolutions.
  """
  size, _, width, features = kernel.shape
  merged = math.gcd(groups, max((dense or _DENSE_CHANNELS) // width, 1))
  blocks = groups // merged
  kernel = kernel.reshape(size, size, width, blocks, merged, -1)
  kernels = jnp.einsum(
    'klwnmf,me->nklewmf', kernel, jnp.eye(merged, dtype=kernel.dtype)
  ).reshape(blocks, size, size, merged * width, features // blocks)
  parts = zip(jnp.split(x, blocks, axis=-1), kernels, strict=True)
  return jnp.concatenate(
    [direct(*part, stride=stride, pads=pads) for part in parts], axis=-1
  )


def upsample(x: jax.Array) -> jax.Array:
  """Nearest neighbor, twice as large; `[B, H, W, C]` to `[B, 2H, 2W, C]`."""
  batch, height, width, channels = x.shape
  x = jnp.broadcast_to(
    x[:, :, None, :, None], (batch, height, 2, width, 2, channels)
  )
  return x.reshape(batch, 2 * height, 2 * width, channels)


def space_to_depth(x: jax.Array, block: int) -> jax.Array:
  """Squares of pixels to channels: `[B, H, W, C]` to `[B, H/b, W/b, b*b*C]`."""
  if block == 1:
    return x
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // block, block, width // block, block, channels)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(
    batch, height // block, width // block, block * block * channels
  )


def depth_to_space(x: jax.Array, block: int) -> jax.Array:
  """Channels to squares of pixels, the inverse of `space_to_depth`.

  The last step of a sub-pixel convolution (Shi 2016, arXiv:1609.05158).
  """
  if block == 1:
    return x
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height, width, block, block, channels // block**2)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(
    batch, height * block, width * block, channels // block**2
  )


def max_pool(x: jax.Array, *, platform: str) -> jax.Array:
  """Largest of each 2x2 window; `[B, H, W, C]` to `[B, H/2, W/2, C]`."""
  if platform == 'cpu':
    return cpu.max_pool(x)
  return nn.max_pool(x, (2, 2), (2, 2))


def max_pool_overlapping(x: jax.Array, *, platform: str) -> jax.Array:
  """Largest of each 3x3 window, stride 2, padded by 1 on both sides."""
  if platform == 'cpu':
    return cpu.max_pool_overlapping(x)
  return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
