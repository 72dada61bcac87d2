"""The optimizer and its learning-rate schedule."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pnx_jax.errors import check_known


def _adamw(
  rate: optax.Schedule, decay: float, mask: Callable[[Any], Any]
) -> optax.GradientTransformation:
  return optax.adamw(rate, weight_decay=decay, mask=mask)


def _sgd(
  rate: optax.Schedule, decay: float, mask: Callable[[Any], Any]
) -> optax.GradientTransformation:
  return optax.chain(
    optax.add_decayed_weights(decay, mask),
    optax.sgd(rate, momentum=0.9, nesterov=True),
  )


OPTIMIZERS = {'adamw': _adamw, 'sgd': _sgd}


def learning_rate(
  *, peak: float, warmup_steps: int, total_steps: int
) -> optax.Schedule:
  """Returns linear warm-up, then a cosine down to 0.

  Args:
    peak: The learning rate after the warm-up.
    warmup_steps: Updates of the warm-up.
    total_steps: Updates of the run.
  """
  return optax.warmup_cosine_decay_schedule(
    init_value=0.0,
    peak_value=peak,
    warmup_steps=min(warmup_steps, total_steps - 1),
    decay_steps=total_steps,
  )


def create(
  *,
  name: str,
  schedule: optax.Schedule,
  weight_decay: float = 0.0,
  clip_norm: float = 0.0,
  accumulate_steps: int = 1,
  encoder_lr_factor: float = 1.0,
  freeze_encoder_steps: int = 0,
) -> optax.GradientTransformation:
  """Returns the optimizer: clip, update, scale the encoder's, accumulate.

  Args:
    name: A name in `OPTIMIZERS`.
    schedule: Learning rate by number of updates.
    weight_decay: Of kernels, which have two or more axes.
    clip_norm: Largest global norm of the gradient; 0 = no clipping.
    accumulate_steps: Batches per update.
    encoder_lr_factor: The encoder's learning rate over the decoder's.
    freeze_encoder_steps: Updates before the encoder's parameters change.

  Raises:
    UserError: The name is unknown; the nearest one is suggested.
  """
  check_known('optimizer', name, OPTIMIZERS)
  parts = [
    OPTIMIZERS[name](
      schedule,
      weight_decay,
      lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
    )
  ]
  if clip_norm:
    parts.insert(0, optax.clip_by_global_norm(clip_norm))
  if freeze_encoder_steps:
    # Before clipping: frozen parameters do not count in the norm.
    parts.insert(0, _scale_encoder(1.0, freeze_encoder_steps))
  if encoder_lr_factor != 1.0 or freeze_encoder_steps:
    parts.append(_scale_encoder(encoder_lr_factor, freeze_encoder_steps))
  optimizer = optax.chain(*parts)
  if accumulate_steps > 1:
    multi = optax.MultiSteps(optimizer, every_k_schedule=accumulate_steps)
    optimizer = multi.gradient_transformation()
  return optimizer


def _scale_encoder(
  factor: float, freeze_steps: int
) -> optax.GradientTransformation:
  """Scales the encoder's updates; by 0 for the first `freeze_steps`."""

  def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    del params
    scale = jnp.where(state.count < freeze_steps, 0.0, factor)
    scaled = {
      part: jax.tree.map(lambda x: x * scale, update)
      if part == 'encoder'
      else update
      for part, update in updates.items()
    }
    return scaled, optax.ScaleByScheduleState(
      count=optax.safe_increment(state.count)
    )

  def init(params: Any) -> optax.ScaleByScheduleState:
    del params
    return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

  return optax.GradientTransformation(init, update)
