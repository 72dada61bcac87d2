"""Convolution, upsampling, pooling, each in its backend's fastest form.

XLA's CPU backend has no fast grouped convolution; sums of shifted products
stand in for it there. All forms of one operation compute the same, which
tests hold them to.
"""

import functools
import math

import jax
import jax.numpy as jnp

from pnx_jax.models.cpu.depthwise import depthwise

_DENSE_CHANNELS = 64


def padding_of(size, *, kernel, stride, padding):
  """Zeros before and after an axis of `size` values.

  Args:
    size: length of the axis.
    kernel: taps along it.
    stride: of the convolution.
    padding: 'symmetric' (PyTorch) or 'same' (TensorFlow).
  """
  if padding == 'symmetric':
    return (kernel // 2, kernel // 2)
  total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
  return (total // 2, total - total // 2)


def convolve(
  x, kernel, *, stride=1, padding='symmetric', groups=1, portable=False
):
  """Convolution of x by kernel.

  Args:
    x: `[B, H, W, C]`.
    kernel: `[K, K, C / groups, F]`.
    stride: of both axes.
    padding: see `padding_of`.
    groups: channels are cut into this many independent groups.
    portable: the program holds all forms and chooses where it runs. For
      inference: a gradient would choose again at every step.

  Returns:
    `[B, H / stride, W / stride, F]`.
  """
  size = kernel.shape[0]
  pads = tuple(
    padding_of(length, kernel=size, stride=stride, padding=padding)
    for length in x.shape[1:3]
  )
  cpu, default = (
    functools.partial(form, stride=stride, pads=pads, groups=groups)
    for form in (on_cpu, direct)
  )
  if portable and groups > 1:
    return jax.lax.platform_dependent(x, kernel, cpu=cpu, default=default)
  return (cpu if jax.default_backend() == 'cpu' else default)(x, kernel)


def on_cpu(x, kernel, *, stride, pads, groups):
  """The form for XLA's CPU backend."""
  if groups == 1:
    return direct(x, kernel, stride=stride, pads=pads)
  if groups == x.shape[-1] == kernel.shape[-1]:
    return depthwise(x, kernel[:, :, 0], stride, pads)
  return grouped(x, kernel, stride=stride, pads=pads, groups=groups)


def direct(x, kernel, *, stride, pads, groups=1):
  """XLA's own convolution."""
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(stride, stride),
    padding=pads,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )


def grouped(x, kernel, *, stride, pads, groups):
  """Dense convolutions with block-diagonal kernels.

  So many groups share one that it has about `_DENSE_CHANNELS` channels: the
  zeros cost less than many narrow convolutions.
  """
  size, _, width, features = kernel.shape
  merged = math.gcd(groups, max(_DENSE_CHANNELS // width, 1))
  blocks = groups // merged
  kernel = kernel.reshape(size, size, width, blocks, merged, -1)
  dense = jnp.einsum(
    'klwnmf,me->nklewmf', kernel, jnp.eye(merged, dtype=kernel.dtype)
  )
  dense = dense.reshape(blocks, size, size, merged * width, features // blocks)
  parts = zip(jnp.split(x, blocks, axis=-1), dense, strict=True)
  return jnp.concatenate(
    [direct(*part, stride=stride, pads=pads) for part in parts], axis=-1
  )


def upsample(x):
  """Nearest neighbour, twice as large; `[B, H, W, C]` to `[B, 2H, 2W, C]`."""
  batch, height, width, channels = x.shape
  x = jnp.broadcast_to(
    x[:, :, None, :, None], (batch, height, 2, width, 2, channels)
  )
  return x.reshape(batch, 2 * height, 2 * width, channels)


def space_to_depth(x, block):
  """Squares of pixels to channels: `[B, H, W, C]` to `[B, H/b, W/b, b*b*C]`."""
  if block == 1:
    return x
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // block, block, width // block, block, channels)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(
    batch, height // block, width // block, block * block * channels
  )


def depth_to_space(x, block):
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


def max_pool(x):
  """Largest of each 2x2 window; `[B, H, W, C]` to `[B, H/2, W/2, C]`.

  By comparing pairs: the gradient of `max` over an axis is 0 / 0 where XLA
  computes its operand again and rounds it differently.
  """
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
  x = jnp.maximum(x[:, :, 0], x[:, :, 1])
  return jnp.maximum(x[:, :, :, 0], x[:, :, :, 1])


def max_pool_overlapping(x):
  """Largest of each 3x3 window, stride 2, padded by 1 on both sides."""
  for axis in (1, 2):
    pairs = x.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
    even, odd = jnp.split(pairs, 2, axis=axis + 1)
    even, odd = even.squeeze(axis + 1), odd.squeeze(axis + 1)
    pads = [(0, 0, 0)] * 4
    pads[axis] = (1, -1, 0)
    before = jax.lax.pad(odd, jnp.array(-jnp.inf, x.dtype), pads)
    x = jnp.maximum(jnp.maximum(even, odd), before)
  return x
