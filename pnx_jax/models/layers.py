"""The layers that every network is made of.

Parameters are float32, the computation is in `Style.dtype`. Feature maps are
channels-last, `[B, H, W, C]`.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from pnx_jax.models import convolution, cpu
from pnx_jax.models.batch_norm import BatchNorm

NORMALIZATIONS = ('batch', 'frozen', 'group')


@dataclasses.dataclass(frozen=True)
class Style:
  """What the layers of one network have in common.

  Attributes:
    normalization: 'batch'; 'frozen', BatchNorm that keeps the statistics it
      was loaded with; 'group', GroupNorm after convolutions with standardized
      weights (Qiao 2019, arXiv:1903.10520).
    padding: 'symmetric' (PyTorch) or 'same' (TensorFlow); they differ in
      layers of stride 2.
    epsilon: Added to the variance.
    momentum: Decay of the running statistics.
    activation: Function after each normalization.
    remat: Whether blocks do not keep their inner activations and recompute
      them for the gradient.
    dtype: Type of the computation.
    platform: What the program is for, one of `convolution.PLATFORMS`.
  """

  platform: str
  normalization: str = 'batch'
  padding: str = 'symmetric'
  epsilon: float = 1e-5
  momentum: float = 0.9
  activation: Callable[[jax.Array], jax.Array] = nn.relu
  remat: bool = False
  dtype: jax.typing.DTypeLike = jnp.float32


def block(module: type[nn.Module], style: Style) -> Callable[..., nn.Module]:
  """A class of modules that are called with `(x, train)`.

  Where `style.remat` says so, its modules recompute their activations for the
  gradient (`jax.checkpoint`).
  """
  return nn.remat(module, static_argnums=(2,)) if style.remat else module


def standardize(kernel: jax.Array) -> jax.Array:
  """`[K, K, C, F]` with mean 0 and variance 1 / (K * K * C) of each output."""
  mean = kernel.mean(axis=(0, 1, 2), keepdims=True)
  variance = kernel.var(axis=(0, 1, 2), keepdims=True)
  inputs = math.prod(kernel.shape[:3])
  return (kernel - mean) * jax.lax.rsqrt(variance * inputs + 1e-4)


class Conv(nn.Module):
  """A convolution, `[B, H, W, C]` to `[B, H/stride, W/stride, features]`.

  Attributes:
    features: Number of output channels.
    style: Of the network.
    kernel: Side of the kernel.
    stride: Step along both axes.
    groups: Number of independent groups of channels.
    use_bias: Whether a bias is added.
  """

  features: int
  style: Style
  kernel: int = 3
  stride: int = 1
  groups: int = 1
  use_bias: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    style = self.style
    shape = (self.kernel, self.kernel, x.shape[-1] // self.groups)
    kernel = self.param(
      'kernel', nn.initializers.he_normal(), (*shape, self.features)
    )
    if style.normalization == 'group':
      kernel = standardize(kernel)
    x = convolution.convolve(
      x.astype(style.dtype),
      kernel.astype(style.dtype),
      stride=self.stride,
      padding=style.padding,
      groups=self.groups,
      platform=style.platform,
    )
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,))
      x += bias.astype(x.dtype).reshape(1, 1, 1, -1)
    return x


class UpsampleConv(nn.Module):
  """Upsampling, concatenation with the skips, 3x3 convolution.

  Its parameter is that of the `Conv` of the concatenation.

  Attributes:
    features: Number of output channels.
    style: Of the network.
  """

  features: int
  style: Style

  @nn.compact
  def __call__(self, below: jax.Array, skips: Sequence[jax.Array]) -> jax.Array:
    style = self.style
    channels = sum(x.shape[-1] for x in (below, *skips))
    kernel = self.param(
      'kernel', nn.initializers.he_normal(), (3, 3, channels, self.features)
    )
    if style.normalization == 'group':
      kernel = standardize(kernel)
    return convolution.convolve_upsampled(
      below.astype(style.dtype),
      [skip.astype(style.dtype) for skip in skips],
      kernel.astype(style.dtype),
      platform=style.platform,
    )


class Norm(nn.Module):
  """The normalization that `style` names."""

  style: Style

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    style = self.style
    if style.normalization == 'group':
      return nn.GroupNorm(
        num_groups=math.gcd(x.shape[-1], 32),
        epsilon=style.epsilon,
        dtype=style.dtype,
        name='group',
      )(x)
    return BatchNorm(
      use_running_average=not train or style.normalization == 'frozen',
      momentum=style.momentum,
      epsilon=style.epsilon,
      dtype=style.dtype,
      platform=style.platform,
      name='batch',
    )(x)


class ConvNorm(nn.Module):
  """Convolution, normalization, activation."""

  features: int
  style: Style
  kernel: int = 3
  stride: int = 1

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    x = Conv(self.features, self.style, self.kernel, self.stride, name='conv')(
      x
    )
    return self.style.activation(Norm(self.style, name='norm')(x, train))


class SqueezeExcite(nn.Module):
  """Channel attention (Hu 2018, arXiv:1709.01507).

  Attributes:
    hidden: Channels between the two layers.
    style: Of the network.
    names: Of the two layers.
  """

  hidden: int
  style: Style
  names: tuple[str, str] = ('fc1', 'fc2')

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    plain = dataclasses.replace(self.style, normalization='batch')
    on_cpu = self.style.platform == 'cpu'
    if on_cpu:
      weight = cpu.place_sum(x) / math.prod(x.shape[1:3])
    else:
      weight = x.mean(axis=(1, 2), keepdims=True)
    for name, features in zip(
      self.names, (self.hidden, x.shape[-1]), strict=True
    ):
      if name == self.names[1]:
        weight = self.style.activation(weight)
      weight = Conv(features, plain, 1, use_bias=True, name=name)(weight)
    weight = nn.sigmoid(weight)
    return cpu.scale(x, weight) if on_cpu else x * weight


class SpatialChannelExcite(nn.Module):
  """scSE: attention over channels and places (Roy 2018, arXiv:1803.02579)."""

  style: Style

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    plain = dataclasses.replace(self.style, normalization='batch')
    place = Conv(1, plain, 1, use_bias=True, name='place')(x)
    hidden = max(x.shape[-1] // 16, 4)
    channels = SqueezeExcite(hidden, self.style, name='channels')(x)
    return channels + x * nn.sigmoid(place)


class DropPath(nn.Module):
  """Skips a residual branch for whole images (Huang 2016, arXiv:1603.09382).

  Attributes:
    rate: Probability of skipping it.
  """

  rate: float

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    return nn.Dropout(
      self.rate, broadcast_dims=(1, 2, 3), deterministic=not train
    )(x)
