"""The network: encoder, decoder and heads; `create_model` puts it together."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from pnx_jax.errors import UserError, check_known
from pnx_jax.models import (
  convolution,
  decoders,
  efficientnet,
  encoders,
  layers,
  pretrained,
  resnet,
)
from pnx_jax.strides import check_strides, deep_strides

PLAIN_ENCODERS = {
  'unet': encoders.UNetEncoder,
  'resunet': encoders.ResUNetEncoder,
}
ENCODERS = (*PLAIN_ENCODERS, *resnet.VARIANTS, *efficientnet.VARIANTS)
DECODERS: dict[str, type[decoders.Decoder]] = {
  'unet': decoders.UNetDecoder,
  'unetpp': decoders.UNetPlusPlusDecoder,
}
# Blocks of EfficientNets are skipped at this rate, as in the paper.
_DROP_PATH = 0.2


class MaskHead(nn.Module):
  """A 3x3 convolution to logits.

  Attributes:
    features: Logits per place.
    prevalence: Probability of each before training.
    platform: One of `convolution.PLATFORMS`.
  """

  features: int
  prevalence: float
  platform: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """f32[B, H, W, C] to f32[B, H, W, features]."""
    kernel = self.param(
      'kernel',
      _same_for_all(nn.initializers.lecun_normal()),
      (3, 3, x.shape[-1], self.features),
    )
    bias = self.param('bias', _bias(self.prevalence), (self.features,))
    logits = convolution.convolve(x, kernel, platform=self.platform)
    return logits + bias.reshape(1, 1, 1, -1)


class Segmenter(nn.Module):
  """Image to mask logits and one presence logit.

  Attributes:
    encoder: Image to `{stride: features}`.
    decoder: `{stride: features}` to `{stride: decoded features}`.
    depth: How often the encoder halves the image.
    mean: Subtracted from the image.
    deviation: The image is divided by it after that.
    deep_supervision: Whether coarser strides have mask heads, too.
    pixel_prevalence: Share of pneumothorax pixels before training.
    image_prevalence: Share of images with a pneumothorax before training.
    presence_from_mask: Whether the presence head begins as the largest mask
      logit.
    pretrained: Where `init` takes the encoder's weights from: a file or one of
      `pretrained.PACKAGES`; '' draws them.
    encoder_name: One of `ENCODERS`; needed with `pretrained` only.
  """

  encoder: nn.Module
  decoder: decoders.Decoder
  depth: int
  mean: float
  deviation: float
  deep_supervision: bool
  pixel_prevalence: float
  image_prevalence: float
  presence_from_mask: bool = False
  pretrained: str = ''
  encoder_name: str = ''

  @nn.compact
  def __call__(
    self, image: jax.Array, train: bool
  ) -> dict[str, jax.Array | list[jax.Array]]:
    """Segments a batch.

    Args:
      image: f32[B, H, W, 1] in 0..1.
      train: Whether to normalize by the statistics of this batch.

    Returns:
      `mask_logits` f32[B, H, W, 1], `presence_logit` f32[B] and, with deep
      supervision, `deep_logits`, f32[B, H / s, W / s, 1] for every s of
      2, 4 and 8 between the decoder's output stride and the deepest stride.

    Raises:
      UserError: The image has a size or channels that the network cannot take.
    """
    check_image(image.shape, depth=self.depth)
    features = self.encoder((image - self.mean) / self.deviation, train)
    decoded = self.decoder(features, train)

    def mask(stride: int, name: str, *, side: int = 1) -> jax.Array:
      """Each place of the stride gives a square of `side` pixels a side."""
      head = MaskHead(
        side * side,
        self.pixel_prevalence,
        self.decoder.style.platform,
        name=name,
      )
      logits = head(decoded[stride].astype(jnp.float32))
      return convolution.depth_to_space(logits, side)

    finest = self.decoder.output_stride
    mask_logits = mask(finest, 'mask', side=finest)
    outputs: dict[str, jax.Array | list[jax.Array]] = {
      'mask_logits': mask_logits,
      'presence_logit': self._presence(features, mask_logits),
    }
    if self.deep_supervision:
      outputs['deep_logits'] = [
        mask(stride, f'mask_stride{stride}')
        for stride in deep_strides(self.depth, finest)
      ]
    return outputs

  def _presence(
    self, features: dict[int, jax.Array], mask_logits: jax.Array
  ) -> jax.Array:
    """The presence logit f32[B], from the deepest features and the mask.

    The deepest features alone learn slowly which images have a pneumothorax,
    so the head also sees the largest mask logit. Its gradient does not reach
    the mask.
    """
    deepest = features[1 << self.depth].astype(jnp.float32)
    places = deepest.reshape(deepest.shape[0], -1, deepest.shape[-1])
    # The gradient of `max` can be 0 / 0 where XLA rounds its operand twice, and
    # reading by index would be a gather.
    largest = jax.nn.one_hot(places.argmax(axis=1), places.shape[1], axis=1)
    surest = jax.lax.stop_gradient(mask_logits).max(axis=(1, 2))
    evidence = jnp.concatenate(
      [
        places.mean(axis=1),
        jnp.where(largest > 0, places, 0).sum(axis=1),
        surest - _logit(self.pixel_prevalence),
      ],
      axis=-1,
    )
    kernel = {'kernel_init': _last_alone} if self.presence_from_mask else {}
    bias = _bias(self.image_prevalence)
    head = nn.Dense(1, bias_init=bias, **kernel, name='presence')
    return head(evidence)[:, 0]

  @nn.nowrap
  def init_with_output(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """As of every Flax module; `init` calls it.

    With `pretrained` the encoder's variables are those of the file. Under
    `jax.jit` they become constants of the program.
    """
    outputs, variables = super().init_with_output(*args, **kwargs)
    if self.pretrained:
      variables = pretrained.load(
        self.pretrained, variables, encoder=self.encoder_name
      )
    return outputs, variables

  @nn.nowrap
  def with_style(self, **changes: Any) -> 'Segmenter':
    """The same network with other fields in the style of its layers."""

    def changed(part: Any) -> Any:
      return part.clone(style=dataclasses.replace(part.style, **changes))

    return self.clone(
      encoder=changed(self.encoder), decoder=changed(self.decoder)
    )


def create_model(
  encoder: str,
  *,
  decoder: str = 'unet',
  width: int | None = None,
  depth: int | None = None,
  normalization: str = 'batch',
  attention: bool = False,
  deep_supervision: bool = False,
  drop_path: float | None = None,
  remat: bool = False,
  output_stride: int = 1,
  pixel_prevalence: float = 0.003,
  image_prevalence: float = 0.22,
  presence_from_mask: bool = False,
  pretrained: str = '',
  dtype: jax.typing.DTypeLike = 'float32',
  platform: str | None = None,
) -> Segmenter:
  """A segmentation network as a Flax module.

  `create_model('resnet34')` is the network of configs/resunet.py:resnet34, and
  so on for each encoder's recipe. `model.init(key, image, train=False)` draws
  its variables and `model.apply(variables, image, train=False)` predicts; see
  `Segmenter.__call__` for the shapes.

  Args:
    encoder: A name in `ENCODERS`.
    decoder: A name in `DECODERS`.
    width: Channels at stride 1, doubled with each stride (in the decoder up to
      16 times). ResNets and EfficientNets have their own in the encoder. By
      default 32, with these families 16.
    depth: How often the image is halved. By default 4, with ResNets and
      EfficientNets 5, which is also their largest.
    normalization: A name in `layers.NORMALIZATIONS`; 'frozen' applies to the
      encoder, the decoder then has BatchNorm.
    attention: Whether decoder blocks end in scSE.
    deep_supervision: Whether strides 2, 4 and 8, as far as they are coarser
      than `output_stride`, have mask heads, too.
    drop_path: Rate of skipped residual branches; EfficientNets only, by
      default 0.2.
    remat: Whether activations inside blocks are recomputed for the gradient:
      less memory, more time.
    output_stride: The decoder ends at this stride, 1, 2 or 4; a sub-pixel head
      gives the mask the size of the image. Plain encoders begin at this stride.
    pixel_prevalence: Initial probability of the mask heads.
    image_prevalence: Initial probability of the presence head.
    presence_from_mask: Whether the presence head begins as the largest mask
      logit alone, and what the deepest features add is learned.
    pretrained: A `.pth` or `.safetensors` file of PyTorch's weights, or a name
      in `pretrained.PACKAGES`; `model.init` puts them into the encoder. ''
      draws all weights.
    dtype: Type of the computation; parameters and logits are float32.
    platform: What the programs are for, one of `convolution.PLATFORMS`; by
      default the platform that JAX runs on.

  Raises:
    UserError: An unknown name (the nearest one is suggested), or values that
      do not go together.
  """
  check_known('encoder', encoder, ENCODERS)
  check_known('decoder', decoder, tuple(DECODERS))
  check_known('normalization', normalization, layers.NORMALIZATIONS)
  plain = encoder in PLAIN_ENCODERS
  width = (32 if plain else 16) if width is None else width
  depth = (4 if plain else 5) if depth is None else depth
  if drop_path is None:
    drop_path = _DROP_PATH if encoder in efficientnet.VARIANTS else 0.0
  elif drop_path and encoder not in efficientnet.VARIANTS:
    raise UserError(f'drop_path is for EfficientNets; {encoder} has none')
  if not plain and not 1 <= depth <= 5:
    raise UserError(f'{encoder} has a depth of 1 to 5, not {depth}')
  check_strides(output_stride, depth, deep_supervision=deep_supervision)
  style = layers.Style(
    platform=platform or jax.default_backend(),
    normalization=normalization,
    remat=remat,
    dtype=jnp.dtype(dtype),
  )
  # The decoder has no loaded statistics that it could keep.
  decoder_style = dataclasses.replace(
    style, normalization=normalization.replace('frozen', 'batch')
  )
  mean, deviation = intensities(encoder)
  return Segmenter(
    encoder=create_encoder(
      encoder,
      width=width,
      depth=depth,
      drop_path=drop_path,
      style=style,
      first_stride=output_stride,
    ),
    decoder=DECODERS[decoder](width, attention, decoder_style, output_stride),
    depth=depth,
    mean=mean,
    deviation=deviation,
    deep_supervision=deep_supervision,
    pixel_prevalence=pixel_prevalence,
    image_prevalence=image_prevalence,
    presence_from_mask=presence_from_mask,
    pretrained=pretrained,
    encoder_name=encoder,
  )


def create_encoder(
  name: str,
  *,
  width: int,
  depth: int,
  drop_path: float,
  style: layers.Style,
  first_stride: int = 1,
) -> nn.Module:
  """The encoder alone; see `create_model`."""
  if name in resnet.VARIANTS:
    return resnet.ResNetEncoder(resnet.VARIANTS[name], depth, style)
  if name in efficientnet.VARIANTS:
    return efficientnet.EfficientNetEncoder(
      efficientnet.VARIANTS[name], depth, drop_path, style
    )
  return PLAIN_ENCODERS[name](width, depth, style, first_stride)


def intensities(encoder: str) -> tuple[float, float]:
  """Mean and deviation of the images of the encoder's published weights.

  ImageNet's, averaged over the colors; the Lite networks have their own.
  """
  if encoder in efficientnet.VARIANTS and efficientnet.VARIANTS[encoder].lite:
    return 127 / 255, 128 / 255
  return (0.485 + 0.456 + 0.406) / 3, (0.229 + 0.224 + 0.225) / 3


def check_image(shape: tuple[int, ...], *, depth: int) -> None:
  """Raises UserError for an image shape that the network cannot take."""
  *_, height, width, channels = shape
  if channels != 1:
    raise UserError(
      f'the network takes grayscale images, f32[B, H, W, 1]; this one has '
      f'{channels} channels'
    )
  stride = 1 << depth
  for size in (height, width):
    if size % stride:
      raise UserError(
        f'an image of {height}x{width} does not fit: {size} is not divisible '
        f'by {stride}, the deepest stride; the nearest size that is: '
        f'{max(round(size / stride), 1) * stride}'
      )


def _same_for_all(initializer: Callable[..., jax.Array]) -> Any:
  """The initializer of one output for all of them.

  The pixels of a square are equal at the start, so that a sub-pixel head
  starts without a checkerboard (Aitken 2017, arXiv:1707.02937).
  """

  def initialize(
    key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32
  ) -> jax.Array:
    kernel = initializer(key, (*shape[:-1], 1), dtype)
    return jnp.repeat(kernel, shape[-1], axis=-1)

  return initialize


def _last_alone(
  key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32
) -> jax.Array:
  """An initializer of weights that take the last input as it is."""
  del key
  return jnp.zeros(shape, dtype).at[-1].set(1)


def _bias(probability: float) -> Any:
  return nn.initializers.constant(_logit(probability))


def _logit(probability: float) -> float:
  return math.log(probability / (1 - probability))
