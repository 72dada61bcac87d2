"""Everything that training changes, as one pytree."""

from collections.abc import Callable
from typing import Any

import clu.metrics
import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax


@flax.struct.dataclass
class TrainState:
  """What a checkpoint holds.

  Attributes:
    step: i32[], the number of batches seen.
    variables: `params` and, where the network has them, `batch_stats`.
    ema: the moving average of `variables`, or None.
    opt_state: of the optimizer.
    metrics: sums since the last line of the log, so that a resumed run logs
      what the uninterrupted one would have.
  """

  step: jax.Array
  variables: Any
  ema: Any
  opt_state: optax.OptState
  metrics: clu.metrics.Collection

  @property
  def best_variables(self):
    """What validation, checkpoints' scores and predictions use."""
    return self.variables if self.ema is None else self.ema


def abstract(create: Callable, key, sharding: jax.sharding.Sharding) -> Any:
  """Shapes and shardings of what `create(key)` makes, without making it."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
    jax.eval_shape(create, key),
  )


def init_variables(key: jax.Array, *, model: nn.Module, image_size: int):
  """The network's `params` and `batch_stats` before training."""
  image = jnp.zeros((1, image_size, image_size, 1))
  return model.init(key, image, train=False)


def create(
  key: jax.Array,
  *,
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  metrics: type[clu.metrics.Collection],
  image_size: int,
  ema: bool,
) -> TrainState:
  """A state before the first step; call it under `jit` or `eval_shape`."""
  variables = init_variables(key, model=model, image_size=image_size)
  return TrainState(
    step=jnp.zeros([], jnp.int32),
    variables=variables,
    # A copy: donated buffers may not be used twice.
    ema=jax.tree.map(jnp.copy, variables) if ema else None,
    opt_state=optimizer.init(variables['params']),
    metrics=metrics.empty(),
  )
