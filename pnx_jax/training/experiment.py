"""From a config to the objects of a run: here the config's fields end."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import optax

from pnx_jax.errors import UserError, check_known
from pnx_jax.input import pipeline
from pnx_jax.input.augment import Augmentation
from pnx_jax.input.sampling import Schedule
from pnx_jax.metrics.dice import SegmentationMetrics
from pnx_jax.models import segmenter
from pnx_jax.training import (
  durations,
  losses,
  optim,
  run_files,
  sharding,
  steps,
  train_state,
)

_LEAST = {
  'augmentation.affine': 0,
  'augmentation.crop_size': 0,
  'augmentation.displacement': 0,
  'augmentation.distortion': 0,
  'augmentation.flip': 0,
  'augmentation.intensity': 0,
  'augmentation.noise': 0,
  'augmentation.noise_probability': 0,
  'augmentation.rotate': 0,
  'augmentation.scale': 0,
  'augmentation.shift': 0,
  'augmentation.strength': 0,
  'average_checkpoints': 1,
  'batch_size': 1,
  'checkpoint_steps': 1,
  'eval.batch_size': 1,
  'eval.bootstrap': 1,
  'eval.checkpoints': 1,
  'eval.min_component': 0,
  'eval.num_overlays': 0,
  'eval.submission_size': 0,
  'image_size': 1,
  'log_steps': 1,
  **{f'losses.{name}': 0 for name in (*losses.MASK_LOSSES, 'presence', 'deep')},
  'model.depth': 1,
  'model.drop_path': 0,
  'model.output_stride': 1,
  'model.width': 1,
  'optimizer.accumulate_steps': 1,
  'optimizer.clip_norm': 0,
  'optimizer.ema_decay': 0,
  'optimizer.encoder_factor': 0,
  'optimizer.freeze_encoder_epochs': 0,
  'optimizer.learning_rate': 0,
  'optimizer.warmup_epochs': 0,
  'optimizer.weight_decay': 0,
  'read_threads': 1,
  'seed': 0,
}
_MOST = {
  'augmentation.affine': 1,
  'augmentation.distortion': 1,
  'augmentation.flip': 1,
  'augmentation.intensity': 1,
  'augmentation.noise_probability': 1,
  'model.drop_path': 1,
  'optimizer.ema_decay': 1,
}


def check_numbers(config: ml_collections.ConfigDict) -> None:
  """Raises UserError for a field that no run can have."""
  values = run_files.flat(config)
  for name, least in _LEAST.items():
    if values[name] < least:
      raise UserError(f'{name}={values[name]} must be at least {least}')
  for name, most in _MOST.items():
    if values[name] > most:
      raise UserError(f'{name}={values[name]} must be at most {most}')
  if values['total_steps'] is not None and values['total_steps'] < 1:
    raise UserError(f'total_steps={values["total_steps"]} must be at least 1')
  for name in ('model.pixel_prevalence', 'model.image_prevalence'):
    if not 0 < values[name] < 1:
      raise UserError(f'{name}={values[name]} must lie between 0 and 1')
  if not loss_weights(config):
    raise UserError('every weight in config.losses is 0: nothing to learn')
  if config.losses.deep:
    if not any(config.losses[name] for name in losses.MASK_LOSSES):
      raise UserError(
        'losses.deep repeats the mask losses at coarser strides: give one of '
        f'{", ".join(losses.MASK_LOSSES)} a weight, too'
      )
    if not config.model.deep_supervision or config.model.depth < 2:
      raise UserError(
        'losses.deep has a weight but the network has no deep heads; set '
        '--config.model.deep_supervision=true and a model.depth of 2 or more'
      )
  if config.model.normalisation == 'frozen' and not (
    config.pretrained or config.init_from
  ):
    raise UserError(
      "model.normalisation='frozen' keeps loaded statistics: set "
      '--config.pretrained or --config.init_from'
    )
  check_known(
    'compute_dtype', config.compute_dtype, ('auto', 'float32', 'bfloat16')
  )


def network(config: ml_collections.ConfigDict) -> nn.Module:
  """The network of a run."""
  return segmenter.create(
    **config.model, dtype=sharding.compute_dtype(config.compute_dtype)
  )


def abstract_variables(
  config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh
) -> Any:
  """Shapes and shardings of the network's variables."""
  init = functools.partial(
    train_state.init_variables,
    model=network(config),
    image_size=config.image_size,
  )
  return train_state.abstract(
    init, jax.random.key(0), sharding.replicated(mesh)
  )


