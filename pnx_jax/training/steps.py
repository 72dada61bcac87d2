"""The two functions that run on the devices."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from pnx_jax.input.augment import Augmentation
from pnx_jax.metrics import dice
from pnx_jax.training import losses
from pnx_jax.training.train_state import TrainState

# The threshold of the Dice that is logged beside the best rule's.
PLAIN_THRESHOLD = 0.5


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
) -> tuple[TrainState, jax.Array]:
  """One batch: augment, differentiate, update, average, count.

  Returns:
    The next state, and the loss f32[] of this batch.
  """
  key = jax.random.fold_in(jax.random.key(seed), state.step)
  augment_key, dropout_key = jax.random.split(key)
  image, label = augmentation(augment_key, scaled(batch), batch['label'])
  constants = {k: v for k, v in state.variables.items() if k != 'params'}

  def loss(params):
    outputs, changed = model.apply(
      {'params': params, **constants},
      image,
      train=True,
      mutable=list(constants),
      rngs={'dropout': dropout_key},
    )
    parts = losses.compute(outputs, label, weights=loss_weights)
    return parts['loss'].mean(), (outputs, changed, parts)

  params = state.variables['params']
  (mean_loss, (outputs, changed, parts)), grads = jax.value_and_grad(
    loss, has_aux=True
  )(params)
  updates, opt_state = optimizer.update(grads, state.opt_state, params)
  variables = {'params': optax.apply_updates(params, updates), **changed}
  norm = jnp.full(len(image), optax.tree.norm(grads))
  window = state.metrics.single_from_model_output(
    **plain_dice(outputs, label), **parts, gradient_norm=norm
  )
  next_state = TrainState(
    step=state.step + 1,
    variables=variables,
    ema=averaged(state.ema, variables, state.step, decay=ema_decay),
    opt_state=opt_state,
    metrics=state.metrics.merge(window),
  )
  # An update that is not finite shows in the loss of its own batch.
  sane = jnp.isfinite(optax.tree.norm(variables['params']))
  return next_state, jnp.where(sane, mean_loss, jnp.nan)


def eval_step(
  variables,
  batch: dict[str, jax.Array],
  *,
  model: nn.Module,
  loss_weights: dict[str, float],
) -> dict[str, jax.Array]:
  """What every measure needs to know of each image.

  Returns:
    `probability` f32[B] of the presence head, without a loss of which it is
    that of the surest pixel, `label` bool[B], `dice` f32[B]
    at the plain threshold, the areas of `metrics.dice.threshold_areas`, the
    losses f32[B] by name, and the batch's `valid` and `index`.
  """
  outputs = model.apply(variables, scaled(batch), train=False)
  probs = jax.nn.sigmoid(outputs['mask_logits'])
  areas = dice.threshold_areas(probs[..., 0], batch['label'][..., 0])
  probability = jax.nn.sigmoid(outputs['presence_logit'])
  if 'presence' not in loss_weights:
    probability = probs.max(axis=(1, 2, 3))
  return {
    'probability': probability,
    **plain_dice(outputs, batch['label']),
    **areas,
    **losses.compute(outputs, batch['label'], weights=loss_weights),
    'valid': batch['valid'],
    'index': batch['index'],
  }


def scaled(batch) -> jax.Array:
  """The batch's intensities in 0..1, f32[B, S, S, 1]."""
  return batch['image'].astype(jnp.float32) / 255


def plain_dice(outputs, label) -> dict[str, jax.Array]:
  """`dice` f32[B] at PLAIN_THRESHOLD, and `label` bool[B]."""
  predicted = jax.nn.sigmoid(outputs['mask_logits']) > PLAIN_THRESHOLD

  def area(mask):
    return mask.sum(axis=(1, 2, 3))

  return {
    'dice': dice.dice(area(predicted & label), area(predicted), area(label)),
    'label': label.any(axis=(1, 2, 3)),
  }


def averaged(ema, variables, step, *, decay: float):
  """The moving average after a step, or None where there is none.

  Early on it forgets faster, so that the first weights do not linger.
  """
  if ema is None:
    return None
  decay = jnp.minimum(decay, (1 + step) / (10 + step))
  return optax.incremental_update(variables, ema, 1 - decay)
