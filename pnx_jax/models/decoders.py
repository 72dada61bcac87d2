"""Decoders: features by stride to decoded features by stride.

Upsampling is by nearest neighbour. Channels double with each stride, up to 16
times `width`.
"""

import flax.linen as nn
import jax.numpy as jnp

from pnx_jax.models import convolution, layers


class Block(nn.Module):
  """Upsample, join with the skips, two convolutions, optional attention."""

  features: int
  attention: bool
  style: layers.Style

  @nn.compact
  def __call__(self, inputs, train):
    below, *skips = inputs
    style = self.style
    x = jnp.concatenate([convolution.upsample(below), *skips], axis=-1)
    for index in (1, 2):
      x = layers.Conv(self.features, style, name=f'conv{index}')(x)
      x = layers.Norm(style, name=f'bn{index}')(x, train)
      x = style.activation(x)
    if self.attention:
      x = layers.SpatialChannelExcite(self.style, name='attention')(x)
    return x


class UNetDecoder(nn.Module):
  """Expanding path of U-Net (Ronneberger 2015, arXiv:1505.04597)."""

  width: int
  attention: bool
  style: layers.Style

  @nn.compact
  def __call__(self, features, train):
    block = layers.block(Block, self.style)
    stride = max(features)
    x = features[stride]
    decoded = {}
    while stride > 1:
      stride //= 2
      skips = [features[stride]] if stride in features else []
      x = block(
        self.width * min(stride, 16),
        self.attention,
        self.style,
        name=f'stride{stride}',
      )([x, *skips], train)
      decoded[stride] = x
    return decoded


class UNetPlusPlusDecoder(nn.Module):
  """Nested skips (Zhou 2018, arXiv:1807.10165).

  Node j at a stride sees all earlier nodes at that stride and node j - 1 one
  stride below. Where the encoder has no feature (stride 1 of most), the last
  node stands alone.
  """

  width: int
  attention: bool
  style: layers.Style

  @nn.compact
  def __call__(self, features, train):
    block = layers.block(Block, self.style)
    deepest = max(features)
    nodes = [features[deepest]]
    decoded = {}
    stride = deepest
    while stride > 1:
      stride //= 2
      below = nodes
      nodes = [features[stride]] if stride in features else []
      for column, node in enumerate(below if nodes else below[-1:], 1):
        x = block(
          self.width * min(stride, 16),
          self.attention,
          self.style,
          name=f'stride{stride}_node{column}',
        )([node, *nodes], train)
        nodes.append(x)
      decoded[stride] = nodes[-1]
    return decoded
