"""Training, from top to bottom in the order things happen."""

import functools
import logging
import os
from typing import Any

import jax
import jax.numpy as jnp

from pnx_jax.config import Config, check_config, flatten
from pnx_jax.errors import UserError
from pnx_jax.input import pipeline
from pnx_jax.models import compiled, pretrained
from pnx_jax.training import (
  experiment,
  fold_lock,
  overview,
  preemption,
  profiling,
  run_files,
  run_seal,
  sharding,
  train_state,
)
from pnx_jax.training.checkpoint import Checkpoints
from pnx_jax.training.events import Events, prefixed
from pnx_jax.training.experiment import Experiment
from pnx_jax.training.loss_check import LossCheck
from pnx_jax.training.profiling import Profiler
from pnx_jax.training.progress import Progress
from pnx_jax.training.train_state import TrainState
from pnx_jax.training.validate import Validation

_logger = logging.getLogger(__name__)


def train(
  config: Config,
  workdir: str | os.PathLike[str],
  *,
  accept_edited: bool = False,
) -> dict[str, float] | None:
  """Trains `config.fold`, from its newest checkpoint where there is one.

  Args:
    config: As in configs/default.py.
    workdir: `config.json` and `fold<i>/{checkpoints,events}` are written here.
    accept_edited: Resume although config.json or trained_on.json changed after
      the last checkpoint.

  Returns:
    The scores of the last validation, empty where the fold was trained before;
    None where a signal asked to stop, in the last validation at the latest.

  Raises:
    UserError: Config, data or workdir are wrong; the text says what to do.
    FloatingPointError: The loss is not finite; its batch is saved.
  """
  check_config(config)
  edited = run_seal.check(workdir, config.fold, accept_edited=accept_edited)
  mesh = sharding.mesh()
  replicated = sharding.replicated(mesh)
  sharding.check_batch_size(config.batch_size, 'batch_size')
  sharding.check_batch_size(config.eval.batch_size, 'eval.batch_size')
  profiled_steps = profiling.parse_steps(config.profile_steps)
  run = Experiment.build(config, platform=sharding.platform(mesh))
  total_steps = run.durations.total_steps

  # XLA takes several times as long to compile the default generator's draws.
  key = jax.random.key(config.seed, impl='rbg')
  abstract_state = train_state.abstract(run.create_state, key, replicated)
  create_state = jax.jit(run.create_state, out_shardings=replicated)
  empty_metrics = jax.jit(run.metrics.empty, out_shardings=replicated)
  train_step = compiled.jit(
    run.train_step, donate_argnums=0, out_shardings=replicated
  )
  validation = Validation(
    run.held_out,
    model=run.model,
    loss_weights=run.loss_weights,
    image_size=config.image_size,
    loader=experiment.loader(config, config.eval.batch_size),
    mesh=mesh,
  )
  batches_from = functools.partial(
    pipeline.training_batches,
    run.dataset,
    run.schedule,
    image_size=config.image_size,
    loader=experiment.loader(config, config.batch_size),
  )

  run_files.check_same_run(workdir, config)
  trained_on = _images_of_training(config, workdir, run)
  run_files.check_same_images(workdir, config.fold, trained_on)
  fold_dir = run_files.fold_dir(workdir, config.fold)
  with (
    fold_lock.held(fold_dir),
    Checkpoints(
      run_files.checkpoint_dir(workdir, config.fold),
      keep_best=config.average_checkpoints,
    ) as checkpoints,
    preemption.watch() as stop_requested,
  ):
    # The fold's own newest checkpoint, else another run's best weights, else
    # published encoder weights, else random ones.
    state = checkpoints.restore_latest(abstract_state)
    if state is None:
      state = _with_initial_weights(
        config, create_state(key), abstract_state.variables
      )
    run_files.write(workdir, config, trained_on)
    record = run_seal.record(config, trained_on)
    first_step = int(state.step)
    if stop_requested(first_step):
      _logger.info(
        'Stopped at step %d; run the same command to resume.', first_step
      )
      return None
    # A run that was stopped left this validation to the one that resumes.
    validation_missing = (
      first_step in run.durations.validation_steps - checkpoints.scored_steps()
    )
    if first_step >= total_steps and not validation_missing:
      _logger.info('Fold %d is trained: %d steps.', config.fold, first_step)
      return {}
    _log_start(config.fold, run, abstract_state, first_step)

    batches = sharding.prefetch(
      batches_from(first_step=first_step, last_step=total_steps), mesh
    )
    losses = LossCheck(
      fold_dir,
      batch=lambda step: next(
        batches_from(first_step=step - 1, last_step=step)
      ),
      learning_rate=run.learning_rate_of,
    )
    profiler = Profiler(fold_dir / 'events', steps=profiled_steps)
    progress = Progress(
      first_step=first_step,
      total_steps=total_steps,
      batch_size=config.batch_size,
    )
    scores = {}
    with Events(fold_dir / 'events', first_step=first_step + 1) as events:
      events.text(first_step, 'config', _as_markdown(config, edited))
      if validation_missing:
        scores = validation.run(state, first_step, events)
        events.flush()
        checkpoints.save(first_step, state, score=scores['dice'], record=record)

      for step in range(first_step + 1, total_steps + 1):
        profiler.before(step)
        with progress.waiting():
          batch = next(batches)
        with jax.transfer_guard('disallow'):
          state, loss = train_step(state, batch)
        losses.add(loss)
        stopping = stop_requested(step)
        profiler.after(step, loss, last=stopping or step == total_steps)

        due = run.durations.due(step, stopping=stopping)
        if due.log or due.checkpoint:
          losses.check(step)
        if due.log:
          metrics = jax.device_get(state.metrics).compute()
          state = state.replace(metrics=empty_metrics())
          _log_metrics(metrics, step, run, progress, events)
        with progress.paused():
          if due.validation:
            scores = validation.run(state, step, events)
          if due.checkpoint:
            events.flush()
            score = scores['dice'] if due.validation else None
            checkpoints.save(step, state, score=score, record=record)
        if stopping:
          checkpoints.wait()
          _logger.info(
            'Stopped and saved at step %d; run the same command to resume.',
            step,
          )
          return None

      events.hyperparameters(flatten(config), scores)
    # A signal during the last validation keeps the next fold from starting.
    return None if stop_requested(total_steps + 1) else scores


