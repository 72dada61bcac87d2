"""The layers every network here is made of.

Parameters are float32; `Style.dtype` is what is computed in. Feature maps are
channels-last, `[B, H, W, C]`.
"""

import dataclasses
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from pnx_jax.models import convolution
from pnx_jax.models.cpu.batch_norm import BatchNorm

NORMALIZATIONS = ('batch', 'frozen', 'group')


@dataclasses.dataclass(frozen=True)
class Style:
  """What the layers of one network have in common.

  Attributes:
    normalization: 'batch'; 'frozen', BatchNorm with the statistics that were
      loaded; 'group', GroupNorm after convolutions with standardised weights
      (Qiao 2019, arXiv:1903.10520).
    padding: 'symmetric' (PyTorch) or 'same' (TensorFlow); they differ in
      layers of stride 2.
    epsilon: added to the variance.
    momentum: decay of the running statistics.
    activation: after each normalization.
    remat: whether blocks forget their inner activations and compute them
      again for the gradient.
    dtype: what is computed in.
    portable: see `convolution.convolve`.
  """

  normalization: str = 'batch'
  padding: str = 'symmetric'
  epsilon: float = 1e-5
  momentum: float = 0.9
  activation: Callable[[jax.Array], jax.Array] = nn.relu
  remat: bool = False
  dtype: jnp.dtype = jnp.float32
  portable: bool = False


def block(module, style):
  """`module`, a class called with `(x, train)`, as `style.remat` wants it."""
  return nn.remat(module, static_argnums=(2,)) if style.remat else module


def standardise(kernel):
  """Mean 0 and variance 1 / inputs over the inputs of each output."""
  mean = kernel.mean(axis=(0, 1, 2), keepdims=True)
  variance = kernel.var(axis=(0, 1, 2), keepdims=True)
  inputs = math.prod(kernel.shape[:3])
  return (kernel - mean) * jax.lax.rsqrt(variance * inputs + 1e-4)


class Conv(nn.Module):
  """A convolution, `[B, H, W, C]` to `[B, H/stride, W/stride, features]`."""

  features: int
  style: Style
  kernel: int = 3
  stride: int = 1
  groups: int = 1
  use_bias: bool = False

  @nn.compact
  def __call__(self, x):
    style = self.style
    shape = (self.kernel, self.kernel, x.shape[-1] // self.groups)
    kernel = self.param(
      'kernel', nn.initializers.he_normal(), (*shape, self.features)
    )
    if style.normalization == 'group':
      kernel = standardise(kernel)
    x = convolution.convolve(
      x.astype(style.dtype),
      kernel.astype(style.dtype),
      stride=self.stride,
      padding=style.padding,
      groups=self.groups,
      portable=style.portable,
    )
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,))
      x += bias.astype(x.dtype).reshape(1, 1, 1, -1)
    return x


class Norm(nn.Module):
  """The normalization `style` names."""

  style: Style

  @nn.compact
  def __call__(self, x, train):
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
      name='batch',
    )(x)


class ConvNorm(nn.Module):
  """Convolution, normalization, activation."""

  features: int
  style: Style
  kernel: int = 3
  stride: int = 1

  @nn.compact
  def __call__(self, x, train):
    x = Conv(self.features, self.style, self.kernel, self.stride, name='conv')(
      x
    )
    return self.style.activation(Norm(self.style, name='norm')(x, train))


class SqueezeExcite(nn.Module):
  """Channel attention (Hu 2018, arXiv:1709.01507)."""

  hidden: int
  style: Style
  names: tuple[str, str] = ('fc1', 'fc2')

  @nn.compact
  def __call__(self, x):
    plain = dataclasses.replace(self.style, normalization='batch')
    weight = x.mean(axis=(1, 2), keepdims=True)
    for name, features in zip(
      self.names, (self.hidden, x.shape[-1]), strict=True
    ):
      if name == self.names[1]:
        weight = self.style.activation(weight)
      weight = Conv(features, plain, 1, use_bias=True, name=name)(weight)
    return x * nn.sigmoid(weight)


class SpatialChannelExcite(nn.Module):
  """scSE: attention over channels plus over places (Roy 2018, 1803.02579)."""

  style: Style

  @nn.compact
  def __call__(self, x):
    plain = dataclasses.replace(self.style, normalization='batch')
    place = Conv(1, plain, 1, use_bias=True, name='place')(x)
    hidden = max(x.shape[-1] // 16, 4)
    channels = SqueezeExcite(hidden, self.style, name='channels')(x)
    return channels + x * nn.sigmoid(place)


class DropPath(nn.Module):
  """Leaves a residual branch out for whole images (Huang 2016, 1603.09382)."""

  rate: float

  @nn.compact
  def __call__(self, x, train):
    return nn.Dropout(
      self.rate, broadcast_dims=(1, 2, 3), deterministic=not train
    )(x)
