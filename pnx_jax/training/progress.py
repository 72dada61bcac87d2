"""The speed of a training and the time left."""

import contextlib
import time
from collections.abc import Iterator


class Progress:
  """Times the steps since the last report; pauses do not count.

  Args:
    first_step: Steps done before this process began.
    total_steps: Steps of the whole run.
    batch_size: Images per step.

  Attributes:
    batch_size: Images per step.
  """

  def __init__(self, *, first_step: int, total_steps: int, batch_size: int):
    self._step = first_step
    self._total_steps = total_steps
    self.batch_size = batch_size
    self._started = time.monotonic()
    self._waited = 0.0
    self._seconds_left = 0.0

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Use around what the devices wait for: the next batch."""
    before = time.monotonic()
    yield
    self._waited += time.monotonic() - before

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Use around validation and checkpoints: their time does not count."""
    before = time.monotonic()
    yield
    self._started += time.monotonic() - before

  def report(self, step: int) -> dict[str, float]:
    """Returns images per second and the share of time waited for input."""
    now = time.monotonic()
    seconds = max(now - self._started, 1e-9)
    steps = step - self._step
    rates = {
      'images_per_second': steps * self.batch_size / seconds,
      'input_wait': self._waited / seconds,
    }
    self._seconds_left = (self._total_steps - step) * seconds / max(steps, 1)
    self._step, self._started, self._waited = step, now, 0.0
    return rates

  @property
  def remaining(self) -> str:
    """Time left at the speed of the last report, h:mm:ss."""
    minutes, seconds = divmod(round(self._seconds_left), 60)
    return f'{minutes // 60}:{minutes % 60:02}:{seconds:02}'
