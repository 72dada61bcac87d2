"""The training of one fold, from top to bottom as things happen."""

import functools
import logging
import os

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from pnx_jax.errors import UserError
from pnx_jax.input import pipeline
from pnx_jax.models import pretrained
from pnx_jax.models.cpu import compiled
from pnx_jax.training import (
  durations,
  overview,
  preemption,
  sharding,
  validate,
)
from pnx_jax.training import experiment as experiments
from pnx_jax.training import run_files as workdirs
from pnx_jax.training import train_state as states
from pnx_jax.training.checkpoint import Checkpoints
from pnx_jax.training.events import Events, prefixed
from pnx_jax.training.progress import Progress

_logger = logging.getLogger(__name__)

# Batches in flight on the devices; more would only hold memory.
_LOOKAHEAD = 2


def train(
  config: ml_collections.ConfigDict, workdir: str | os.PathLike
) -> dict[str, float] | None:
  """Trains `config.fold`, going on from the newest checkpoint.

  Args:
    config: as in configs/default.py.
    workdir: `config.json` and `fold<i>/{checkpoints,events}` are written here.

  Returns:
    The scores of the last validation, empty where the run was finished before;
    None where a signal ended it.

  Raises:
    UserError: wrong config, data or workdir; the text says what to do.
    FloatingPointError: the loss is not finite; its batch is saved.
  """
  experiments.check_numbers(config)
  mesh = sharding.mesh()
  replicated = sharding.replicated(mesh)
  sharding.check_batch_size(config.batch_size, 'batch_size')
  sharding.check_batch_size(config.eval.batch_size, 'eval.batch_size')
  profiled = durations.profiled_steps(config.profile_steps)
  run = experiments.Experiment.build(config)
  total_steps = run.durations.total_steps

  # XLA takes several times as long to compile the default generator's draws.
  key = jax.random.key(config.seed, impl='rbg')
  abstract = states.abstract(run.create_state, key, replicated)
  train_step = compiled.jit(
    run.train_step, donate_argnums=0, out_shardings=replicated
  )
  empty_metrics = jax.jit(run.metrics.empty, out_shardings=replicated)
  validation = validate.Validation(
    run.held_out,
    model=run.model,
    loss_weights=run.loss_weights,
    image_size=config.image_size,
    loader=experiments.loader(config, config.eval.batch_size),
    mesh=mesh,
  )

  workdirs.check_same_run(workdir, config)
  seen = [record.image_id for record in run.dataset.records]
  if config.init_from:
    seen = _seen_before(config, workdir, seen, run.held_out)
  workdirs.check_same_images(workdir, config.fold, seen)
  fold_dir = workdirs.fold_dir(workdir, config.fold)
  with (
    Checkpoints(
      workdirs.checkpoint_dir(workdir, config.fold),
      keep_best=config.average_checkpoints,
    ) as checkpoints,
    preemption.watch() as stop,
  ):
    # The run's own newest checkpoint, else another run's best, else published
    # encoder weights, else scratch.
    state = checkpoints.restore_latest(abstract)
    if state is None:
      state = jax.jit(run.create_state, out_shardings=replicated)(key)
      state = _started(config, state, abstract.variables)
    workdirs.write(workdir, config, seen)
    first_step = int(state.step)
    if stop(first_step):
      _logger.info('Stopped at step %d; the same command goes on.', first_step)
      return None
    # A run that was asked to stop left its validation to this one.
    owed = first_step in run.durations.eval_steps - checkpoints.scored_steps()
    if first_step >= total_steps and not owed:
      _logger.info('Fold %d is trained: %d steps.', config.fold, first_step)
      return {}
    _logger.info(
      'Parameters:\n%s', overview.table(abstract.variables['params'])
    )
    _logger.info(
      'Fold %d: training on %d images (%d positive), validating on %d, '
      'step %d to %d.',
      config.fold,
      len(run.dataset),
      run.dataset.labels.sum(),
      len(run.held_out),
      first_step,
      total_steps,
    )

    batches_from = functools.partial(
      pipeline.training_batches,
      run.dataset,
      run.schedule,
      image_size=config.image_size,
      loader=experiments.loader(config, config.batch_size),
    )
    batches = sharding.prefetch(
      batches_from(first_step=first_step, last_step=total_steps), mesh
    )
    progress = Progress(
      first_step=first_step,
      total_steps=total_steps,
      batch_size=config.batch_size,
    )
    recent_losses = []
    tracing = False
    scores = {}
    with Events(fold_dir / 'events', first_step=first_step + 1) as events:
      events.text(first_step, 'config', _as_markdown(config))
      if owed:
        scores = validation.log(state, first_step, events)
        events.flush()
        checkpoints.save(first_step, state, score=scores['dice'])
        if first_step >= total_steps:
          events.hyperparameters(workdirs.flat(config), scores)

      if first_step < total_steps:
        _logger.info('Compiling the training step, which can take minutes ...')
      for step in range(first_step + 1, total_steps + 1):
        if step in profiled and not tracing:
          jax.profiler.start_trace(fold_dir / 'events')
          tracing = True
        with progress.waiting():
          batch = next(batches)
        with jax.transfer_guard('disallow'):
          state, loss = train_step(state, batch)
        recent_losses.append(loss)
        if len(recent_losses) > _LOOKAHEAD:
          jax.block_until_ready(recent_losses[-1 - _LOOKAHEAD])
        stopping = stop(step)
        finished = step == total_steps
        if tracing and (step + 1 not in profiled or stopping or finished):
          jax.block_until_ready(loss)
          jax.profiler.stop_trace()
          tracing = False
        log_due = step % config.log_steps == 0 or finished
        eval_due = step in run.durations.eval_steps and not stopping
        save_due = step % config.checkpoint_steps == 0 or stopping or eval_due
        if log_due or save_due:
          _check_finite(
            recent_losses,
            step,
            batches_from,
            run,
            fold_dir,
            accumulate_steps=config.optimizer.accumulate_steps,
          )
          recent_losses.clear()
        if log_due:
          values = jax.device_get(state.metrics).compute()
          state = state.replace(metrics=empty_metrics())
          _log(config, run, step, values, progress, events)
        with progress.paused():
          if eval_due:
            scores = validation.log(state, step, events)
          if save_due:
            events.flush()
            score = scores['dice'] if eval_due else None
            checkpoints.save(step, state, score=score)
        if finished and eval_due:
          events.hyperparameters(workdirs.flat(config), scores)
        if stopping:
          checkpoints.wait()
          _logger.info(
            'Stopped and saved at step %d; the same command goes on.', step
          )
          return None
  return scores


