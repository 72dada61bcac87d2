"""Checkpoints: the newest and the best are kept, damage is detected.

Orbax restores a flipped byte silently as wrong numbers, so each checkpoint has
the checksums of its arrays. A damaged one is logged and the one before it is
restored; if all are damaged that is an error, never a silent fresh start.
"""

import contextlib
import json
import logging
import os
import pathlib
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import (
  AnyPreservationPolicy,
  BestN,
  LatestN,
)

from pnx_jax.errors import UserError
from pnx_jax.formats import files
from pnx_jax.storage import local
from pnx_jax.training import checkpoint_sums
from pnx_jax.training.checkpoint_sums import SCORE
from pnx_jax.training.train_state import TrainState

_logger = logging.getLogger(__name__)


def _is_needed(record: logging.LogRecord) -> bool:
  """Whether a line of Orbax tells what is not told or raised otherwise."""
  # Most checkpoints are not scored; it warns at each of them.
  unscored = record.getMessage().startswith('Requested `tracked_metric')
  # What it fails to read or write is raised, too.
  raised = bool(record.exc_info) and 'orbax' in record.pathname
  return not (unscored or raised)


absl_logging.get_absl_logger().addFilter(_is_needed)

# The one before the newest is there in case the newest is damaged.
_KEEP_LATEST = 2
_NONE = (
  'no checkpoint in {}; train that fold first: `python launch.py --config=...`'
)
# Orbax's own errors fill a page.
_REASON_LENGTH = 200


