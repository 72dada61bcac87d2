"""The losses, f32[B] each: one number per image; the caller reduces them.

`MASK_LOSSES` are functions of the mask's logits f32[B, ...], of its label
f32[B, ...] of 0 and 1 and, where not every pixel's truth is known, of `known`
f32[B, ...]: 1 where it is. Pixels of unknown truth are left out of every sum.
`compute` returns the losses that have a weight, and their weighted sum; weights
are the fields `losses.<name>` of the configuration.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

_FOCAL_GAMMA = 2.0
_TVERSKY_FALSE_POSITIVE, _TVERSKY_FALSE_NEGATIVE = 0.3, 0.7

MaskLoss: TypeAlias = Callable[
  [jax.Array, jax.Array, jax.Array | None], jax.Array
]


class Truth(NamedTuple):
  """What is known of the images of a batch, where that is not their mask.

  Attributes:
    mask: f32[B], weight of each image's mask losses; 0 where no pixel's truth
      is known. Weights are so scaled that the mean over a batch (or over the
      batches of one update) of weight times loss is the mean loss of the
      images that have the truth.
    presence: f32[B], the same for the loss of the presence head.
    label: f32[B], 1 where the image has a pneumothorax; None where that is
      whether any pixel is labeled.
    unknown: bool[B, H, W, 1], pixels of unknown truth in images whose mask is
      known otherwise; None where there are none.
  """

  mask: jax.Array
  presence: jax.Array
  label: jax.Array | None = None
  unknown: jax.Array | None = None


def bce(
  logits: jax.Array, label: jax.Array, known: jax.Array | None = None
) -> jax.Array:
  """Returns the binary cross-entropy, mean over pixels."""
  return _mean(optax.sigmoid_binary_cross_entropy(logits, label), known)


def focal(
  logits: jax.Array, label: jax.Array, known: jax.Array | None = None
) -> jax.Array:
  """Returns the focal loss with gamma 2, mean over pixels.

  Lin et al. 2017, arXiv:1708.02002.
  """
  loss = optax.sigmoid_focal_loss(logits, label, gamma=_FOCAL_GAMMA)
  return _mean(loss, known)


def dice(
  logits: jax.Array, label: jax.Array, known: jax.Array | None = None
) -> jax.Array:
  """Returns 1 - soft Dice of each image.

  Both sums are smoothed by one pixel, so that an image without pneumothorax
  has loss 0 when the prediction is empty and has a gradient until then.
  Milletari et al. 2016, arXiv:1606.04797.
  """
  probs, label = _probs_and_label(logits, label, known)
  intersection = jnp.sum(probs * label, axis=-1)
  total = jnp.sum(probs + label, axis=-1)
  return 1 - (2 * intersection + 1) / (total + 1)


def batch_dice(
  logits: jax.Array, label: jax.Array, known: jax.Array | None = None
) -> jax.Array:
  """Returns 1 - soft Dice of all pixels of the batch, the same for each image.

  Large masks weigh more than in `dice`, and images without a pneumothorax
  count through the pixels that are predicted on them.
  """
  whole = None if known is None else known[None]
  return jnp.broadcast_to(dice(logits[None], label[None], whole), len(logits))


def tversky(
  logits: jax.Array, label: jax.Array, known: jax.Array | None = None
) -> jax.Array:
  """Returns 1 - Tversky index; missed pixels cost more than false ones.

  Salehi et al. 2017, arXiv:1706.05721.
  """
  probs, label = _probs_and_label(logits, label, known)
  intersection = jnp.sum(probs * label, axis=-1)
  false_positive = jnp.sum(probs * (1 - label), axis=-1)
  false_negative = jnp.sum((1 - probs) * label, axis=-1)
  return 1 - (intersection + 1) / (
    intersection
    + _TVERSKY_FALSE_POSITIVE * false_positive
    + _TVERSKY_FALSE_NEGATIVE * false_negative
    + 1
  )


def lovasz(
  logits: jax.Array, label: jax.Array, known: jax.Array | None = None
) -> jax.Array:
  """Returns the symmetric Lovasz hinge.

  The mean of the hinge on the mask and on its complement, as the competition's
  3rd place used it: the complement has a gradient where the mask is empty.
  Berman et al. 2018, arXiv:1705.08790.
  """
  logits, label = _per_image(logits), _per_image(label)
  if known is None:
    hinge = jax.vmap(_lovasz_hinge)
    return (hinge(logits, label) + hinge(-logits, 1 - label)) / 2
  hinge, known = jax.vmap(_known_lovasz_hinge), _per_image(known)
  return (hinge(logits, label, known) + hinge(-logits, 1 - label, known)) / 2


def _lovasz_hinge(logits: jax.Array, label: jax.Array) -> jax.Array:
  errors = 1 - logits * (2 * label - 1)
  order = jnp.argsort(-errors)
  errors, label = errors[order], label[order]
  intersection = label.sum() - jnp.cumsum(label)
  union = label.sum() + jnp.cumsum(1 - label)
  # Sorted by error the union is never empty: its first pixel counts.
  jaccard = 1 - intersection / union
  steps = jnp.diff(jaccard, prepend=0.0)
  return jnp.dot(jax.nn.relu(errors), jax.lax.stop_gradient(steps))


def _known_lovasz_hinge(
  logits: jax.Array, label: jax.Array, known: jax.Array
) -> jax.Array:
  """The hinge of the pixels that are known: the others are sorted last."""
  errors = jnp.where(known > 0, 1 - logits * (2 * label - 1), -jnp.inf)
  order = jnp.argsort(-errors)
  errors, label, known = errors[order], label[order], known[order]
  positive, negative = label * known, (1 - label) * known
  intersection = positive.sum() - jnp.cumsum(positive)
  union = positive.sum() + jnp.cumsum(negative)
  # Without a known pixel it is empty.
  jaccard = 1 - (intersection + (union == 0)) / jnp.maximum(union, 1)
  steps = jnp.diff(jaccard, prepend=0.0)
  return jnp.dot(jax.nn.relu(errors), jax.lax.stop_gradient(steps))


def presence(logits: jax.Array, label: jax.Array) -> jax.Array:
  """Returns the cross-entropy of presence logits with labels, both f32[B]."""
  return optax.sigmoid_binary_cross_entropy(logits, label)


MASK_LOSSES: dict[str, MaskLoss] = {
  'bce': bce,
  'dice': dice,
  'batch_dice': batch_dice,
  'focal': focal,
  'lovasz': lovasz,
  'tversky': tversky,
}


def names(weights: Mapping[str, float]) -> tuple[str, ...]:
  """Returns the keys of what `compute` returns for these weights."""
  return ('loss', *(f'{name}_loss' for name, w in weights.items() if w))


def compute(
  outputs: Mapping[str, Any],
  label: jax.Array,
  *,
  weights: Mapping[str, float],
  truth: Truth | None = None,
) -> dict[str, jax.Array]:
  """Computes every loss with a weight, and their weighted sum.

  Args:
    outputs: What the network returns: `mask_logits` f32[B, H, W, 1],
      `presence_logit` f32[B] and, with deep supervision, `deep_logits`, a list
      of f32[B, H / s, W / s, 1].
    label: bool[B, H, W, 1].
    weights: By name: those of `MASK_LOSSES`, 'presence' and 'deep'.
    truth: What is known of the images, where that is not every mask.

  Returns:
    f32[B] by name: `bce_loss` and so on, and `loss`, the weighted sum, in which
    the losses of each image have its weights in `truth`. Losses of an image
    that lacks their truth mean nothing.

  Raises:
    ValueError: The shapes of mask and label differ.
  """
  if outputs['mask_logits'].shape != label.shape:
    raise ValueError(
      f'Shapes differ: {outputs["mask_logits"].shape} and {label.shape}.'
    )
  weights = {name: weight for name, weight in weights.items() if weight}
  known = None
  if truth is not None and truth.unknown is not None:
    known = ~truth.unknown
  parts = {
    name: _mask_loss(name, outputs['mask_logits'], label, known, truth)
    for name in MASK_LOSSES
    if name in weights
  }
  if 'presence' in weights:
    present = jnp.any(label, axis=(1, 2, 3)).astype(jnp.float32)
    if truth is not None and truth.label is not None:
      present = truth.label
    parts['presence'] = presence(outputs['presence_logit'], present)
  if 'deep' in weights:
    parts['deep'] = _deep(outputs['deep_logits'], label, known, truth, weights)
  weighted = [
    weights[name] * _weighted(name, part, truth) for name, part in parts.items()
  ]
  return {
    'loss': sum(weighted[1:], start=weighted[0]),
    **{f'{name}_loss': part for name, part in parts.items()},
  }


def _weighted(name: str, part: jax.Array, truth: Truth | None) -> jax.Array:
  """Returns a loss f32[B] times the weights of the images."""
  if truth is None:
    return part
  return part * (truth.presence if name == 'presence' else truth.mask)


def _mask_loss(
  name: str,
  logits: jax.Array,
  label: jax.Array,
  known: jax.Array | None,
  truth: Truth | None,
) -> jax.Array:
  """Returns one of `MASK_LOSSES`, f32[B]; label and known are bool."""
  if truth is not None and name == 'batch_dice':
    # Its sums run over images, some of which are unknown as a whole.
    images = jnp.broadcast_to(
      (truth.mask > 0).reshape(-1, 1, 1, 1), label.shape
    )
    known = images if known is None else images & known
  return MASK_LOSSES[name](
    logits,
    label.astype(jnp.float32),
    None if known is None else known.astype(jnp.float32),
  )


def _deep(
  deep_logits: list[jax.Array],
  label: jax.Array,
  known: jax.Array | None,
  truth: Truth | None,
  weights: Mapping[str, float],
) -> jax.Array:
  """Returns the mask losses at coarser strides, mean over strides, f32[B].

  A coarse pixel is positive where any of its pixels is, and known where all of
  them are.
  """
  total = jnp.zeros(len(label))
  for logits in deep_logits:
    batch, height, width, _ = logits.shape
    blocks = (batch, height, -1, width, label.shape[2] // width)
    coarse = label.reshape(blocks).any(axis=(2, 4))[..., None]
    coarse_known = (
      None
      if known is None
      else known.reshape(blocks).all(axis=(2, 4))[..., None]
    )
    for name in MASK_LOSSES:
      if name in weights:
        loss = _mask_loss(name, logits, coarse, coarse_known, truth)
        total += weights[name] * loss
  return total / len(deep_logits)


def _probs_and_label(
  logits: jax.Array, label: jax.Array, known: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
  """Returns both as f32[B, N]; 0 where the truth is unknown."""
  probs, label = _per_image(jax.nn.sigmoid(logits)), _per_image(label)
  if known is None:
    return probs, label
  known = _per_image(known)
  return probs * known, label * known


def _mean(loss: jax.Array, known: jax.Array | None) -> jax.Array:
  """Returns the mean f32[B] of f32[B, ...] over the known pixels; 0 of none."""
  loss = _per_image(loss)
  if known is None:
    return loss.mean(-1)
  known = _per_image(known)
  return (loss * known).sum(-1) / jnp.maximum(known.sum(-1), 1)


def _per_image(x: jax.Array) -> jax.Array:
  """Returns f32[B, ...] as f32[B, N]."""
  return x.reshape(len(x), -1)
