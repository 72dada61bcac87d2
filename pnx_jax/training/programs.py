"""The compiled functions of a run on its devices, and their batches."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax

from pnx_jax.config import Config
from pnx_jax.input import pipeline
from pnx_jax.models import compiled
from pnx_jax.training import (
  compilation,
  experiment,
  sharding,
  train_state,
)
from pnx_jax.training.experiment import Experiment, TrainStep
from pnx_jax.training.train_state import TrainState
from pnx_jax.training.validate import Validation


class Programs:
  """What a run computes with; each function is compiled at its first call.

  Attributes:
    mesh: All devices.
    abstract_state: Shapes and shardings of the training state.
    random_state: Returns the state before the first step.
    empty_metrics: Returns training metrics of no step.
    train_step: Takes state and batch; returns the next state and the loss.
    validation: Scores weights on the held-out images.
    batches: Yields training batches; takes `first_step` and `last_step`.
  """

  mesh: jax.sharding.Mesh
  abstract_state: TrainState
  random_state: Callable[[], TrainState]
  empty_metrics: Callable[[], Any]
  train_step: TrainStep
  validation: Validation
  batches: Callable[..., Iterator[sharding.Batch]]

  def __init__(self, run: Experiment, config: Config, mesh: jax.sharding.Mesh):
    replicated = sharding.replicated(mesh)
    self.mesh = mesh
    # XLA takes several times as long to compile the default generator's draws.
    key = jax.random.key(config.seed, impl='rbg')
    self.abstract_state = train_state.abstract(
      run.create_state, key, replicated
    )
    self.random_state = functools.partial(
      compilation.announced(
        jax.jit(run.create_state, out_shardings=replicated),
        'the initial weights',
      ),
      key,
    )
    self.empty_metrics = jax.jit(run.metrics.empty, out_shardings=replicated)
    self.train_step = compilation.announced(
      compiled.jit(run.train_step, donate_argnums=0, out_shardings=replicated),
      'the training step',
    )
    self.validation = Validation(
      run.held_out,
      model=run.model,
      loss_weights=run.loss_weights,
      image_size=config.image_size,
      loader=experiment.loader(config, config.eval.batch_size),
      mesh=mesh,
    )
    self.batches = functools.partial(
      pipeline.training_batches,
      run.dataset,
      run.schedule,
      image_size=config.image_size,
      loader=experiment.loader(config, run.labeled_size),
      accumulate_steps=run.accumulate_steps,
      cropped=config.augmentation.crop_size > 0,
      unlabeled=run.unlabeled,
    )
