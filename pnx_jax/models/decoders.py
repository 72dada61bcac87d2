"""Decoders: encoder features by stride to decoded features by stride.

Upsampling is by nearest neighbor. Channels double with each stride, up to 16
times `width`.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax

from pnx_jax.models import layers


class Block(nn.Module):
  """Upsampling, concatenation with the skips, two convolutions.

  Attributes:
    features: Number of output channels.
    attention: Whether scSE follows.
    style: Of the layers.
  """

  features: int
  attention: bool
  style: layers.Style

  @nn.compact
  def __call__(self, inputs: Sequence[jax.Array], train: bool) -> jax.Array:
    below, *skips = inputs
    style = self.style
    x = layers.UpsampleConv(self.features, style, name='conv1')(below, skips)
    x = style.activation(layers.Norm(style, name='bn1')(x, train))
    x = layers.Conv(self.features, style, name='conv2')(x)
    x = style.activation(layers.Norm(style, name='bn2')(x, train))
    if self.attention:
      x = layers.SpatialChannelExcite(self.style, name='attention')(x)
    return x


class Decoder(nn.Module):
  """What decoders have in common: their fields and their blocks.

  Attributes:
    width: Channels at stride 1, doubled with each stride.
    attention: Whether blocks end in scSE.
    style: Of the layers.
    output_stride: The finest stride that is decoded.
  """

  width: int
  attention: bool
  style: layers.Style
  output_stride: int = 1

  def block(
    self, stride: int, inputs: Sequence[jax.Array], train: bool, *, name: str
  ) -> jax.Array:
    """Applies the block `name`, from twice the stride to `stride`."""
    block = layers.block(Block, self.style)
    features = self.width * min(stride, 16)
    return block(features, self.attention, self.style, name=name)(inputs, train)


class UNetDecoder(Decoder):
  """Expanding path of U-Net (Ronneberger 2015, arXiv:1505.04597)."""

  @nn.compact
  def __call__(
    self, features: dict[int, jax.Array], train: bool
  ) -> dict[int, jax.Array]:
    stride = max(features)
    x = features[stride]
    decoded = {}
    while stride > self.output_stride:
      stride //= 2
      skips = [features[stride]] if stride in features else []
      x = self.block(stride, [x, *skips], train, name=f'stride{stride}')
      decoded[stride] = x
    return decoded


class UNetPlusPlusDecoder(Decoder):
  """Nested skips (Zhou 2018, arXiv:1807.10165).

  Node j at a stride sees all earlier nodes at that stride and node j - 1 one
  stride below. Where the encoder has no feature (stride 1 of most), the last
  node stands alone.
  """

  @nn.compact
  def __call__(
    self, features: dict[int, jax.Array], train: bool
  ) -> dict[int, jax.Array]:
    stride = max(features)
    nodes = [features[stride]]
    decoded = {}
    while stride > self.output_stride:
      stride //= 2
      below = nodes
      nodes = [features[stride]] if stride in features else []
      for column, node in enumerate(below if nodes else below[-1:], 1):
        name = f'stride{stride}_node{column}'
        nodes.append(self.block(stride, [node, *nodes], train, name=name))
      decoded[stride] = nodes[-1]
    return decoded
