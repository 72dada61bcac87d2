"""Stops a training whose loss is not finite, and keeps the batch."""

import os
import pathlib
from collections.abc import Callable

import jax
import numpy as np

from pnx_jax.errors import UserError

# Steps in flight on the devices; more would only hold memory.
_LOOKAHEAD = 2


class LossNotFiniteError(UserError, FloatingPointError):
  """The loss of a step is not a finite number."""


class LossCheck:
  """The losses since the last check; they stay on the devices until then.

  Args:
    fold_dir: The first batch whose loss is not finite is saved here.
    batch: Returns the batch of a step, as numpy arrays by name.
    learning_rate: Returns the learning rate of a step.
  """

  def __init__(
    self,
    fold_dir: str | os.PathLike[str],
    *,
    batch: Callable[[int], dict[str, np.ndarray]],
    learning_rate: Callable[[int], float],
  ):
    self._fold_dir = pathlib.Path(fold_dir)
    self._batch = batch
    self._learning_rate = learning_rate
    self._losses: list[jax.Array] = []

  def add(self, loss: jax.Array) -> None:
    """Adds the loss f32[] of a step; waits where too many are in flight."""
    self._losses.append(loss)
    if len(self._losses) > _LOOKAHEAD:
      jax.block_until_ready(self._losses[-1 - _LOOKAHEAD])

  def check(self, step: int) -> None:
    """Checks the losses up to that of `step`.

    Raises:
      LossNotFiniteError: One is not finite; its batch is saved.
    """
    first = step - len(self._losses) + 1
    for number, loss in enumerate(jax.device_get(self._losses), first):
      if not np.isfinite(loss):
        self._stop(number, loss)
    self._losses.clear()

  def _stop(self, step: int, loss: float) -> None:
    path = self._fold_dir / f'bad_batch_{step}_{jax.process_index()}.npz'
    np.savez_compressed(path, **self._batch(step))
    restart = (
      f'; --config.init_from={self._fold_dir.parent} starts from the best '
      'weights'
      if any((self._fold_dir / 'checkpoints').glob('[0-9]*'))
      else ''
    )
    raise LossNotFiniteError(
      f'the loss of step {step} is {loss} (learning rate '
      f'{self._learning_rate(step):.2g}); its batch is in {path}. Train in '
      'another --workdir with a lower --config.optimizer.learning_rate'
      f'{restart}'
    )
