"""The training step and the evaluation step, which run on the devices."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from pnx_jax.input.augment import Augmentation
from pnx_jax.metrics import dice
from pnx_jax.training import losses, mean_teacher
from pnx_jax.training.mean_teacher import MeanTeacher
from pnx_jax.training.train_state import TrainState

# The threshold of the Dice that is logged beside the best rule's.
PLAIN_THRESHOLD = 0.5
# `jax.random.split` into two takes 0 and 1.
_TEACHER_STREAM = 2


def train_step(
  state: TrainState,
  batch: dict[str, jax.Array],
  *,
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  loss_weights: dict[str, float],
  augmentation: Augmentation,
  ema_decay: float,
  seed: int,
  teacher: MeanTeacher | None = None,
) -> tuple[TrainState, jax.Array]:
  """Augments a batch, updates the weights and their average, and counts.

  Args:
    state: The state before the step.
    batch: `image` u8[B, S, S, 1] and `label` bool[B, S, S, 1]; where not every
      mask is known, also what `input.pipeline` adds then; with a teacher also
      `unlabeled` u8[U, S, S, 1], images without annotation.
    model: The network.
    optimizer: The optimizer.
    loss_weights: Weights of the losses, by name.
    augmentation: The augmentation.
    ema_decay: Decay of the averaged weights.
    seed: Seeds augmentation and dropout, together with the step's number.
    teacher: How strongly the network is to agree with its averaged weights on
      the unlabeled images.

  Returns:
    The next state, and the loss f32[] of this batch; NaN where the weights are
    not finite any more.
  """
  key = jax.random.fold_in(jax.random.key(seed), state.step)
  augment_key, dropout_key = jax.random.split(key)
  image, label, truth = _augmented(augmentation, augment_key, batch)
  seen, views = image, None
  if teacher is not None:
    views = mean_teacher.views(
      jax.random.fold_in(key, _TEACHER_STREAM),
      scaled(batch['unlabeled']),
      model=model,
      variables=state.ema,
      augmentation=augmentation,
    )
    seen = jnp.concatenate([image, views.image])
  constants = {k: v for k, v in state.variables.items() if k != 'params'}

  def loss(params: Any) -> tuple[jax.Array, Any]:
    outputs, changed = model.apply(
      {'params': params, **constants},
      seen,
      train=True,
      mutable=list(constants),
      rngs={'dropout': dropout_key},
    )
    if teacher is None:
      parts = losses.compute(outputs, label, weights=loss_weights, truth=truth)
      return parts['loss'].mean(), (outputs, changed, parts)
    others = jax.tree.map(lambda x: x[len(image) :], outputs)
    outputs = jax.tree.map(lambda x: x[: len(image)], outputs)
    parts = losses.compute(outputs, label, weights=loss_weights, truth=truth)
    mean = teacher.consistency(others, views).mean()
    total = parts['loss'].mean() + teacher.weight_at(state.step) * mean
    parts['consistency_loss'] = jnp.full(len(image), mean)
    return total, (outputs, changed, parts)

  params = state.variables['params']
  (mean_loss, (outputs, changed, parts)), grads = jax.value_and_grad(
    loss, has_aux=True
  )(params)
  updates, opt_state = optimizer.update(grads, state.opt_state, params)
  variables = {'params': optax.apply_updates(params, updates), **changed}
  norm = jnp.full(len(image), optax.tree.norm(grads))
  window = state.metrics.single_from_model_output(
    **plain_dice(outputs, label),
    **parts,
    gradient_norm=norm,
    known=_known(batch, loss_weights),
  )
  next_state = TrainState(
    step=state.step + 1,
    variables=variables,
    ema=_averaged(state.ema, variables, state.step, decay=ema_decay),
    opt_state=opt_state,
    metrics=state.metrics.merge(window),
  )
  # An update that is not finite shows in the loss of its own batch.
  finite = jnp.isfinite(optax.tree.norm(variables['params']))
  return next_state, jnp.where(finite, mean_loss, jnp.nan)


def eval_step(
  variables: Any,
  batch: dict[str, jax.Array],
  *,
  model: nn.Module,
  loss_weights: dict[str, float],
) -> dict[str, jax.Array]:
  """Computes what all metrics need to know of each image.

  Args:
    variables: The network's `params` and `batch_stats`.
    batch: `image` u8[B, S, S, 1], `label` bool[B, S, S, 1], `valid` bool[B] and
      `index` i32[B]; where not every mask is known, also `mask_weight`,
      `presence_weight` and `presence` f32[B].
    model: The network.
    loss_weights: Weights of the losses, by name.

  Returns:
    `probability` f32[B] of the presence head, or the maximum pixel probability
    if that head has no loss; `label` bool[B]; `dice` f32[B] at the plain
    threshold; the areas of `metrics.dice.threshold_areas`; the losses f32[B]
    by name; and the batch's `valid` and `index`. Where not every mask is known,
    also `mask_known` bool[B], without which the areas, the Dice and the losses
    of the mask mean nothing, and `label` is that of the record.
  """
  outputs = model.apply(variables, scaled(batch['image']), train=False)
  probs = jax.nn.sigmoid(outputs['mask_logits'])
  areas = dice.threshold_areas(probs[..., 0], batch['label'][..., 0])
  probability = jax.nn.sigmoid(outputs['presence_logit'])
  if 'presence' not in loss_weights:
    probability = probs.max(axis=(1, 2, 3))
  truth = _truth(batch, None)
  computed = {
    'probability': probability,
    **plain_dice(outputs, batch['label']),
    **areas,
    **losses.compute(
      outputs, batch['label'], weights=loss_weights, truth=truth
    ),
    'valid': batch['valid'],
    'index': batch['index'],
  }
  if truth is not None:
    computed['mask_known'] = truth.mask > 0
    computed['label'] = batch['presence'] > 0
  return computed


def _augmented(
  augmentation: Augmentation, key: jax.Array, batch: Mapping[str, jax.Array]
) -> tuple[jax.Array, jax.Array, losses.Truth | None]:
  """Returns image and label of a batch, augmented, and what is known of it."""
  if 'unknown' not in batch:
    image, label = augmentation(key, scaled(batch['image']), batch['label'])
    return image, label, _truth(batch, None)
  labels = jnp.concatenate([batch['label'], batch['unknown']], axis=-1)
  image, labels = augmentation(key, scaled(batch['image']), labels)
  return image, labels[..., :1], _truth(batch, labels[..., 1:])


def _truth(
  batch: Mapping[str, jax.Array], unknown: jax.Array | None
) -> losses.Truth | None:
  """Returns what is known of a batch, None where every mask is."""
  if 'mask_weight' not in batch:
    return None
  return losses.Truth(
    mask=batch['mask_weight'],
    presence=batch['presence_weight'],
    label=batch.get('presence'),
    unknown=unknown,
  )


def _known(
  batch: Mapping[str, jax.Array], loss_weights: Mapping[str, float]
) -> dict[str, jax.Array]:
  """Returns by metric which images count, bool[B]; all where it lacks one."""
  if 'mask_weight' not in batch:
    return {}
  mask = batch['mask_weight'] > 0
  known = {
    f'{name}_loss': batch['presence_weight'] > 0 if name == 'presence' else mask
    for name in loss_weights
  }
  if 'unknown' in batch:
    mask &= ~batch['unknown'].any(axis=(1, 2, 3))
  return {**known, 'dice': mask}


def scaled(image: jax.Array) -> jax.Array:
  """Returns images u8[B, S, S, 1] as f32[B, S, S, 1] in 0..1."""
  return image.astype(jnp.float32) / 255


def plain_dice(
  outputs: Mapping[str, Any], label: jax.Array
) -> dict[str, jax.Array]:
  """Returns `dice` f32[B] at PLAIN_THRESHOLD and `label` bool[B].

  Args:
    outputs: What the network returns; `mask_logits` f32[B, S, S, 1].
    label: bool[B, S, S, 1].
  """
  predicted = jax.nn.sigmoid(outputs['mask_logits']) > PLAIN_THRESHOLD

  def area(mask: jax.Array) -> jax.Array:
    return mask.sum(axis=(1, 2, 3))

  return {
    'dice': dice.dice(area(predicted & label), area(predicted), area(label)),
    'label': label.any(axis=(1, 2, 3)),
  }


def _averaged(
  ema: Any, variables: Any, step: jax.Array, *, decay: float
) -> Any:
  """Returns the moving average after a step, or None where there is none.

  The decay is smaller at first, so that the first weights are soon forgotten.
  """
  if ema is None:
    return None
  decay = jnp.minimum(decay, (1 + step) / (10 + step))
  return optax.incremental_update(variables, ema, 1 - decay)
