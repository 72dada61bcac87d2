"""Training, from top to bottom in the order things happen."""

import logging
import os

from pnx_jax.config import Config, check_config, flatten
from pnx_jax.input import pipeline
from pnx_jax.storage.local import WorkingCopy
from pnx_jax.training import (
  fold_lock,
  initial_weights,
  overview,
  preemption,
  profiling,
  run_copy,
  run_files,
  run_seal,
  sharding,
)
from pnx_jax.training.checkpoint import Checkpoints
from pnx_jax.training.events import Events
from pnx_jax.training.experiment import Experiment
from pnx_jax.training.loop import Loop
from pnx_jax.training.profiling import Profiler
from pnx_jax.training.programs import Programs
from pnx_jax.training.train_state import TrainState

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
    workdir: `config.json` and `fold<i>/{checkpoints,events}` are written here;
      a folder or an address in a bucket.
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
  with run_copy.of_fold(workdir, config) as copy:
    return _train(config, copy, accept_edited=accept_edited)


def _train(
  config: Config, copy: WorkingCopy, *, accept_edited: bool
) -> dict[str, float] | None:
  """Trains as `train` does, in a local folder."""
  workdir = copy.path
  edited = run_seal.check(workdir, config.fold, accept_edited=accept_edited)
  mesh = sharding.mesh()
  sharding.check_batch_size(config.batch_size, 'batch_size')
  sharding.check_batch_size(config.eval.batch_size, 'eval.batch_size')
  profiled_steps = profiling.parse_steps(config.profile_steps)
  run = Experiment.build(config, platform=sharding.platform(mesh))
  programs = Programs(run, config, mesh)

  run_files.check_same_run(workdir, config)
  films = run_files.check_same_images(
    workdir, config.fold, initial_weights.films_seen(config, workdir, run)
  )
  fold_dir = run_files.fold_dir(workdir, config.fold)
  with (
    fold_lock.held(fold_dir),
    Checkpoints(
      run_files.checkpoint_dir(workdir, config.fold),
      keep_best=config.average_checkpoints,
      publish=copy.publish if copy.is_published else None,
    ) as checkpoints,
    preemption.watch() as stop_requested,
  ):
    # The fold's own newest checkpoint, else another run's best weights, else
    # published encoder weights, else random ones.
    state = checkpoints.restore_latest(programs.abstract_state)
    if state is None:
      state = initial_weights.load(
        config, programs.random_state(), programs.abstract_state.variables
      )
    run_files.write(workdir, config, films)
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
    total_steps = run.durations.total_steps
    if first_step >= total_steps and not validation_missing:
      _logger.info('Fold %d is trained: %d steps.', config.fold, first_step)
      return {}
    _log_start(config.fold, run, programs.abstract_state, first_step)

    with Events(fold_dir / 'events', first_step=first_step + 1) as events:
      events.text(first_step, 'config', _as_markdown(config, edited))
      loop = Loop(
        run,
        programs,
        fold_dir=fold_dir,
        checkpoints=checkpoints,
        events=events,
        profiler=Profiler(fold_dir / 'events', steps=profiled_steps),
        record=run_seal.record(config, films),
      )
      if validation_missing:
        loop.validate_and_save(state, first_step)
      scores = loop.train(state, stop_requested)
      if scores is None:
        return None
      events.hyperparameters(flatten(config), scores)
    # A signal while the last weights are scored and saved keeps the next fold
    # from starting.
    checkpoints.wait()
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
  run_copy.configure(config)
  folds = range(len(pipeline.folds(config.data_dir)))
  task = os.environ.get('SLURM_ARRAY_TASK_ID')
  for fold in folds if task is None else [int(task)]:
    config.fold = fold
    if train(config, workdir, accept_edited=accept_edited) is None:
      return


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
  marked = run.dataset.mask_known
  if not marked.all():
    _logger.info(
      'The masks of %d of the positive images are known; positive_share counts '
      'all of them.',
      run.dataset.labels[marked].sum(),
    )
  if run.unlabeled is not None:
    _logger.info(
      'Mean teacher: %d of %d images of a step are of %d without annotation.',
      run.unlabeled.batch_size,
      run.labeled_size + run.unlabeled.batch_size,
      len(run.unlabeled.dataset),
    )


def _as_markdown(config: Config, edited: list[str]) -> str:
  """The config, the commit of the code and the files that were edited."""
  rows = [f'    {name} = {value}' for name, value in flatten(config).items()]
  accepted = [f'edited, accepted: {file}' for file in edited]
  return '\n'.join([f'commit {run_files.commit()}', *accepted, '', *rows])
