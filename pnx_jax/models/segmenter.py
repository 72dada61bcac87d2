"""Encoder, decoder and heads put together; `create` is the entry."""

import dataclasses
import math

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
  resnet,
)

PLAIN_ENCODERS = {
  'unet': encoders.UNetEncoder,
  'resunet': encoders.ResUNetEncoder,
}
ENCODERS = (*PLAIN_ENCODERS, *resnet.VARIANTS, *efficientnet.VARIANTS)
DECODERS = {
  'unet': decoders.UNetDecoder,
  'unetpp': decoders.UNetPlusPlusDecoder,
}
OUTPUT_STRIDES = (1, 2, 4)
DEEP_STRIDES = (2, 4, 8)


class Segmenter(nn.Module):
  """Image to mask logits and one presence logit.

  Attributes:
    encoder: image to `{stride: features}`.
    decoder: `{stride: features}` to `{stride: decoded features}`.
    depth: the encoder halves the image this many times.
    mean: subtracted from the image.
    deviation: the image is divided by it then.
    deep_supervision: whether coarser strides have mask heads too.
    pixel_prevalence: share of pneumothorax pixels before training.
    image_prevalence: share of images with a pneumothorax before training.
    output_stride: of the decoder's last features. The mask head predicts a
      square of so many pixels a side from each of their places.
  """

  encoder: nn.Module
  decoder: nn.Module
  depth: int
  mean: float
  deviation: float
  deep_supervision: bool
  pixel_prevalence: float
  image_prevalence: float
  output_stride: int = 1

  @nn.compact
  def __call__(self, image, train):
    """Segments a batch.

    Args:
      image: f32[B, H, W, 1] in 0..1.
      train: whether batch statistics are the batch's own.

    Returns:
      `mask_logits` f32[B, H, W, 1], `presence_logit` f32[B] and, with deep
      supervision, `deep_logits`, f32[B, H / s, W / s, 1] for every s of
      `DEEP_STRIDES` that is coarser than the output stride.
    """
    check_image(image.shape, depth=self.depth)
    features = self.encoder((image - self.mean) / self.deviation, train)
    decoded = self.decoder(features, train)

    def mask(stride, name, side=1):
      head = nn.Conv(
        side * side,
        (3, 3),
        kernel_init=same_for_all(nn.initializers.lecun_normal()),
        bias_init=bias(self.pixel_prevalence),
        name=name,
      )
      logits = head(decoded[stride].astype(jnp.float32))
      return convolution.depth_to_space(logits, side)

    mask_logits = mask(self.output_stride, 'mask', side=self.output_stride)
    outputs = {
      'mask_logits': mask_logits,
      'presence_logit': self._presence(features, mask_logits),
    }
    if self.deep_supervision:
      outputs['deep_logits'] = [
        mask(stride, f'mask_stride{stride}')
        for stride in deep_strides(self.depth, self.output_stride)
      ]
    return outputs

  def _presence(self, features, mask_logits):
    """Judges the deepest features, and the mask by its surest pixel.

    Features alone learn slowly which films have a pneumothorax; masks tell
    early. What is learnt here does not change the mask.
    """
    deepest = features[1 << self.depth].astype(jnp.float32)
    places = deepest.reshape(deepest.shape[0], -1, deepest.shape[-1])
    # The gradient of `max` can be 0 / 0 where XLA rounds its operand twice.
    largest = places.argmax(axis=1, keepdims=True)
    surest = jax.lax.stop_gradient(mask_logits).max(axis=(1, 2))
    evidence = jnp.concatenate(
      [
        places.mean(axis=1),
        jnp.take_along_axis(places, largest, axis=1)[:, 0],
        surest - logit(self.pixel_prevalence),
      ],
      axis=-1,
    )
    head = nn.Dense(1, bias_init=bias(self.image_prevalence), name='presence')
    return head(evidence)[:, 0]


def deep_strides(depth, output_stride):
  """Where deep supervision has heads: below the mask's, above the deepest."""
  return [
    stride for stride in DEEP_STRIDES if output_stride < stride < 1 << depth
  ]


