"""Losses: f32[B] each, from logits and labels; reduction is the caller's.

`compute` holds the table of every known loss; a weight of 0 is not computed.
"""

import jax
import jax.numpy as jnp
import optax

_FOCAL_GAMMA = 2.0
_TVERSKY_FALSE_POSITIVE, _TVERSKY_FALSE_NEGATIVE = 0.3, 0.7


def bce(logits, label):
  """Binary cross-entropy, mean over pixels.

  Args:
    logits: f32[B, ...].
    label: f32[B, ...] of 0 and 1.

  Returns:
    f32[B].
  """
  return _per_image(optax.sigmoid_binary_cross_entropy(logits, label)).mean(-1)


def focal(logits, label):
  """Focal loss with gamma 2, mean over pixels (Lin et al. 2017, 1708.02002)."""
  return _per_image(
    optax.sigmoid_focal_loss(logits, label, gamma=_FOCAL_GAMMA)
  ).mean(-1)


def dice(logits, label):
  """1 - soft Dice of each image (Milletari et al. 2016, arXiv:1606.04797).

  Both sums are smoothed by one pixel, so that an image without pneumothorax
  costs nothing when the prediction is empty and has a gradient until then.
  """
  probs, label = _per_image(jax.nn.sigmoid(logits)), _per_image(label)
  both = jnp.sum(probs * label, axis=-1)
  total = jnp.sum(probs + label, axis=-1)
  return 1 - (2 * both + 1) / (total + 1)


def batch_dice(logits, label):
  """1 - soft Dice of all pixels of the batch, the same for every image.

  Large masks weigh more than in `dice`, and images without a pneumothorax
  count through the pixels that are predicted on them.
  """
  return jnp.broadcast_to(dice(logits[None], label[None]), len(logits))


def tversky(logits, label):
  """1 - Tversky index, misses dearer (Salehi et al. 2017, arXiv:1706.05721)."""
  probs, label = _per_image(jax.nn.sigmoid(logits)), _per_image(label)
  both = jnp.sum(probs * label, axis=-1)
  false_positive = jnp.sum(probs * (1 - label), axis=-1)
  false_negative = jnp.sum((1 - probs) * label, axis=-1)
  return 1 - (both + 1) / (
    both
    + _TVERSKY_FALSE_POSITIVE * false_positive
    + _TVERSKY_FALSE_NEGATIVE * false_negative
    + 1
  )


def lovasz(logits, label):
  """Symmetric Lovasz hinge (Berman et al. 2018, arXiv:1705.08790).

  The mean of the hinge on the mask and on its complement, as the 3rd place
  used it: the complement keeps a gradient where the mask is empty.
  """
  logits, label = _per_image(logits), _per_image(label)
  hinge = jax.vmap(_lovasz_hinge)
  return (hinge(logits, label) + hinge(-logits, 1 - label)) / 2


def _lovasz_hinge(logits, label):
  errors = 1 - logits * (2 * label - 1)
  order = jnp.argsort(-errors)
  errors, label = errors[order], label[order]
  intersection = label.sum() - jnp.cumsum(label)
  union = label.sum() + jnp.cumsum(1 - label)
  # Sorted by error the union is never empty: its first pixel counts.
  jaccard = 1 - intersection / union
  steps = jnp.diff(jaccard, prepend=0.0)
  return jnp.dot(jax.nn.relu(errors), jax.lax.stop_gradient(steps))


def presence(logits, label):
  """Cross-entropy of the presence logit f32[B] with 'any pixel' f32[B]."""
  return optax.sigmoid_binary_cross_entropy(logits, label)


MASK_LOSSES = {
  'bce': bce,
  'dice': dice,
  'batch_dice': batch_dice,
  'focal': focal,
  'lovasz': lovasz,
  'tversky': tversky,
}


def names(weights):
  """What `compute` calls the losses that have a weight."""
  return ('loss', *(f'{name}_loss' for name, w in weights.items() if w))


def compute(outputs, label, *, weights):
  """Every loss with a weight above 0, and their weighted sum.

  Args:
    outputs: of the network: `mask_logits` f32[B, H, W, 1], `presence_logit`
      f32[B] and, with deep supervision, `deep_logits`, a list of
      f32[B, H / s, W / s, 1].
    label: bool[B, H, W, 1].
    weights: weight by name.

  Returns:
    f32[B] by name: `bce_loss` and so on, and `loss`, the weighted sum.
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
  total = sum(weights[name] * part for name, part in parts.items())
  return {
    'loss': total,
    **{f'{name}_loss': part for name, part in parts.items()},
  }


def _deep(deep_logits, label, weights):
  """The mask losses at the decoder's coarser strides, mean over strides.

  A coarse pixel is positive where any of its pixels is.
  """
  total = 0.0
  for logits in deep_logits:
    batch, height, width, _ = logits.shape
    blocks = (batch, height, -1, width, label.shape[2] // width)
    coarse = label.reshape(blocks).any(axis=(2, 4))[..., None]
    for name, function in MASK_LOSSES.items():
      if name in weights:
        total += weights[name] * function(logits, coarse.astype(jnp.float32))
  return total / len(deep_logits)


def _per_image(x):
  return x.reshape(len(x), -1)
