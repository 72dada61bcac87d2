"""Everything that a training step changes, as one pytree."""

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
    step: i32[], the number of batches trained on.
    variables: `params` and, where the network has them, `batch_stats`.
    ema: The moving average of `variables`, or None.
    opt_state: State of the optimizer.
    metrics: Sums since the last log line, so that a resumed run logs what the
      uninterrupted one would have.
  """

  step: jax.Array
  variables: Any
  ema: Any
  opt_state: optax.OptState
  metrics: clu.metrics.Collection

  @property
  def best_variables(self) -> Any:
    """The weights to validate and to predict with."""
    return self.variables if self.ema is None else self.ema


def abstract(
  create: Callable[[jax.Array], Any],
  key: jax.Array,
  sharding: jax.sharding.Sharding,
) -> Any:
  """Returns shapes and shardings of `create(key)`, without computing it."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
    jax.eval_shape(create, key),
  )


def init_variables(key: jax.Array, *, model: nn.Module, image_size: int) -> Any:
  """Returns the network's `params` and `batch_stats` before training."""
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
  """Returns the state before the first step; use under jit or eval_shape.

  Args:
    key: Random key of the weights.
    model: The network.
    optimizer: The optimizer.
    metrics: The collection of the training metrics.
    image_size: Side of the square that the network sees.
    ema: Whether to keep a moving average of the variables.
  """
  variables = init_variables(key, model=model, image_size=image_size)
  return TrainState(
    step=jnp.zeros([], jnp.int32),
    variables=variables,
    # A copy: donated buffers may not be used twice.
    ema=jax.tree.map(jnp.copy, variables) if ema else None,
    opt_state=optimizer.init(variables['params']),
    metrics=metrics.empty(),
  )