def _log(config, run, step, values, progress, events):
  """Writes the open window's means to TensorBoard and to the terminal."""
  rates = progress.report(step)
  epoch = run.schedule.epoch(step * config.batch_size)
  update = (step - 1) // config.optimizer.accumulate_steps
  scalars = {
    **prefixed('train', values),
    **prefixed('speed', rates | sharding.memory()),
    'train/learning_rate': run.learning_rate(update),
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
    values['loss'],
    values['dice'],
    rates['images_per_second'],
    100 * rates['input_wait'],
    progress.remaining,
  )


def _started(config, state, abstract):
  """The state with the weights that the config says to start from."""
  if config.init_from:
    workdirs.load(config.init_from)
    directory = workdirs.checkpoint_dir(config.init_from, config.fold)
    with Checkpoints(directory, create=False) as checkpoints:
      from_steps, variables = checkpoints.restore_best(abstract)
    _logger.info('Starting from %s, step %d.', directory, from_steps[0])
  elif config.pretrained:
    variables = pretrained.load(
      config.pretrained, state.variables, encoder=config.model.encoder
    )
    variables = jax.tree.map(
      lambda x, like: jax.device_put(x, like.sharding), variables, abstract
    )
    _logger.info('Starting from the encoder weights of %s.', config.pretrained)
  else:
    return state
  # Two copies, because the step donates both.
  ema = None if state.ema is None else jax.tree.map(jnp.copy, variables)
  return state.replace(variables=variables, ema=ema)


def _seen_before(config, workdir, seen, held_out):
  """`seen` and what the run that this one starts from was trained on."""
  before = workdirs.trained_on(
    config.init_from, config.fold
  ) or workdirs.trained_on(workdir, config.fold)
  leaked = before & {record.image_id for record in held_out.records}
  if leaked:
    raise UserError(
      f'init_from={config.init_from} was trained on {len(leaked)} of the '
      'images that are held out here: use the same build and fold for both'
    )
  return sorted(before | set(seen))


def _check_finite(
  recent_losses, step, batches_from, run, fold_dir, *, accumulate_steps
):
  """Raises on the first loss that is not finite, and saves its batch."""
  for place, loss in enumerate(jax.device_get(recent_losses)):
    if np.isfinite(loss):
      continue
    bad = step - len(recent_losses) + place + 1
    path = fold_dir / f'bad_batch_{bad}_{jax.process_index()}.npz'
    batch = next(batches_from(first_step=bad - 1, last_step=bad))
    np.savez_compressed(path, **batch)
    update = (bad - 1) // accumulate_steps
    better = (
      f'; --config.init_from={fold_dir.parent} starts from the best weights'
      if any((fold_dir / 'checkpoints').glob('[0-9]*'))
      else ''
    )
    raise FloatingPointError(
      f'the loss of step {bad} is {loss} (learning rate '
      f'{run.learning_rate(update):.2g}); its batch is in {path}. Train in '
      'another --workdir with a lower --config.optimizer.learning_rate'
      f'{better}'
    )


def _as_markdown(config):
  """The config and the commit it ran at, for TensorBoard's text page."""
  rows = [
    f'    {name} = {value}' for name, value in workdirs.flat(config).items()
  ]
  return '\n'.join([f'commit {workdirs.commit()}', '', *rows])
