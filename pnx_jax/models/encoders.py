"""Encoders: image to features by stride, `{1: [B, H, W, C], 2: ...}`.

`segmenter.create_encoder` knows them all, those of resnet.py and
efficientnet.py too.

The plain ones begin at `first_stride`. Where that is 2 or 4, squares of pixels
become the channels of the first convolution's input.
"""

import flax.linen as nn
import jax

from pnx_jax.models import convolution, layers


class UNetEncoder(nn.Module):
  """Contracting path of U-Net (Ronneberger 2015, arXiv:1505.04597).

  With BatchNorm and same padding, as has become usual.

  Attributes:
    width: Channels at stride 1, doubled with each stride.
    depth: How often the image is halved.
    style: Of the layers.
    first_stride: Stride of the first features.
  """

  width: int
  depth: int
  style: layers.Style
  first_stride: int = 1

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> dict[int, jax.Array]:
    conv_norm = layers.block(layers.ConvNorm, self.style)
    features = {}
    first = self.first_stride.bit_length() - 1
    x = convolution.space_to_depth(x, self.first_stride)
    for level in range(first, self.depth + 1):
      if level > first:
        x = convolution.max_pool(x, platform=self.style.platform)
      for index in (1, 2):
        x = conv_norm(
          self.width << level, self.style, name=f'level{level}_conv{index}'
        )(x, train)
      features[1 << level] = x
    return features


class ResidualUnit(nn.Module):
  """Pre-activation residual unit (He 2016, arXiv:1603.05027)."""

  features: int
  stride: int
  style: layers.Style

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    branch = x
    for index, stride in ((1, self.stride), (2, 1)):
      branch = layers.Norm(self.style, name=f'norm{index}')(branch, train)
      branch = layers.Conv(
        self.features, self.style, stride=stride, name=f'conv{index}'
      )(nn.relu(branch))
    shortcut = layers.Conv(
      self.features, self.style, 1, self.stride, name='shortcut'
    )
    return shortcut(x) + branch


class ResUNetEncoder(nn.Module):
  """Encoding path of ResUNet (Zhang 2018, arXiv:1711.10684).

  The paper's decoder begins each unit with normalization and ReLU; here they
  are the last operations on each feature map.

  Attributes:
    width: Channels at stride 1, doubled with each stride.
    depth: How often the image is halved.
    style: Of the layers.
    first_stride: Stride of the first features.
  """

  width: int
  depth: int
  style: layers.Style
  first_stride: int = 1

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> dict[int, jax.Array]:
    unit = layers.block(ResidualUnit, self.style)
    features = {}
    first = self.first_stride.bit_length() - 1
    x = convolution.space_to_depth(x, self.first_stride)
    x = layers.Conv(self.width << first, self.style, name='stem')(x)
    for level in range(first, self.depth + 1):
      x = unit(
        self.width << level,
        stride=2 if level > first else 1,
        style=self.style,
        name=f'level{level}',
      )(x, train)
      norm = layers.Norm(self.style, name=f'norm{level}')
      features[1 << level] = nn.relu(norm(x, train))
    return features
