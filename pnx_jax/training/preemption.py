"""Stopping well: a signal asks, the training loop saves and leaves."""

import contextlib
import logging
import signal
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

_logger = logging.getLogger(__name__)
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def watch() -> Iterator[Callable[[int], bool]]:
  """Yields `stop(step)`: whether to save and leave after this step.

  The first signal only sets a flag, the second one kills. With several
  processes JAX's coordination service makes all stop at the same step.
  """
  asked = []

  def handler(number, frame):
    del frame
    asked.append(number)
    _logger.warning(
      '%s: saving after this step (again to stop at once).',
      signal.Signals(number).name,
    )
    for each in _SIGNALS:
      signal.signal(each, signal.SIG_DFL)

  def stop(step: int) -> bool:
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return bool(asked)

  if jax.process_count() > 1:
    # The coordination service installs its own handler for SIGTERM.
    yield stop
    return
  before = {each: signal.signal(each, handler) for each in _SIGNALS}
  try:
    yield stop
  finally:
    for each, previous in before.items():
      signal.signal(each, previous)
