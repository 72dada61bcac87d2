"""From a config to the objects of a run: here the config's fields end."""

import dataclasses
import functools
from typing import Any, Protocol

import flax.linen as nn
import jax
import optax

from pnx_jax.config import Config, loss_weights
from pnx_jax.errors import UserError
from pnx_jax.input import pipeline, sampling
from pnx_jax.input.augment import Augmentation
from pnx_jax.input.sampling import Schedule
from pnx_jax.metrics.dice import SegmentationMetrics
from pnx_jax.models import segmenter
from pnx_jax.training import (
  durations,
  losses,
  mean_teacher,
  optim,
  sharding,
  steps,
  train_state,
)
from pnx_jax.training.train_state import TrainState


class TrainStep(Protocol):
  """`steps.train_step` of a run: takes a batch, returns state and loss."""

  def __call__(
    self, state: TrainState, batch: dict[str, jax.Array]
  ) -> tuple[TrainState, jax.Array]: ...


def network(config: Config, *, platform: str) -> segmenter.Segmenter:
  """Returns the network of a run.

  Args:
    config: The config of the run.
    platform: Of the devices that compute: 'cpu', 'gpu' or 'tpu'.
  """
  dtype = sharding.compute_dtype(config.compute_dtype, platform=platform)
  return segmenter.create_model(**config.model, dtype=dtype, platform=platform)


def abstract_variables(config: Config, mesh: jax.sharding.Mesh) -> Any:
  """Returns shapes and shardings of the network's variables."""
  init = functools.partial(
    train_state.init_variables,
    model=network(config, platform=sharding.platform(mesh)),
    image_size=config.image_size,
  )
  return train_state.abstract(
    init, jax.random.key(0), sharding.replicated(mesh)
  )


def loader(config: Config, batch_size: int) -> pipeline.Loader:
  """Returns what loads this process' part of batches of `batch_size`."""
  return pipeline.Loader(
    batch_size=batch_size,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    threads=config.read_threads,
  )


