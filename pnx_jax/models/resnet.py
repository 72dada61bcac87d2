"""ResNet and SE-ResNeXt encoders, with the module names of torchvision.

He 2016, arXiv:1512.03385; Xie 2017, arXiv:1611.05431; Hu 2018,
arXiv:1709.01507.
"""

import dataclasses

import flax.linen as nn
import jax

from pnx_jax.models import convolution, layers


@dataclasses.dataclass(frozen=True)
class Variant:
  """A member of the family.

  Attributes:
    blocks: Residual blocks at strides 4, 8, 16, 32.
    bottleneck: Whether blocks are 1x1, 3x3, 1x1 convolutions, not two 3x3.
    groups: Of the 3x3 convolution in a bottleneck.
    group_width: Its channels per group, at stride 4.
    squeeze: Reduction of the squeeze-and-excitation, 0 for none.
    width: Channels of the stem.
  """

  blocks: tuple[int, ...]
  bottleneck: bool = False
  groups: int = 1
  group_width: int = 64
  squeeze: int = 0
  width: int = 64


VARIANTS: dict[str, Variant] = {
  'resnet34': Variant((3, 4, 6, 3)),
  'resnet50': Variant((3, 4, 6, 3), bottleneck=True),
  'se_resnext50': Variant(
    (3, 4, 6, 3), bottleneck=True, groups=32, group_width=4, squeeze=16
  ),
  # For tests.
  '_tiny_resnet': Variant((1, 1, 1, 1), width=8),
  '_tiny_se_resnext': Variant(
    (1, 1, 1, 1), bottleneck=True, groups=4, group_width=2, squeeze=4, width=8
  ),
}


class Block(nn.Module):
  """One residual block.

  Attributes:
    variant: Of the network.
    planes: Channels before the expansion of a bottleneck.
    stride: Of its first 3x3 convolution.
    style: Of the layers.
  """

  variant: Variant
  planes: int
  stride: int
  style: layers.Style

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    variant, style = self.variant, self.style
    if variant.bottleneck:
      share = variant.group_width * self.planes // variant.width
      inner = share * variant.groups
      convs = (
        (inner, 1, 1, 1),
        (inner, 3, self.stride, variant.groups),
        (4 * self.planes, 1, 1, 1),
      )
    else:
      convs = ((self.planes, 3, self.stride, 1), (self.planes, 3, 1, 1))
    features = convs[-1][0]
    branch = x
    for index, (width, kernel, stride, groups) in enumerate(convs, 1):
      if index > 1:
        branch = style.activation(branch)
      branch = layers.Conv(
        width, style, kernel, stride, groups, name=f'conv{index}'
      )(branch)
      branch = layers.Norm(style, name=f'bn{index}')(branch, train)
    if variant.squeeze:
      branch = layers.SqueezeExcite(
        features // variant.squeeze, style, name='se'
      )(branch)
    if x.shape != branch.shape:
      x = layers.Conv(features, style, 1, self.stride, name='downsample_0')(x)
      x = layers.Norm(style, name='downsample_1')(x, train)
    return style.activation(x + branch)


class ResNetEncoder(nn.Module):
  """Features at strides 2 (the stem's), 4, 8, 16, 32.

  Attributes:
    variant: Member of the family.
    depth: How often the image is halved, at most 5.
    style: Of the layers.
  """

  variant: Variant
  depth: int
  style: layers.Style

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> dict[int, jax.Array]:
    style, width = self.style, self.variant.width
    x = layers.Conv(width, style, 7, 2, name='conv1')(x)
    x = style.activation(layers.Norm(style, name='bn1')(x, train))
    features = {2: x}
    block = layers.block(Block, style)
    x = convolution.max_pool_overlapping(x, platform=style.platform)
    for stage in range(1, self.depth):
      for index in range(self.variant.blocks[stage - 1]):
        x = block(
          self.variant,
          planes=width << (stage - 1),
          stride=2 if stage > 1 and index == 0 else 1,
          style=style,
          name=f'layer{stage}_{index}',
        )(x, train)
      features[2 << stage] = x
    return features
