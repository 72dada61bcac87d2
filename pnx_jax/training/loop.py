"""The training steps of a fold, and what is due after each of them."""

import logging
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from pnx_jax.training import sharding
from pnx_jax.training.checkpoint import Checkpoints
from pnx_jax.training.events import Events, prefixed
from pnx_jax.training.experiment import Experiment
from pnx_jax.training.loss_check import LossCheck
from pnx_jax.training.profiling import Profiler
from pnx_jax.training.programs import Programs
from pnx_jax.training.progress import Progress
from pnx_jax.training.train_state import TrainState

_logger = logging.getLogger(__name__)


class Loop:
  """Trains a fold from some step to the end, or until a signal.

  Args:
    run: The run.
    programs: Its compiled functions.
    fold_dir: Folder of the fold.
    checkpoints: Takes the states.
    events: Takes losses, scores and pictures for TensorBoard.
    profiler: Traces some of the steps.
    record: What each checkpoint records of the run; see `run_seal.record`.
  """

  def __init__(
    self,
    run: Experiment,
    programs: Programs,
    *,
    fold_dir: pathlib.Path,
    checkpoints: Checkpoints,
    events: Events,
    profiler: Profiler,
    record: dict[str, Any],
  ):
    self._run = run
    self._programs = programs
    self._checkpoints = checkpoints
    self._events = events
    self._profiler = profiler
    self._record = record
    self._losses = LossCheck(
      fold_dir,
      batch=lambda step: next(
        programs.batches(first_step=step - 1, last_step=step)
      ),
      learning_rate=run.learning_rate_of,
    )
    self._scores: dict[str, float] = {}

  def train(
    self, state: TrainState, stop_requested: Callable[[int], bool]
  ) -> dict[str, float] | None:
    """Takes the steps that are left.

    Args:
      state: The state to start from.
      stop_requested: Whether to save and end after a step; see
        `preemption.watch`.

    Returns:
      The scores of the last validation; None where a signal ended the loop.

    Raises:
      LossNotFiniteError: A loss is not finite; its batch is saved.
    """
    first_step, total_steps = int(state.step), self._run.durations.total_steps
    batches = sharding.prefetch(
      self._programs.batches(first_step=first_step, last_step=total_steps),
      self._programs.mesh,
    )
    progress = Progress(
      first_step=first_step,
      total_steps=total_steps,
      batch_size=self._run.batch_size,
    )
    for step in range(first_step + 1, total_steps + 1):
      self._profiler.before(step)
      with progress.waiting():
        batch = next(batches)
      with jax.transfer_guard('disallow'):
        state, loss = self._programs.train_step(state, batch)
      self._losses.add(loss)
      stopping = stop_requested(step)
      self._profiler.after(step, loss, last=stopping or step == total_steps)

      due = self._run.durations.due(step, stopping=stopping)
      if due.log or due.checkpoint:
        self._losses.check(step)
      if due.log:
        state = self._log_metrics(state, step, progress)
      with progress.paused():
        if due.validation:
          self.validate_and_save(state, step)
        elif due.checkpoint:
          self._save(state, step, score=None)
      if stopping:
        self._checkpoints.wait()
        _logger.info(
          'Stopped and saved at step %d; run the same command to resume.', step
        )
        return None
    return self._scores

  def validate_and_save(self, state: TrainState, step: int) -> None:
    """Scores the weights after a step and saves the state with its score."""
    self._scores = self._programs.validation.run(state, step, self._events)
    self._save(state, step, score=self._scores['dice'])

  def _save(self, state: TrainState, step: int, *, score: float | None) -> None:
    self._events.flush()
    self._checkpoints.save(step, state, score=score, record=self._record)

  def _log_metrics(
    self, state: TrainState, step: int, progress: Progress
  ) -> TrainState:
    """Writes the means since the last log line to TensorBoard and the log.

    Returns:
      The state with metrics of no step.
    """
    metrics = jax.device_get(state.metrics).compute()
    rates = progress.report(step)
    schedule = self._run.schedule
    epoch = schedule.epoch(step * self._run.labeled_size)
    scalars = {
      **prefixed('train', metrics),
      **prefixed('speed', rates | sharding.memory()),
      'train/learning_rate': self._run.learning_rate_of(step),
      'train/positive_share': schedule.share(int(epoch)),
      'train/epoch': epoch,
    }
    self._events.scalars(step, scalars)
    _logger.info(
      'step %d/%d  epoch %.1f  loss %.4f  dice %.3f  '
      '%.1f images/s  input wait %.1f%%  %s left',
      step,
      self._run.durations.total_steps,
      epoch,
      metrics['loss'],
      metrics['dice'],
      rates['images_per_second'],
      100 * rates['input_wait'],
      progress.remaining,
    )
    return state.replace(metrics=self._programs.empty_metrics())