@dataclasses.dataclass(frozen=True)
class Experiment:
  """What a run trains with, made from its config.

  Attributes:
    dataset: The images to train on.
    held_out: The images of the held-out fold.
    schedule: The order of the training images.
    durations: Steps, updates and what is due when.
    model: The network.
    learning_rate: Learning rate by number of updates.
    optimizer: The optimizer.
    metrics: The collection of the training metrics.
    batch_size: Images per step.
    image_size: Side of the square that the network sees.
    ema_decay: Decay of the averaged weights; 0 for none.
    loss_weights: Weights of the losses that are computed, by name.
    augmentation: The augmentation of the training images.
    accumulate_steps: Steps per update of the weights.
    seed: Seeds weights and augmentation.
    labeled_size: Annotated images per step.
    unlabeled: The images without annotation, where there is a teacher.
    teacher: How strongly the network is to agree with its averaged weights.
  """

  dataset: pipeline.Dataset
  held_out: pipeline.Dataset
  schedule: Schedule
  durations: durations.Durations
  model: nn.Module
  learning_rate: optax.Schedule
  optimizer: optax.GradientTransformation
  metrics: type[Any]  # CLU declares no types.
  batch_size: int
  image_size: int
  ema_decay: float
  loss_weights: dict[str, float]
  augmentation: Augmentation
  accumulate_steps: int
  seed: int
  labeled_size: int
  unlabeled: pipeline.Unlabeled | None
  teacher: mean_teacher.MeanTeacher | None

  @classmethod
  def build(cls, config: Config, *, platform: str) -> 'Experiment':
    """Makes the objects of a run.

    Args:
      config: The config of the run.
      platform: Of the devices that compute: 'cpu', 'gpu' or 'tpu'.

    Raises:
      UserError: The config does not fit to the dataset or to the network.
    """
    side = config.augmentation.crop_size or config.image_size
    segmenter.check_image((side, side, 1), depth=config.model.depth)
    train_splits, held_out_splits = pipeline.split_names(
      config.data_dir, config.fold
    )
    dataset = pipeline.Dataset(
      config.data_dir, train_splits, patient_share=config.patient_share
    )
    held_out = pipeline.Dataset(config.data_dir, held_out_splits)
    dataset.check_size(config.image_size)
    if not held_out.mask_known.any():
      raise UserError(
        f'no mask is known of any film in {", ".join(held_out_splits)} of '
        f'{config.data_dir}: the best checkpoint is chosen by the Dice there; '
        'build the dataset with films that have a mask, or with fewer folds'
      )
    schedule = Schedule(
      dataset.labels,
      positive_share=config.positive_share,
      seed=config.seed,
      sources=dataset.sources,
      source_weights=sampling.parse_weights(config.source_weights),
    )
    unlabeled = _unlabeled(config)
    labeled_size = config.batch_size
    if unlabeled is not None:
      labeled_size -= unlabeled.batch_size
      unlabeled.dataset.check_size(config.image_size)
    fields = config.optimizer
    length = durations.resolve(
      schedule,
      batch_size=labeled_size,
      total_epochs=config.total_epochs,
      total_steps=config.total_steps,
      eval_epochs=config.eval_epochs,
      log_steps=config.log_steps,
      checkpoint_steps=config.checkpoint_steps,
      warmup_epochs=fields.warmup_epochs,
      freeze_encoder_epochs=fields.freeze_encoder_epochs,
      ramp_epochs=config.mean_teacher.ramp_epochs,
      accumulate_steps=fields.accumulate_steps,
    )
    learning_rate = optim.learning_rate(
      peak=fields.learning_rate,
      warmup_steps=length.warmup_updates,
      total_steps=length.total_updates,
    )
    optimizer = optim.create(
      name=fields.name,
      schedule=learning_rate,
      weight_decay=fields.weight_decay,
      clip_norm=fields.clip_norm,
      accumulate_steps=fields.accumulate_steps,
      encoder_lr_factor=fields.encoder_lr_factor,
      freeze_encoder_steps=length.freeze_encoder_updates,
    )
    weights = loss_weights(config)
    loss_names = [*losses.names(weights), 'gradient_norm']
    teacher = None
    if unlabeled is not None:
      loss_names.append('consistency_loss')
      teacher = mean_teacher.MeanTeacher(
        weight=config.mean_teacher.weight,
        ramp_steps=length.ramp_steps,
        presence=weights.get('presence', 0.0),
      )
    return cls(
      dataset=dataset,
      held_out=held_out,
      schedule=schedule,
      durations=length,
      model=network(config, platform=platform),
      learning_rate=learning_rate,
      optimizer=optimizer,
      metrics=SegmentationMetrics.with_losses(loss_names),
      batch_size=config.batch_size,
      image_size=config.image_size,
      ema_decay=fields.ema_decay,
      loss_weights=weights,
      augmentation=Augmentation(**config.augmentation),
      accumulate_steps=fields.accumulate_steps,
      seed=config.seed,
      labeled_size=labeled_size,
      unlabeled=unlabeled,
      teacher=teacher,
    )

  def create_state(self, key: jax.Array) -> TrainState:
    """Returns the state before the first step."""
    return train_state.create(
      key,
      model=self.model,
      optimizer=self.optimizer,
      metrics=self.metrics,
      image_size=self.image_size,
      ema=self.ema_decay > 0,
    )

  @property
  def train_step(self) -> TrainStep:
    """`steps.train_step` with everything of this run."""
    return functools.partial(
      steps.train_step,
      model=self.model,
      optimizer=self.optimizer,
      loss_weights=self.loss_weights,
      augmentation=self.augmentation,
      ema_decay=self.ema_decay,
      seed=self.seed,
      teacher=self.teacher,
    )

  def learning_rate_of(self, step: int) -> float:
    """Returns the learning rate of a step, from 1."""
    return float(self.learning_rate((step - 1) // self.accumulate_steps))


def _unlabeled(config: Config) -> pipeline.Unlabeled | None:
  """Returns the images that have no annotation, where the run sees some.

  Raises:
    UserError: There are none, or their share of a batch is none or all.
  """
  share = config.mean_teacher.unlabeled_share
  if not share:
    return None
  size = round(share * config.batch_size)
  if not 0 < size < config.batch_size:
    raise UserError(
      f'mean_teacher.unlabeled_share={share} of batch_size='
      f'{config.batch_size} leaves no image without or none with an '
      'annotation: choose another share, or a larger batch'
    )
  for name, count in (
    ('unlabeled', size),
    ('annotated', config.batch_size - size),
  ):
    sharding.check_batch_size(count, f'the {name} part of batch_size')
  return pipeline.Unlabeled.read(
    config.data_dir, batch_size=size, seed=config.seed
  )