def loader(
  config: ml_collections.ConfigDict, batch_size: int
) -> pipeline.Loader:
  """This process' share of batches of `batch_size`."""
  return pipeline.Loader(
    batch_size=batch_size,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    threads=config.read_threads,
  )


def loss_weights(config: ml_collections.ConfigDict) -> dict[str, float]:
  """The weights of the losses that are computed."""
  return {name: weight for name, weight in config.losses.items() if weight}


@dataclasses.dataclass(frozen=True)
class Experiment:
  """What a run trains with, made from its config."""

  dataset: pipeline.Dataset
  held_out: pipeline.Dataset
  schedule: Schedule
  durations: durations.Durations
  model: nn.Module
  learning_rate: optax.Schedule
  optimizer: optax.GradientTransformation
  metrics: type[SegmentationMetrics]
  image_size: int
  ema_decay: float
  loss_weights: dict[str, float]
  augmentation: Augmentation
  seed: int

  @classmethod
  def build(cls, config: ml_collections.ConfigDict) -> 'Experiment':
    """Raises UserError where the config asks for what there is not."""
    crop = config.augmentation.crop_size
    if crop > config.image_size:
      raise UserError(
        f'augmentation.crop_size={crop} does not fit into '
        f'image_size={config.image_size}; lower the one or raise the other'
      )
    side = crop or config.image_size
    segmenter.check_image((side, side, 1), depth=config.model.depth)
    train_splits, valid_splits = pipeline.split_names(
      config.data_dir, config.fold
    )
    dataset = pipeline.Dataset(config.data_dir, train_splits)
    held_out = pipeline.Dataset(config.data_dir, valid_splits)
    dataset.check_size(config.image_size)
    schedule = Schedule(
      dataset.labels, positive_share=config.positive_share, seed=config.seed
    )
    length = durations.resolve(config, schedule)
    recipe = config.optimizer
    weights = loss_weights(config)
    learning_rate = optim.learning_rate(
      peak=recipe.learning_rate,
      warmup_steps=length.warmup_updates,
      total_steps=length.total_updates,
    )
    optimizer = optim.create(
      name=recipe.name,
      schedule=learning_rate,
      weight_decay=recipe.weight_decay,
      clip_norm=recipe.clip_norm,
      accumulate_steps=recipe.accumulate_steps,
      encoder_factor=recipe.encoder_factor,
      freeze_encoder_steps=length.freeze_encoder_updates,
    )
    return cls(
      dataset=dataset,
      held_out=held_out,
      schedule=schedule,
      durations=length,
      model=network(config),
      learning_rate=learning_rate,
      optimizer=optimizer,
      metrics=SegmentationMetrics.with_losses(
        (*losses.names(weights), 'gradient_norm')
      ),
      image_size=config.image_size,
      ema_decay=recipe.ema_decay,
      loss_weights=weights,
      augmentation=Augmentation(**config.augmentation),
      seed=config.seed,
    )

  def create_state(self, key: jax.Array) -> train_state.TrainState:
    """The state before the first step."""
    return train_state.create(
      key,
      model=self.model,
      optimizer=self.optimizer,
      metrics=self.metrics,
      image_size=self.image_size,
      ema=self.ema_decay > 0,
    )

  @property
  def train_step(self) -> Callable:
    """`steps.train_step` of this run: `(state, batch)` to `(state, loss)`."""
    return functools.partial(
      steps.train_step,
      model=self.model,
      optimizer=self.optimizer,
      loss_weights=self.loss_weights,
      augmentation=self.augmentation,
      ema_decay=self.ema_decay,
      seed=self.seed,
    )
