"""Stopping well: a signal asks, the training loop saves and leaves."""

import contextlib
import logging
import signal
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def watch() -> Iterator[Callable[[int], bool]]:
  """Yields `stop(step)`: whether to save and leave after this step.

  It is first called with the step that training starts from. The first signal
  only sets a flag, the second one kills. With several processes JAX's
  coordination service makes all stop at the same step; it listens to SIGTERM
  alone, so SIGINT is passed on to it.
  """
  several = jax.process_count() > 1
  signals = (signal.SIGINT,) if several else (signal.SIGTERM, signal.SIGINT)
  asked, told, begun = [], [], []

  def handler(number, frame):
    del frame
    asked.append(number)
    for each in signals:
      signal.signal(each, signal.SIG_DFL)
    if several:
      signal.raise_signal(signal.SIGTERM)

  def stop(step: int) -> bool:
    # Logged here: a handler may interrupt another line of the log.
    if asked and not told:
      _logger.warning(
        '%s: saving (again to stop at once).', signal.Signals(asked[0]).name
      )
      told.append(asked[0])
    if not several:
      return bool(asked)
    stopping = _agreed(step)
    if not begun:
      begun.append(step)
      # A process that comes here later than another may know of a signal that
      # the other will hear of after it.
      stopping = multihost_utils.process_allgather(np.array(stopping)).any()
    return bool(stopping)

  before = {each: signal.signal(each, handler) for each in signals}
  try:
    yield stop
  finally:
    for each, previous in before.items():
      signal.signal(each, previous)


# The step that JAX was told last; before the first one it takes it to be 0.
_last_step = 0


def _agreed(step: int) -> bool:
  """Whether all processes stop now.

  A signal makes JAX ask for a stop at the step after the last one it was told.
  A resumed run or the next fold goes on at another one.
  """
  global _last_step
  asked_for = _last_step + 1, step
  _last_step = step
  return any(
    [multihost_utils.reached_preemption_sync_point(each) for each in asked_for]
  )