def same_for_all(initializer):
  """The initializer of one output for all of them.

  The pixels of a square begin alike, so that a sub-pixel head begins without
  a checkerboard (Aitken 2017, arXiv:1707.02937).
  """

  def initialize(key, shape, dtype=jnp.float32):
    kernel = initializer(key, (*shape[:-1], 1), dtype)
    return jnp.repeat(kernel, shape[-1], axis=-1)

  return initialize


def bias(probability):
  return nn.initializers.constant(logit(probability))


def logit(probability):
  return math.log(probability / (1 - probability))


def check_image(shape, *, depth):
  """Raises UserError for images the network cannot take."""
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


def create(
  *,
  encoder,
  decoder='unet',
  width=32,
  depth=4,
  normalization='batch',
  attention=False,
  deep_supervision=False,
  drop_path=0.0,
  remat=False,
  output_stride=1,
  pixel_prevalence=0.003,
  image_prevalence=0.22,
  dtype='float32',
):
  """The network `config.model` describes.

  Args:
    encoder: a name in `ENCODERS`.
    decoder: a name in `DECODERS`.
    width: channels at stride 1, doubled at every stride (in the decoder up to
      16 times). ResNets and EfficientNets have their own in the encoder.
    depth: how often the image is halved; at most 5 for ResNets and
      EfficientNets.
    normalization: a name in `layers.NORMALIZATIONS`; 'frozen' holds for the
      encoder, the decoder has BatchNorm then.
    attention: whether decoder blocks end in scSE.
    deep_supervision: whether strides 2, 4 and 8 have mask heads too.
    drop_path: rate of left-out residual branches (EfficientNets).
    remat: whether activations inside blocks are computed again for the
      gradient: less memory, more time.
    output_stride: the decoder ends at this stride, one of `OUTPUT_STRIDES`;
      a sub-pixel head gives the mask the image's size. Plain encoders begin
      there, too.
    pixel_prevalence: the mask heads start at this probability.
    image_prevalence: the presence head starts at this probability.
    dtype: what is computed in; parameters and logits are float32.

  Raises:
    UserError: an unknown name (the nearest one is suggested), or fields that
      do not go together.
  """
  check_known('encoder', encoder, ENCODERS)
  check_known('decoder', decoder, tuple(DECODERS))
  check_known('normalization', normalization, layers.NORMALIZATIONS)
  if drop_path and encoder not in efficientnet.VARIANTS:
    raise UserError(f'drop_path is for EfficientNets; {encoder} has none')
  if encoder not in PLAIN_ENCODERS and not 1 <= depth <= 5:
    raise UserError(f'{encoder} has a depth of 1 to 5, not {depth}')
  if output_stride not in OUTPUT_STRIDES:
    raise UserError(f'output_stride is 1, 2 or 4, not {output_stride}')
  if output_stride >= 1 << depth:
    raise UserError(
      f'output_stride={output_stride} leaves the decoder nothing to do: a '
      f'depth of {depth} ends at stride {1 << depth}; raise depth, or lower '
      'output_stride'
    )
  if (
    deep_supervision
    and output_stride > 1
    and not deep_strides(depth, output_stride)
  ):
    raise UserError(
      f'deep_supervision has no stride left between output_stride='
      f'{output_stride} and the deepest, {1 << depth}: raise depth, or lower '
      'output_stride'
    )
  style = layers.Style(
    normalization=normalization, remat=remat, dtype=jnp.dtype(dtype)
  )
  # The decoder has no loaded statistics that could stay.
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
    output_stride=output_stride,
  )


def create_encoder(name, *, width, depth, drop_path, style, first_stride=1):
  """The encoder alone; see `create`."""
  if name in resnet.VARIANTS:
    return resnet.ResNetEncoder(resnet.VARIANTS[name], depth, style)
  if name in efficientnet.VARIANTS:
    return efficientnet.EfficientNetEncoder(
      efficientnet.VARIANTS[name], depth, drop_path, style
    )
  return PLAIN_ENCODERS[name](width, depth, style, first_stride)


def intensities(encoder):
  """Mean and deviation of what the encoder's published weights saw.

  ImageNet's, averaged over the colours; the Lite networks have their own.
  """
  if encoder in efficientnet.VARIANTS and efficientnet.VARIANTS[encoder].lite:
    return 127 / 255, 128 / 255
  return (0.485 + 0.456 + 0.406) / 3, (0.229 + 0.224 + 0.225) / 3