class Checkpoints:
  """The checkpoints of one fold; use as a context manager.

  A checkpoint consists of items that can be read one by one: `variables`,
  `ema` and `training` (all else), each with its checksums.

  Args:
    directory: The folder of the checkpoints.
    keep_best: Number of checkpoints kept for their score, beside the newest.
    create: Whether to make the folder.
    publish: Called in the background after each checkpoint that is complete.

  Attributes:
    directory: The folder of the checkpoints, absolute.

  Raises:
    UserError: The folder cannot be made, or is missing.
  """

  def __init__(
    self,
    directory: str | os.PathLike[str],
    *,
    keep_best: int = 1,
    create: bool = True,
    publish: Callable[[], None] | None = None,
  ):
    self._publishing = _Publishing(publish)
    self.directory: str = os.path.abspath(directory)
    files.check_name(self.directory)
    first = jax.process_index() == 0
    # Of local copies each process has its own, and that of the first counts.
    apart = jax.process_count() > 1 and local.is_copy(self.directory)
    self._apart = apart
    self._saves = first or not apart
    self._repairs = first or apart
    if create:
      try:
        os.makedirs(self.directory, exist_ok=True)
      except OSError as error:
        raise UserError(
          f'cannot write {self.directory}: {error.strerror}'
        ) from None
    elif not os.path.isdir(self.directory):
      raise UserError(_NONE.format(self.directory))
    self._restore_scores()
    policy = AnyPreservationPolicy(
      [
        LatestN(_KEEP_LATEST),
        BestN(
          get_metric_fn=_score,
          n=keep_best,
          keep_checkpoints_without_metrics=False,
        ),
      ]
    )
    self._manager = ocp.CheckpointManager(
      self.directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=policy,
        best_fn=_score,
        best_mode='max',
        create=False,
        multiprocessing_options=ocp.options.MultiprocessingOptions(
          primary_host=jax.process_index() if apart else 0,
          active_processes={jax.process_index()} if apart else None,
        ),
      ),
    )

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    with self._explained():
      self._publishing.join()
      self._manager.wait_until_finished()
      self._manager.close()

  def save(
    self,
    step: int,
    state: TrainState,
    *,
    score: float | None = None,
    record: dict[str, Any] | None = None,
  ) -> None:
    """Saves in the background.

    Args:
      step: The number of the step; saved without a score before, it is saved
        again with one.
      state: What to save.
      score: The best checkpoints are those with the highest score.
      record: What is recorded of the run's files; see `run_seal`.

    Raises:
      UserError: This checkpoint or the one before it cannot be written, for
        example because the disk is full.
    """
    if not self._saves:
      return
    with self._explained():
      self._publishing.wait()
    if step in self._manager.all_steps():
      if score is None or step in self.scored_steps():
        return
      # Killed here, the run resumes from the one before and saves this again.
      self._manager.delete(step)
    items = _items(state)
    sums = checkpoint_sums.of_checkpoint(items, score=score, record=record)
    if self._apart:  # Orbax expects parts of every process in jax.Arrays.
      items = jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), items)
    with self._explained():
      self._manager.save(
        step,
        args=ocp.args.Composite(
          checksums=ocp.args.JsonSave(sums),
          **{name: ocp.args.StandardSave(item) for name, item in items.items()},
        ),
        metrics=None if score is None else {SCORE: score},
      )
    self._publishing.start(after=self._manager.wait_until_finished)

  def restore_latest(self, abstract: TrainState) -> TrainState | None:
    """Returns the newest undamaged state, or None where there never was one.

    Args:
      abstract: Shapes and shardings to restore into.

    Raises:
      UserError: All checkpoints are damaged.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    if not steps:
      return None
    good, items = self._first_good(steps, lambda _: _items(abstract))
    assert good is not None
    self._move_aside([step for step in steps if step > good])
    return TrainState(
      variables=items['variables'], ema=items.get('ema'), **items['training']
    )

  def restore_best(
    self, abstract: Any, *, count: int = 1, skip: int = 0
  ) -> tuple[list[int], Any]:
    """Returns steps and mean network variables of the best checkpoints.

    The variables are the moving average (`ema`) where the run kept one, else
    the weights. Damaged checkpoints are left out, so that there may be fewer
    than `count`.

    Args:
      abstract: Shapes and shardings of the variables.
      count: How many checkpoints are averaged.
      skip: How many of the best ones are left out.

    Raises:
      UserError: There is no checkpoint, or all are damaged.
    """
    steps = self.best_steps()
    if not steps:
      raise UserError(_NONE.format(self.directory))
    _check_shapes(pathlib.Path(self.directory, f'{steps[0]}'), abstract)
    if skip >= len(steps):
      raise UserError(
        f'{self.directory} keeps {len(steps)} checkpoints; lower '
        '--config.eval.checkpoints, or train with a larger '
        '--config.average_checkpoints'
      )
    steps = steps[skip:]

    def network(names: Iterable[str]) -> dict[str, Any]:
      return {'ema' if 'ema' in names else 'variables': abstract}

    found: dict[int, Any] = {}
    while steps and len(found) < count:
      step, items = self._first_good(steps, network, optional=bool(found))
      if step is None:
        break
      (found[step],) = items.values()
      steps = steps[steps.index(step) + 1 :]
    return list(found), _mean(list(found.values()))

  def best_steps(self) -> list[int]:
    """Returns steps with a score, best first; without any, all from newest."""
    steps = sorted(self._manager.all_steps(), reverse=True)
    metrics = {step: self._manager.metrics(step) for step in steps}
    scored = [step for step in steps if metrics[step]]
    return sorted(scored, key=lambda step: -_score(metrics[step])) or steps

  def scored_steps(self) -> set[int]:
    """Returns the steps that were saved with a score."""
    steps = self._manager.all_steps()
    return {step for step in steps if self._manager.metrics(step)}

  def wait(self) -> None:
    """Returns when everything is saved and published.

    Raises:
      UserError: See `save`.
    """
    with self._explained():
      self._publishing.wait()
      self._manager.wait_until_finished()

  @contextlib.contextmanager
  def _explained(self) -> Iterator[None]:
    """Turns a failure to write into one line; Orbax has many types of them."""
    try:
      yield
    except Exception as error:
      reason = files.why_not_writable(self.directory)
      if not reason and isinstance(error, OSError):
        reason = error.strerror or ''
      if not reason:
        raise
      raise UserError(
        f'cannot save a checkpoint in {self.directory}: {reason}; the '
        'checkpoints before it are complete: make room, then run the same '
        'command to resume'
      ) from error

  def _first_good(
    self,
    steps: list[int],
    choose: Callable[[Iterable[str]], dict[str, Any]],
    *,
    optional: bool = False,
  ) -> tuple[int | None, Any]:
    """Returns the first step that restores, and its items.

    Raises:
      UserError: None does, and they are not `optional`.
    """
    for step in steps:
      try:
        items, reason = self._restore(step, choose), ''
      except Exception as error:  # Damage raises dozens of types.
        text = str(error).strip()[:_REASON_LENGTH]
        reason = f'{type(error).__name__}: {text}'
      if not _anywhere(reason):
        return step, items
      _logger.error(
        'Checkpoint %d in %s is damaged and ignored: %s',
        step,
        self.directory,
        reason or 'another process cannot read it',
      )
    if optional:
      return None, None
    raise UserError(
      f'all checkpoints in {self.directory} are damaged (steps '
      f'{", ".join(map(str, sorted(steps)))}); restore the folder from a '
      'copy, or delete it to train from the beginning'
    )

  def _restore_scores(self) -> None:
    """Restores scores that are missing or unreadable from the checksums.

    Without its score the best checkpoint would silently be another one.
    """
    if self._repairs:
      for folder in pathlib.Path(self.directory).glob('[0-9]*'):
        if folder.name.isdecimal():
          self._restore_score(folder)
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices('restored scores')

  def _restore_score(self, folder: pathlib.Path) -> None:
    path = folder / 'metrics' / 'metrics'
    saved, certain = checkpoint_sums.saved_score(folder)
    try:
      found = float(_score(files.parse_json(path.read_bytes())))
      if found == saved or saved is None:
        return
      if not certain:  # Restoring it will tell.
        _logger.error('The score in %s is not the one it was saved with.', path)
        return
    except FileNotFoundError:
      if saved is None:  # It was saved without a score.
        return
    except (ValueError, KeyError, TypeError, OverflowError):
      pass
    if saved is not None:
      files.write(path, json.dumps({SCORE: saved}))
      action = 'restored from the checksums'
    else:
      path.parent.rename(path.parent.with_name('damaged_metrics'))
      action = 'dropped'
    _logger.error('The score in %s was missing or damaged; %s.', path, action)

  def _move_aside(self, damaged: list[int]) -> None:
    """Frees the steps of damaged checkpoints for new ones; deletes nothing."""
    if self._repairs:
      for step in damaged:
        aside = tempfile.mkdtemp(prefix=f'damaged_{step}_', dir=self.directory)
        os.rename(f'{self.directory}/{step}', f'{aside}/{step}')
    if damaged:
      multihost_utils.sync_global_devices('damaged checkpoints')
      self._manager.reload()

  def _restore(
    self, step: int, choose: Callable[[Iterable[str]], dict[str, Any]]
  ) -> Any:
    """Returns the items that `choose` names among those saved.

    Raises:
      Exception: Of many types, where the checkpoint is damaged.
    """
    sums = self._manager.restore(
      step, args=ocp.args.Composite(checksums=ocp.args.JsonRestore())
    )['checksums']
    checkpoint_sums.check_sums(sums)
    kept = self._manager.metrics(step) or {SCORE: None}
    if kept[SCORE] not in (sums[SCORE], None):
      raise ValueError('its score is not the one it was saved with')
    items = choose(sums)
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        **{name: ocp.args.StandardRestore(item) for name, item in items.items()}
      ),
    )
    for name in items:
      if checkpoint_sums.checksums(restored[name]) != sums[name]:
        raise ValueError(f'the checksums of {name!r} differ')
    return restored


class _Publishing:
  """Publishes in the background, one checkpoint after the other."""

  def __init__(self, publish: Callable[[], None] | None):
    self._publish = publish
    self._thread: threading.Thread | None = None
    self._error: BaseException | None = None

  def start(self, *, after: Callable[[], object]) -> None:
    if self._publish is None:
      return
    self._thread = threading.Thread(target=self._run, args=[after])
    self._thread.start()

  def join(self) -> None:
    if self._thread is not None:
      self._thread.join()

  def wait(self) -> None:
    """Waits; raises what went wrong."""
    self.join()
    if self._error is not None:
      raise self._error

  def _run(self, after: Callable[[], object]) -> None:
    assert self._publish is not None
    try:
      after()
      self._publish()
    except BaseException as error:
      self._error = error


@jax.jit
def _mean(trees: list[Any]) -> Any:
  """The mean of each leaf, compiled as one program, not one per shape."""
  return jax.tree.map(lambda *x: sum(x) / len(x), *trees)


def _anywhere(reason: str) -> bool:
  """Whether any process has a reason, so that all processes do the same."""
  return bool(multihost_utils.process_allgather(np.array(reason != '')).any())


def _items(state: TrainState) -> dict[str, Any]:
  items = {
    'variables': state.variables,
    'training': {
      'step': state.step,
      'opt_state': state.opt_state,
      'metrics': state.metrics,
    },
  }
  return items if state.ema is None else items | {'ema': state.ema}


def _score(metrics: dict[str, float]) -> float:
  return metrics[SCORE]


def _check_shapes(folder: pathlib.Path, abstract: Any) -> None:
  """Raises UserError where a checkpoint holds another network's weights."""
  try:
    handler = ocp.StandardCheckpointHandler()
    found = _shapes(handler.metadata(folder / 'variables').tree)
    handler.close()
  except Exception:  # Damage: restoring reports it, with a step to fall back.
    return
  expected = _shapes(abstract)
  for name in sorted(found.keys() | expected.keys()):
    if found.get(name) != expected.get(name):
      raise UserError(
        f'{folder} holds the weights of another network than the '
        f'config describes: {name} is '
        f'{found.get(name, "absent")} there and '
        f'{expected.get(name, "absent")} here; take the config of its training'
      )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    '/'.join(key.key for key in path): tuple(leaf.shape)
    for path, leaf in leaves
  }
