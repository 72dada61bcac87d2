"""The layers every network here is made of.

Parameters are float32; `Style.dtype` is what is computed in. Feature maps are
channels-last, `[B, H, W, C]`.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

NORMALISATIONS = ('batch', 'frozen', 'group')


@dataclasses.dataclass(frozen=True)
class Style:
  """What the layers of one network have in common.

  Attributes:
    normalisation: 'batch'; 'frozen', BatchNorm with the statistics that were
      loaded; 'group', GroupNorm after convolutions with standardised weights
      (Qiao 2019, arXiv:1903.10520).
    padding: 'symmetric' (PyTorch) or 'same' (TensorFlow); they differ in
      layers of stride 2.
    epsilon: added to the variance.
    momentum: decay of the running statistics.
    dtype: what is computed in.
  """

  normalisation: str = 'batch'
  padding: str = 'symmetric'
  epsilon: float = 1e-5
  momentum: float = 0.9
  dtype: jnp.dtype = jnp.float32


def padding_of(size, *, kernel, stride, padding):
  """Zeros before and after an axis of `size` values."""
  if padding == 'symmetric':
    return (kernel // 2, kernel // 2)
  total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
  return (total // 2, total - total // 2)


def standardise(kernel):
  """Zero mean and unit variance over the inputs of each output."""
  mean = kernel.mean(axis=(0, 1, 2), keepdims=True)
  variance = kernel.var(axis=(0, 1, 2), keepdims=True)
  fan_in = math.prod(kernel.shape[:3])
  return (kernel - mean) * jax.lax.rsqrt(variance * fan_in + 1e-4)


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
    shape = (self.kernel, self.kernel, x.shape[-1] // self.groups)
    kernel = self.param(
      'kernel', nn.initializers.he_normal(), (*shape, self.features)
    )
    if self.style.normalisation == 'group':
      kernel = standardise(kernel)
    x = jax.lax.conv_general_dilated(
      x.astype(self.style.dtype),
      kernel.astype(self.style.dtype),
      window_strides=(self.stride, self.stride),
      padding=[
        padding_of(
          size,
          kernel=self.kernel,
          stride=self.stride,
          padding=self.style.padding,
        )
        for size in x.shape[1:3]
      ],
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=self.groups,
    )
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,))
      x += bias.astype(x.dtype).reshape(1, 1, 1, -1)
    return x


class Norm(nn.Module):
  """The normalisation `style` names."""

  style: Style

  @nn.compact
  def __call__(self, x, train):
    style = self.style
    if style.normalisation == 'group':
      return nn.GroupNorm(
        num_groups=math.gcd(x.shape[-1], 32),
        epsilon=style.epsilon,
        dtype=style.dtype,
        name='group',
      )(x)
    return nn.BatchNorm(
      use_running_average=not train or style.normalisation == 'frozen',
      momentum=style.momentum,
      epsilon=style.epsilon,
      dtype=style.dtype,
      name='batch',
    )(x)


class ConvNorm(nn.Module):
  """Convolution, normalisation, ReLU."""

  features: int
  style: Style
  kernel: int = 3
  stride: int = 1

  @nn.compact
  def __call__(self, x, train):
    x = Conv(self.features, self.style, self.kernel, self.stride, name='conv')(
      x
    )
    return nn.relu(Norm(self.style, name='norm')(x, train))


def upsample(x):
  """Nearest neighbour, twice as large; `[B, H, W, C]` to `[B, 2H, 2W, C]`."""
  batch, height, width, channels = x.shape
  x = jnp.broadcast_to(
    x[:, :, None, :, None], (batch, height, 2, width, 2, channels)
  )
  return x.reshape(batch, 2 * height, 2 * width, channels)


def max_pool(x):
  """Largest of each 2x2 window; `[B, H, W, C]` to `[B, H/2, W/2, C]`."""
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
  return x.max(axis=(2, 4))
