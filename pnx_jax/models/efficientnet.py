"""EfficientNet and EfficientNet-Lite encoders.

Tan 2019, arXiv:1905.11946. The Lite networks have ReLU6 in place of swish, no
squeeze-and-excitation, and a stem and last stage that do not scale. Module
names are those of the PyTorch ports (less the leading underscore).
"""

import dataclasses
import math

import flax.linen as nn
import jax

from pnx_jax.models import layers


@dataclasses.dataclass(frozen=True)
class Stage:
  """Repetitions of one inverted residual block.

  Attributes:
    repeats: How many blocks.
    kernel: Side of the depthwise kernel.
    stride: Of the first block.
    expansion: Channels inside a block, as a multiple of its input's.
    features: Output channels.
  """

  repeats: int
  kernel: int
  stride: int
  expansion: int
  features: int


STAGES: tuple[Stage, ...] = (
  Stage(1, 3, 1, 1, 16),
  Stage(2, 3, 2, 6, 24),
  Stage(2, 5, 2, 6, 40),
  Stage(3, 3, 2, 6, 80),
  Stage(3, 5, 1, 6, 112),
  Stage(4, 5, 2, 6, 192),
  Stage(1, 3, 1, 6, 320),
)


@dataclasses.dataclass(frozen=True)
class Variant:
  """A member of the family.

  Attributes:
    width: Multiplier of the channels.
    depth: Multiplier of the repeats.
    lite: Whether it is a Lite network.
  """

  width: float
  depth: float
  lite: bool = False


VARIANTS: dict[str, Variant] = {
  'efficientnet_b0': Variant(1.0, 1.0),
  'efficientnet_b1': Variant(1.0, 1.1),
  'efficientnet_b2': Variant(1.1, 1.2),
  'efficientnet_b3': Variant(1.2, 1.4),
  'efficientnet_b4': Variant(1.4, 1.8),
  'efficientnet_b5': Variant(1.6, 2.2),
  'efficientnet_b6': Variant(1.8, 2.6),
  'efficientnet_b7': Variant(2.0, 3.1),
  'efficientnet_lite0': Variant(1.0, 1.0, lite=True),
  'efficientnet_lite1': Variant(1.0, 1.1, lite=True),
  'efficientnet_lite2': Variant(1.1, 1.2, lite=True),
  'efficientnet_lite3': Variant(1.2, 1.4, lite=True),
  'efficientnet_lite4': Variant(1.4, 1.8, lite=True),
  # For tests.
  '_tiny_efficientnet': Variant(0.1, 0.3),
  '_tiny_lite': Variant(0.1, 0.3, lite=True),
}


def stages(variant: Variant) -> tuple[int, list[Stage]]:
  """The channels of the stem, and the stages of a variant."""

  def scaled(stage: Stage, *, fixed: bool) -> Stage:
    repeats = stage.repeats if fixed else stage.repeats * variant.depth
    return dataclasses.replace(
      stage,
      repeats=math.ceil(repeats),
      features=round_channels(stage.features * variant.width),
    )

  last = len(STAGES) - 1
  stem = 32 if variant.lite else round_channels(32 * variant.width)
  return stem, [
    scaled(stage, fixed=variant.lite and index in (0, last))
    for index, stage in enumerate(STAGES)
  ]


def round_channels(channels: float) -> int:
  """The nearest multiple of 8, at least 8, not below by more than 10 %."""
  rounded = max(8, int(channels + 4) // 8 * 8)
  return rounded + 8 if rounded < 0.9 * channels else rounded


class Block(nn.Module):
  """Inverted residual: expand, depthwise, squeeze and excite, project.

  Attributes:
    stage: That it belongs to.
    stride: Of the depthwise convolution.
    squeeze: Whether it has squeeze-and-excitation.
    drop_path: Probability of skipping its branch in training.
    style: Of the layers.
  """

  stage: Stage
  stride: int
  squeeze: bool
  drop_path: float
  style: layers.Style

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    stage, style = self.stage, self.style
    inputs = x
    hidden = stage.expansion * x.shape[-1]
    if stage.expansion > 1:
      x = layers.Conv(hidden, style, 1, name='expand_conv')(x)
      x = style.activation(layers.Norm(style, name='bn0')(x, train))
    x = layers.Conv(
      hidden, style, stage.kernel, self.stride, hidden, name='depthwise_conv'
    )(x)
    x = style.activation(layers.Norm(style, name='bn1')(x, train))
    if self.squeeze:
      x = layers.SqueezeExcite(
        max(inputs.shape[-1] // 4, 1),
        style,
        names=('se_reduce', 'se_expand'),
        name='se',
      )(x)
    x = layers.Conv(stage.features, style, 1, name='project_conv')(x)
    x = layers.Norm(style, name='bn2')(x, train)
    if x.shape == inputs.shape:
      x = inputs + layers.DropPath(self.drop_path, name='drop')(x, train)
    return x


class EfficientNetEncoder(nn.Module):
  """Features at strides 2 (the stem's), 4, 8, 16, 32.

  Attributes:
    variant: Member of the family.
    depth: How often the image is halved, at most 5.
    drop_path: The rate that grows linearly from 0 at the first block toward
      the last.
    style: Of the layers; padding, statistics and activation are the family's.
  """

  variant: Variant
  depth: int
  drop_path: float
  style: layers.Style

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> dict[int, jax.Array]:
    style = dataclasses.replace(
      self.style,
      padding='same',
      epsilon=1e-3,
      momentum=0.99,
      activation=nn.relu6 if self.variant.lite else nn.swish,
    )
    stem, scaled = stages(self.variant)
    count = sum(stage.repeats for stage in scaled)
    x = layers.Conv(stem, style, 3, 2, name='conv_stem')(x)
    x = style.activation(layers.Norm(style, name='bn0')(x, train))
    features = {2: x}
    block = layers.block(Block, style)
    stride, number = 2, 0
    for position, stage in enumerate(scaled):
      stride *= stage.stride
      if stride > 1 << self.depth:
        break
      for repeat in range(stage.repeats):
        x = block(
          stage,
          stride=stage.stride if repeat == 0 else 1,
          squeeze=not self.variant.lite,
          drop_path=self.drop_path * number / count,
          style=style,
          name=f'blocks_{number}',
        )(x, train)
        number += 1
      if position:  # At stride 2 the stem's features are the skip.
        features[stride] = x
    return features
