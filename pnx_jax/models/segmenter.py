"""Encoder, decoder and heads put together; `create` is the entry."""

import dataclasses
import difflib
import functools
import math

import flax.linen as nn
import jax.numpy as jnp

from pnx_jax.models import decoders, encoders, layers

ENCODERS = {
  'unet': encoders.UNetEncoder,
  'resunet': encoders.ResUNetEncoder,
}
DECODERS = {'unet': decoders.UNetDecoder}


class Segmenter(nn.Module):
  """Image to mask logits and one presence logit.

  Attributes:
    encoder: image to `{stride: features}`.
    decoder: `{stride: features}` to `{stride: decoded features}`.
    depth: the encoder halves the image this many times.
    pixel_prevalence: share of pneumothorax pixels before training.
    image_prevalence: share of images with a pneumothorax before training.
  """

  encoder: nn.Module
  decoder: nn.Module
  depth: int
  pixel_prevalence: float = 0.003
  image_prevalence: float = 0.22

  @nn.compact
  def __call__(self, image, train):
    """Segments a batch.

    Args:
      image: f32[B, H, W, 1] in 0..1.
      train: whether batch statistics are the batch's own.

    Returns:
      `mask_logits` f32[B, H, W, 1] and `presence_logit` f32[B].
    """
    check_image(image.shape, depth=self.depth)
    features = self.encoder(image, train)
    decoded = self.decoder(features, train)
    deepest = features[1 << self.depth].astype(jnp.float32)
    pooled = jnp.concatenate(
      [deepest.mean(axis=(1, 2)), deepest.max(axis=(1, 2))], axis=-1
    )
    presence = nn.Dense(
      1, bias_init=logit(self.image_prevalence), name='presence'
    )(pooled)
    mask = nn.Conv(
      1, (3, 3), bias_init=logit(self.pixel_prevalence), name='mask'
    )(decoded[1].astype(jnp.float32))
    return {'mask_logits': mask, 'presence_logit': presence[:, 0]}


def logit(probability):
  value = math.log(probability / (1 - probability))
  return nn.initializers.constant(value)


def check_image(shape, *, depth):
  """Raises ValueError for images the network cannot take."""
  *_, height, width, channels = shape
  if channels != 1:
    raise ValueError(
      f'The network takes grayscale images, f32[B, H, W, 1]; this one has '
      f'{channels} channels.'
    )
  for size in (height, width):
    if size % (1 << depth):
      raise ValueError(
        f'An image of {height}x{width} does not fit: {size} is not divisible '
        f'by {1 << depth}, the deepest stride. The nearest size that is: '
        f'{max(round(size / (1 << depth)), 1) << depth}.'
      )


def choose(kind, name, known):
  """`known[name]`, or a ValueError that names the nearest."""
  if name in known:
    return known[name]
  nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
  raise ValueError(
    f'Unknown {kind} {name!r}. The nearest is {nearest!r}; known are: '
    f'{", ".join(sorted(known))}.'
  )


def create(
  *,
  encoder,
  decoder='unet',
  width=64,
  depth=4,
  normalisation='batch',
  pixel_prevalence=0.003,
  image_prevalence=0.22,
  dtype='float32',
):
  """The network `config.model` describes.

  Args:
    encoder: a name in `ENCODERS`.
    decoder: a name in `DECODERS`.
    width: channels at stride 1.
    depth: how often the image is halved.
    normalisation: a name in `layers.NORMALISATIONS`.
    pixel_prevalence: the mask head starts at this probability.
    image_prevalence: the presence head starts at this probability.
    dtype: what is computed in; parameters and logits are float32.

  Raises:
    ValueError: an unknown name; the nearest one is suggested.
  """
  choose('normalisation', normalisation, dict.fromkeys(layers.NORMALISATIONS))
  style = layers.Style(normalisation=normalisation, dtype=jnp.dtype(dtype))
  decoder_style = style
  if normalisation == 'frozen':  # The decoder has nothing loaded to freeze.
    decoder_style = dataclasses.replace(style, normalisation='batch')
  make_encoder = functools.partial(
    choose('encoder', encoder, ENCODERS), width=width, depth=depth
  )
  make_decoder = choose('decoder', decoder, DECODERS)
  return Segmenter(
    encoder=make_encoder(style=style),
    decoder=make_decoder(width=width, style=decoder_style),
    depth=depth,
    pixel_prevalence=pixel_prevalence,
    image_prevalence=image_prevalence,
  )
