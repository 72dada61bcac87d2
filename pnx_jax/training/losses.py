"""The losses, f32[B] each: one number per image; the caller reduces them.

`MASK_LOSSES` are functions of the mask's logits f32[B, ...] and of its label
f32[B, ...] of 0 and 1. `compute` returns those that have a weight, and their
weighted sum.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

_FOCAL_GAMMA = 2.0
_TVERSKY_FALSE_POSITIVE, _TVERSKY_FALSE_NEGATIVE = 0.3, 0.7


def bce(logits: jax.Array, label: jax.Array) -> jax.Array:
  """Returns the binary cross-entropy, mean over pixels."""
  return _per_image(optax.sigmoid_binary_cross_entropy(logits, label)).mean(-1)


def focal(logits: jax.Array, label: jax.Array) -> jax.Array:
  """Returns the focal loss with gamma 2, mean over pixels.

  Lin et al. 2017, arXiv:1708.02002.
  """
  return _per_image(
    optax.sigmoid_focal_loss(logits, label, gamma=_FOCAL_GAMMA)
  ).mean(-1)


def dice(logits: jax.Array, label: jax.Array) -> jax.Array:
  """Returns 1 - soft Dice of each image.

  Both sums are smoothed by one pixel, so that an image without pneumothorax
  has loss 0 when the prediction is empty and has a gradient until then.
  Milletari et al. 2016, arXiv:1606.04797.
  """
  probs, label = _per_image(jax.nn.sigmoid(logits)), _per_image(label)
  intersection = jnp.sum(probs * label, axis=-1)
  total = jnp.sum(probs + label, axis=-1)
  return 1 - (2 * intersection + 1) / (total + 1)


def batch_dice(logits: jax.Array, label: jax.Array) -> jax.Array:
  """Returns 1 - soft Dice of all pixels of the batch, the same for each image.

  Large masks weigh more than in `dice`, and images without a pneumothorax
  count through the pixels that are predicted on them.
  """
  return jnp.broadcast_to(dice(logits[None], label[None]), len(logits))


def tversky(logits: jax.Array, label: jax.Array) -> jax.Array:
  """Returns 1 - Tversky index; missed pixels cost more than false ones.

  Salehi et al. 2017, arXiv:1706.05721.
  """
  probs, label = _per_image(jax.nn.sigmoid(logits)), _per_image(label)
  intersection = jnp.sum(probs * label, axis=-1)
  false_positive = jnp.sum(probs * (1 - label), axis=-1)
  false_negative = jnp.sum((1 - probs) * label, axis=-1)
  return 1 - (intersection + 1) / (
    intersection
    + _TVERSKY_FALSE_POSITIVE * false_positive
    + _TVERSKY_FALSE_NEGATIVE * false_negative
    + 1
  )


def lovasz(logits: jax.Array, label: jax.Array) -> jax.Array:
  """Returns the symmetric Lovasz hinge.

  The mean of the hinge on the mask and on its complement, as the competition's
  3rd place used it: the complement has a gradient where the mask is empty.
  Berman et al. 2018, arXiv:1705.08790.
  """
  logits, label = _per_image(logits), _per_image(label)
  hinge = jax.vmap(_lovasz_hinge)
  return (hinge(logits, label) + hinge(-logits, 1 - label)) / 2


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


def presence(logits: jax.Array, label: jax.Array) -> jax.Array:
  """Returns the cross-entropy of presence logits with labels, both f32[B]."""
  return optax.sigmoid_binary_cross_entropy(logits, label)


MASK_LOSSES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
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
  outputs: Mapping[str, Any], label: jax.Array, *, weights: Mapping[str, float]
) -> dict[str, jax.Array]:
  """Computes every loss with a weight, and their weighted sum.

  Args:
    outputs: What the network returns: `mask_logits` f32[B, H, W, 1],
      `presence_logit` f32[B] and, with deep supervision, `deep_logits`, a list
      of f32[B, H / s, W / s, 1].
    label: bool[B, H, W, 1].
    weights: By name: those of `MASK_LOSSES`, 'presence' and 'deep'.

  Returns:
    f32[B] by name: `bce_loss` and so on, and `loss`, the weighted sum.

  Raises:
    ValueError: The shapes of mask and label differ.
  """
  if outputs['mask_logits'].shape != label.shape:
    raise ValueError(
      f'Shapes differ: {outputs["mask_logits"].shape} and {label.shape}.'
    )
  weights = {name: weight for name, weight in weights.items() if weight}
  parts = {
    name: function(outputs['mask_logits'], label.astype(jnp.float32))
    for name, function in MASK_LOSSES.items()
    if name in weights
  }
  if 'presence' in weights:
    any_pixel = jnp.any(label, axis=(1, 2, 3)).astype(jnp.float32)
    parts['presence'] = presence(outputs['presence_logit'], any_pixel)
  if 'deep' in weights:
    parts['deep'] = _deep(outputs['deep_logits'], label, weights)
  weighted = [weights[name] * part for name, part in parts.items()]
  return {
    'loss': sum(weighted[1:], start=weighted[0]),
    **{f'{name}_loss': part for name, part in parts.items()},
  }


def _deep(
  deep_logits: list[jax.Array], label: jax.Array, weights: Mapping[str, float]
) -> jax.Array:
  """Returns the mask losses at coarser strides, mean over strides, f32[B].

  A coarse pixel is positive where any of its pixels is.
  """
  total = jnp.zeros(len(label))
  for logits in deep_logits:
    batch, height, width, _ = logits.shape
    blocks = (batch, height, -1, width, label.shape[2] // width)
    coarse = label.reshape(blocks).any(axis=(2, 4))[..., None]
    for name, function in MASK_LOSSES.items():
      if name in weights:
        total += weights[name] * function(logits, coarse.astype(jnp.float32))
  return total / len(deep_logits)


def _per_image(x: jax.Array) -> jax.Array:
  """Returns f32[B, ...] as f32[B, N]."""
  return x.reshape(len(x), -1)
