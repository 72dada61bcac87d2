"""Encoder, decoder and heads put together; `create` is the entry."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from pnx_jax.errors import UserError, check_known
from pnx_jax.models import decoders, efficientnet, encoders, layers, resnet

PLAIN_ENCODERS = {
  'unet': encoders.UNetEncoder,
  'resunet': encoders.ResUNetEncoder,
}
ENCODERS = (*PLAIN_ENCODERS, *resnet.VARIANTS, *efficientnet.VARIANTS)
DECODERS = {
  'unet': decoders.UNetDecoder,
  'unetpp': decoders.UNetPlusPlusDecoder,
}
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
  """

  encoder: nn.Module
  decoder: nn.Module
  depth: int
  mean: float
  deviation: float
  deep_supervision: bool
  pixel_prevalence: float
  image_prevalence: float

  @nn.compact
  def __call__(self, image, train):
    """Segments a batch.

    Args:
      image: f32[B, H, W, 1] in 0..1.
      train: whether batch statistics are the batch's own.

    Returns:
      `mask_logits` f32[B, H, W, 1], `presence_logit` f32[B] and, with deep
      supervision, `deep_logits`, f32[B, H / s, W / s, 1] for s in
      `DEEP_STRIDES`.
    """
    check_image(image.shape, depth=self.depth)
    features = self.encoder((image - self.mean) / self.deviation, train)
    decoded = self.decoder(features, train)

    def mask(stride, name):
      head = nn.Conv(
        1, (3, 3), bias_init=bias(self.pixel_prevalence), name=name
      )
      return head(decoded[stride].astype(jnp.float32))

    mask_logits = mask(1, 'mask')
    outputs = {
      'mask_logits': mask_logits,
      'presence_logit': self._presence(features, mask_logits),
    }
    if self.deep_supervision:
      outputs['deep_logits'] = [
        mask(stride, f'mask_stride{stride}')
        for stride in DEEP_STRIDES
        if stride in decoded
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
  normalisation='batch',
  attention=False,
  deep_supervision=False,
  drop_path=0.0,
  remat=False,
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
    normalisation: a name in `layers.NORMALISATIONS`; 'frozen' holds for the
      encoder, the decoder has BatchNorm then.
    attention: whether decoder blocks end in scSE.
    deep_supervision: whether strides 2, 4 and 8 have mask heads too.
    drop_path: rate of left-out residual branches (EfficientNets).
    remat: whether activations inside blocks are computed again for the
      gradient: less memory, more time.
    pixel_prevalence: the mask heads start at this probability.
    image_prevalence: the presence head starts at this probability.
    dtype: what is computed in; parameters and logits are float32.

  Raises:
    UserError: an unknown name; the nearest one is suggested.
  """
  check_known('encoder', encoder, ENCODERS)
  check_known('decoder', decoder, tuple(DECODERS))
  check_known('normalisation', normalisation, layers.NORMALISATIONS)
  if drop_path and encoder not in efficientnet.VARIANTS:
    raise UserError(f'drop_path is for EfficientNets; {encoder} has none')
  if encoder not in PLAIN_ENCODERS and not 1 <= depth <= 5:
    raise UserError(f'{encoder} has a depth of 1 to 5, not {depth}')
  style = layers.Style(
    normalisation=normalisation, remat=remat, dtype=jnp.dtype(dtype)
  )
  # The decoder has no loaded statistics that could stay.
  decoder_style = dataclasses.replace(
    style, normalisation=normalisation.replace('frozen', 'batch')
  )
  mean, deviation = intensities(encoder)
  return Segmenter(
    encoder=create_encoder(
      encoder, width=width, depth=depth, drop_path=drop_path, style=style
    ),
    decoder=DECODERS[decoder](width, attention, decoder_style),
    depth=depth,
    mean=mean,
    deviation=deviation,
    deep_supervision=deep_supervision,
    pixel_prevalence=pixel_prevalence,
    image_prevalence=image_prevalence,
  )


def create_encoder(name, *, width, depth, drop_path, style):
  """The encoder alone; see `create`."""
  if name in resnet.VARIANTS:
    return resnet.ResNetEncoder(resnet.VARIANTS[name], depth, style)
  if name in efficientnet.VARIANTS:
    return efficientnet.EfficientNetEncoder(
      efficientnet.VARIANTS[name], depth, drop_path, style
    )
  return PLAIN_ENCODERS[name](width, depth, style)


def intensities(encoder):
  """Mean and deviation of what the encoder's published weights saw.

  ImageNet's, averaged over the colours; the Lite networks have their own.
  """
  if encoder in efficientnet.VARIANTS and efficientnet.VARIANTS[encoder].lite:
    return 127 / 255, 128 / 255
  return (0.485 + 0.456 + 0.406) / 3, (0.229 + 0.224 + 0.225) / 3
