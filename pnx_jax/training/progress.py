"""How fast a run goes, and how long it will take."""

import contextlib
import time
from collections.abc import Iterator


class Progress:
  """Times the steps since the last report; pauses do not count.

  Args:
    first_step: steps done before this process began.
    total_steps: steps of the whole run.
    batch_size: images a step.
  """

  def __init__(self, *, first_step: int, total_steps: int, batch_size: int):
    self._step = first_step
    self._total_steps = total_steps
    self._batch_size = batch_size
    self._started = time.monotonic()
    self._waited = 0.0
    self._seconds_left = None

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Around what the devices wait for: the next batch."""
    before = time.monotonic()
    yield
    self._waited += time.monotonic() - before

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Around what is no training: validation and checkpoints."""
    before = time.monotonic()
    yield
    self._started += time.monotonic() - before

  def report(self, step: int) -> dict[str, float]:
    """Images a second and the share of the time spent waiting for input."""
    now = time.monotonic()
    seconds = max(now - self._started, 1e-9)
    steps = step - self._step
    rates = {
      'images_per_second': steps * self._batch_size / seconds,
      'input_wait': self._waited / seconds,
    }
    self._seconds_left = (self._total_steps - step) * seconds / max(steps, 1)
    self._step, self._started, self._waited = step, now, 0.0
    return rates

  @property
  def remaining(self) -> str:
    """Time left at the last report's speed, h:mm:ss."""
    minutes, seconds = divmod(round(self._seconds_left), 60)
    return f'{minutes // 60}:{minutes % 60:02}:{seconds:02}'
