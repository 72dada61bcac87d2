"""Checkpoints that keep the newest and the best, and notice damage.

Orbax restores a flipped byte silently as wrong numbers, so each checkpoint
carries a checksum of its arrays. A damaged one is reported and the next is
taken; if all are damaged that is an error, never a silent fresh start.
"""

import json
import logging
import os
import pathlib
import tempfile
import zlib
from typing import Any

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
from pnx_jax.training.train_state import TrainState

_logger = logging.getLogger(__name__)
# Most checkpoints are not scored; orbax warns at each of them.
absl_logging.get_absl_logger().addFilter(
  lambda record: not record.getMessage().startswith('Requested `tracked_metric')
)

# The one before the newest is there in case the newest is damaged.
_KEEP_LATEST = 2
_SCORE = 'score'
_NONE = (
  'no checkpoint in {}; train that fold first: `python launch.py --config=...`'
)
# Orbax's own errors fill a page.
_REASON_LENGTH = 200


class Checkpoints:
  """The checkpoints of one fold; use as a context manager.

  A checkpoint consists of items that can be read one by one: `variables`,
  `ema` and `training` (all else), each with its checksums.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    *,
    keep_best: int = 1,
    create: bool = True,
  ):
    self.directory = os.path.abspath(directory)
    if create:
      try:
        os.makedirs(self.directory, exist_ok=True)
      except OSError as error:
        raise UserError(
          f'cannot write {self.directory}: {error.strerror}'
        ) from None
    elif not os.path.isdir(self.directory):
      raise UserError(_NONE.format(self.directory))
    self._drop_damaged_scores()
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
        preservation_policy=policy, best_fn=_score, best_mode='max'
      ),
    )

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._manager.wait_until_finished()
    self._manager.close()

  def save(
    self, step: int, state: TrainState, *, score: float | None = None
  ) -> None:
    """Saves in the background; `score` is what the best is chosen by."""
    if step in self._manager.all_steps():
      if score is None or step in self.scored_steps():
        return
      # Killed now, the run goes on from the one before and saves this again.
      self._manager.delete(step)
    items = _items(state)
    sums = {name: checksums(item) for name, item in items.items()}
    sums[_SCORE] = score
    self._manager.save(
      step,
      args=ocp.args.Composite(
        checksums=ocp.args.JsonSave(sums),
        **{name: ocp.args.StandardSave(item) for name, item in items.items()},
      ),
      metrics=None if score is None else {_SCORE: score},
    )

  def restore_latest(self, abstract: TrainState) -> TrainState | None:
    """The newest undamaged state, or None where there never was one.

    Args:
      abstract: shapes and shardings to restore into.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    if not steps:
      return None
    good, items = self._first_good(steps, lambda _: _items(abstract))
    self._move_aside([step for step in steps if step > good])
    return TrainState(
      variables=items['variables'], ema=items.get('ema'), **items['training']
    )

  def restore_best(
    self, abstract: Any, *, count: int = 1, skip: int = 0
  ) -> tuple[list[int], Any]:
    """Steps and mean network variables of the `count` best checkpoints.

    Of each the moving average (`ema`) where the run kept one, else the
    weights. Damaged checkpoints are passed over, fewer than `count` averaged.
    The `skip` best ones are left out.

    Raises:
      UserError: there is no checkpoint, or all are damaged.
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

    def network(names):
      return {'ema' if 'ema' in names else 'variables': abstract}

    found = {}
    while steps and len(found) < count:
      step, items = self._first_good(steps, network, optional=bool(found))
      if step is None:
        break
      (found[step],) = items.values()
      steps = steps[steps.index(step) + 1 :]
    return list(found), _mean(list(found.values()))

  def best_steps(self) -> list[int]:
    """Steps with a score, best first; without any, all, newest first."""
    steps = sorted(self._manager.all_steps(), reverse=True)
    metrics = {step: self._manager.metrics(step) for step in steps}
    scored = [step for step in steps if metrics[step]]
    return sorted(scored, key=lambda step: -_score(metrics[step])) or steps

  def scored_steps(self) -> set[int]:
    """Steps that were saved with a score."""
    steps = self._manager.all_steps()
    return {step for step in steps if self._manager.metrics(step)}

  def wait(self) -> None:
    self._manager.wait_until_finished()

  def _first_good(self, steps, choose, *, optional=False):
    """The first step that restores, and its items."""
    for step in steps:
      try:
        items, reason = self._restore(step, choose), ''
      except Exception as error:  # Damage raises dozens of types.
        text = str(error).strip()[:_REASON_LENGTH]
        reason = f'{type(error).__name__}: {text}'
      if not _anywhere(reason):
        return step, items
      _logger.error(
        'Checkpoint %d in %s is damaged and passed over: %s',
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

  def _drop_damaged_scores(self):
    """A checkpoint whose score is unreadable goes on as one without."""
    if jax.process_index() == 0:
      for path in pathlib.Path(self.directory).glob('*/metrics/metrics'):
        try:
          float(_score(json.loads(path.read_bytes())))
        except (ValueError, KeyError, TypeError):
          _logger.error('The score in %s is damaged and dropped.', path)
          path.parent.rename(path.parent.with_name('damaged_metrics'))
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices('damaged scores')

  def _move_aside(self, damaged):
    """Frees the steps of damaged checkpoints for new ones, deletes nothing."""
    if jax.process_index() == 0:
      for step in damaged:
        aside = tempfile.mkdtemp(prefix=f'damaged_{step}_', dir=self.directory)
        os.rename(f'{self.directory}/{step}', f'{aside}/{step}')
    if damaged:
      multihost_utils.sync_global_devices('damaged checkpoints')
      self._manager.reload()

  def _restore(self, step, choose):
    """The items that `choose` names among those saved, checked."""
    sums = self._manager.restore(
      step, args=ocp.args.Composite(checksums=ocp.args.JsonRestore())
    )['checksums']
    kept = self._manager.metrics(step) or {_SCORE: None}
    if kept[_SCORE] not in (sums.pop(_SCORE), None):
      raise ValueError('its score is not the one it was saved with')
    items = choose(sums)
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        **{name: ocp.args.StandardRestore(item) for name, item in items.items()}
      ),
    )
    for name in items:
      if checksums(restored[name]) != sums[name]:
        raise ValueError(f'the checksums of {name!r} differ')
    return restored


def checksums(tree: Any) -> dict[str, int]:
  """CRC-32 of every array's bytes, by path; reads this host's copy."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    jax.tree_util.keystr(path): zlib.crc32(_bytes(leaf))
    for path, leaf in leaves
  }


@jax.jit
def _mean(trees):
  """Leaf by leaf, in one program: without `jit` each shape is compiled."""
  return jax.tree.map(lambda *x: sum(x) / len(x), *trees)


def _anywhere(reason: str) -> bool:
  """Whether any process has a reason, so that all take the same step."""
  return bool(multihost_utils.process_allgather(np.array(reason != '')).any())


def _bytes(array: jax.Array) -> bytes:
  return np.ascontiguousarray(array.addressable_data(0)).tobytes()


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
  return metrics[_SCORE]


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
