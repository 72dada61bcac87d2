"""Optimizer and learning-rate schedule from plain values."""

import jax
import jax.numpy as jnp
import optax

from pnx_jax.errors import check_known

_OPTIMIZERS = {
  'adamw': lambda rate, decay, mask: optax.adamw(
    rate, weight_decay=decay, mask=mask
  ),
  'sgd': lambda rate, decay, mask: optax.chain(
    optax.add_decayed_weights(decay, mask),
    optax.sgd(rate, momentum=0.9, nesterov=True),
  ),
}


def learning_rate(
  *, peak: float, warmup_steps: int, total_steps: int
) -> optax.Schedule:
  """Linear warm-up, then a cosine down to 0 at `total_steps` updates."""
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
  encoder_factor: float = 1.0,
  freeze_encoder_steps: int = 0,
) -> optax.GradientTransformation:
  """The optimizer: clip, update, hold the encoder back, accumulate.

  Weight decay acts on kernels alone (two or more axes). `schedule` and
  `freeze_encoder_steps` count updates, of which `accumulate_steps` batches
  make one.

  Raises:
    UserError: an unknown name; the nearest one is suggested.
  """
  check_known('optimizer', name, _OPTIMIZERS)
  parts = [
    _OPTIMIZERS[name](
      schedule,
      weight_decay,
      lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
    )
  ]
  if clip_norm:
    parts.insert(0, optax.clip_by_global_norm(clip_norm))
  if freeze_encoder_steps:
    # Before clipping: what does not move takes no share of the norm.
    parts.insert(0, _hold_encoder(1.0, freeze_encoder_steps))
  if encoder_factor != 1.0 or freeze_encoder_steps:
    parts.append(_hold_encoder(encoder_factor, freeze_encoder_steps))
  optimizer = optax.chain(*parts)
  if accumulate_steps > 1:
    multi = optax.MultiSteps(optimizer, every_k_schedule=accumulate_steps)
    optimizer = multi.gradient_transformation()
  return optimizer


def _hold_encoder(factor: float, freeze_steps: int):
  """Scales the encoder's updates; by 0 for the first `freeze_steps`."""

  def update(updates, state, params=None):
    del params
    scale = jnp.where(state.count < freeze_steps, 0.0, factor)
    held = {
      part: jax.tree.map(lambda x: x * scale, update)
      if part == 'encoder'
      else update
      for part, update in updates.items()
    }
    return held, optax.ScaleByScheduleState(
      count=optax.safe_increment(state.count)
    )

  def init(params):
    del params
    return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

  return optax.GradientTransformation(init, update)