def train_folds(
  config: Config,
  workdir: str | os.PathLike[str],
  *,
  accept_edited: bool = False,
) -> None:
  """Trains every fold, one after another, until a signal stops one.

  A task of a SLURM job array trains one fold, that of its number.

  Args:
    config: As in `train`; its fold has no effect.
    workdir: As in `train`.
    accept_edited: As in `train`.

  Raises:
    UserError: As in `train`.
    FloatingPointError: As in `train`.
  """
  folds = range(len(pipeline.folds(config.data_dir)))
  task = os.environ.get('SLURM_ARRAY_TASK_ID')
  for fold in folds if task is None else [int(task)]:
    config.fold = fold
    if train(config, workdir, accept_edited=accept_edited) is None:
      return


def _images_of_training(
  config: Config, workdir: str | os.PathLike[str], run: Experiment
) -> list[str]:
  """Returns the ids of all images that the weights are trained on.

  Raises:
    UserError: A leak: the run that this one starts from was trained on images
      that are held out here.
  """
  trained_on = {record.image_id for record in run.dataset.records}
  if config.init_from:
    before = run_files.trained_on(
      config.init_from, config.fold
    ) or run_files.trained_on(workdir, config.fold)
    leaked = before & {record.image_id for record in run.held_out.records}
    if leaked:
      raise UserError(
        f'init_from={config.init_from} was trained on {len(leaked)} of the '
        'images that are held out here: use the same build and fold for both'
      )
    trained_on |= before
  return sorted(trained_on)


def _with_initial_weights(
  config: Config, state: TrainState, abstract_variables: Any
) -> TrainState:
  """Returns the state with the weights that the config starts from."""
  if config.init_from:
    run_files.load(config.init_from)
    directory = run_files.checkpoint_dir(config.init_from, config.fold)
    with Checkpoints(directory, create=False) as checkpoints:
      steps, variables = checkpoints.restore_best(abstract_variables)
    _logger.info('Starting from %s, step %d.', directory, steps[0])
  elif config.pretrained:
    variables = pretrained.load(
      config.pretrained, state.variables, encoder=config.model.encoder
    )
    variables = jax.tree.map(
      lambda x, like: jax.device_put(x, like.sharding),
      variables,
      abstract_variables,
    )
    _logger.info('Starting from the encoder weights of %s.', config.pretrained)
  else:
    return state
  # Two copies, because the training step donates both.
  ema = None if state.ema is None else jax.tree.map(jnp.copy, variables)
  return state.replace(variables=variables, ema=ema)


def _log_start(
  fold: int, run: Experiment, abstract_state: TrainState, first_step: int
) -> None:
  _logger.info(
    'Parameters:\n%s', overview.table(abstract_state.variables['params'])
  )
  _logger.info(
    'Fold %d: training on %d images (%d positive), validating on %d, '
    'step %d to %d.',
    fold,
    len(run.dataset),
    run.dataset.labels.sum(),
    len(run.held_out),
    first_step,
    run.durations.total_steps,
  )
  if first_step < run.durations.total_steps:
    _logger.info('Compiling the training step, which can take minutes ...')


def _log_metrics(
  metrics: dict[str, float],
  step: int,
  run: Experiment,
  progress: Progress,
  events: Events,
) -> None:
  """Writes the means since the last log line to TensorBoard and the log."""
  rates = progress.report(step)
  epoch = run.schedule.epoch(step * progress.batch_size)
  scalars = {
    **prefixed('train', metrics),
    **prefixed('speed', rates | sharding.memory()),
    'train/learning_rate': run.learning_rate_of(step),
    'train/positive_share': run.schedule.share(int(epoch)),
    'train/epoch': epoch,
  }
  events.scalars(step, scalars)
  _logger.info(
    'step %d/%d  epoch %.1f  loss %.4f  dice %.3f  '
    '%.1f images/s  input wait %.1f%%  %s left',
    step,
    run.durations.total_steps,
    epoch,
    metrics['loss'],
    metrics['dice'],
    rates['images_per_second'],
    100 * rates['input_wait'],
    progress.remaining,
  )


def _as_markdown(config: Config, edited: list[str]) -> str:
  """The config, the commit of the code and the files that were edited."""
  rows = [f'    {name} = {value}' for name, value in flatten(config).items()]
  accepted = [f'edited, accepted: {file}' for file in edited]
  return '\n'.join([f'commit {run_files.commit()}', *accepted, '', *rows])
