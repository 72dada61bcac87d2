"""The training step of a recipe without its data, for benchmarks."""

import functools
import importlib
from collections.abc import Callable
from typing import Any

from pnx_jax.config import Config, loss_weights
from pnx_jax.input.augment import Augmentation
from pnx_jax.metrics.dice import SegmentationMetrics
from pnx_jax.training import experiment, losses, optim, steps, train_state
from pnx_jax.training.train_state import TrainState


def config_of(recipe: str, **fields: Any) -> Config:
  """The config of a recipe such as 'resunet:resnet34', with changed fields."""
  name, _, variant = recipe.partition(':')
  module = importlib.import_module(f'configs.{name}')
  config = module.get_config(*([variant] if variant else []))
  config.update_from_flattened_dict(fields)
  return config


def training_step(
  config: Config, *, platform: str
) -> tuple[experiment.TrainStep, Callable[..., TrainState]]:
  """The training step of a config, and what creates its state; no data."""
  weights = loss_weights(config)
  model = experiment.network(config, platform=platform)
  optimizer = optim.create(
    name=config.optimizer.name,
    schedule=optim.learning_rate(peak=1e-3, warmup_steps=10, total_steps=1000),
    weight_decay=config.optimizer.weight_decay,
    clip_norm=config.optimizer.clip_norm,
  )
  state = functools.partial(
    train_state.create,
    model=model,
    optimizer=optimizer,
    metrics=SegmentationMetrics.with_losses(
      (*losses.names(weights), 'gradient_norm')
    ),
    image_size=config.image_size,
    ema=config.optimizer.ema_decay > 0,
  )
  step = functools.partial(
    steps.train_step,
    model=model,
    optimizer=optimizer,
    loss_weights=weights,
    augmentation=Augmentation(**config.augmentation),
    ema_decay=config.optimizer.ema_decay,
    seed=config.seed,
  )
  return step, state
