"""Graceful shutdown: after SIGTERM or SIGINT, training saves and ends.

A checkpoint is saved, a validation that is due is left to the resumed run, and
the command exits with `cli.STOPPED`.
"""

import contextlib
import logging
import signal
import time
import types
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

_logger = logging.getLogger(__name__)
REPEAT_SECONDS = 5.0
_stopped = False


def stopped() -> bool:
  """Whether work in this process ended early because of a signal."""
  return _stopped


def ignore_signals() -> None:
  """Lets a process that has saved end with its own exit code.

  Python's end would make a further signal deadly again.
  """
  for each in (signal.SIGTERM, signal.SIGINT):
    signal.signal(each, signal.SIG_IGN)


@contextlib.contextmanager
def watch() -> Iterator[Callable[[int], bool]]:
  """Yields `stop_requested(step)`: whether to save and end after this step.

  It is first called with the step that training starts from. The first signal
  sets a flag. A further one within `REPEAT_SECONDS` is the same request, since
  schedulers send pairs, and the second may come while the process writes its
  last files after this context; a later one ends the process at once. A signal
  of which `stop_requested` has not told is raised again at the end.

  With several processes JAX's coordination service makes all stop at the same
  step; it listens to SIGTERM alone, so SIGINT is passed on to it.
  """
  several = jax.process_count() > 1
  signals = (signal.SIGINT,) if several else (signal.SIGTERM, signal.SIGINT)
  received: list[tuple[int, float]] = []
  logged = started = told = ended = False

  def handler(number: int, _: types.FrameType | None) -> None:
    now = time.monotonic()
    if received and now - received[0][1] >= REPEAT_SECONDS:
      signal.signal(number, before[number] if ended else signal.SIG_DFL)
      signal.raise_signal(number)
      return
    received.append((number, now))
    if several and not ended:
      signal.raise_signal(signal.SIGTERM)

  def noted(stopping: bool) -> bool:
    nonlocal told
    global _stopped
    told |= stopping
    _stopped |= stopping
    return stopping

  def stop_requested(step: int) -> bool:
    nonlocal logged, started
    # Logged here: a handler may interrupt another log line.
    if received and not logged:
      logged = True
      _logger.warning(
        '%s: saving (repeat it after %d s to end at once).',
        signal.Signals(received[0][0]).name,
        REPEAT_SECONDS,
      )
    if not several:
      return noted(bool(received))
    stopping = _all_stop(step)
    if not started:
      started = True
      # A process that comes here later than another may know of a signal that
      # the other one does not know of yet.
      stopping = multihost_utils.process_allgather(np.array(stopping)).any()
    return noted(bool(stopping))

  before = {each: signal.signal(each, handler) for each in signals}
  try:
    yield stop_requested
  finally:
    ended = True
    if not told:
      for each, previous in before.items():
        signal.signal(each, previous)
  if received and not told:
    signal.raise_signal(received[0][0])


# The step that JAX was told last; before the first one it assumes 0.
_last_step = 0


def _all_stop(step: int) -> bool:
  """Whether all processes stop after this step.

  After a signal, JAX chooses the step after the last one that it was told. A
  resumed run or the next fold may continue at another step.
  """
  global _last_step
  chosen = _last_step + 1, step
  _last_step = step
  return any(
    [multihost_utils.reached_preemption_sync_point(each) for each in chosen]
  )
