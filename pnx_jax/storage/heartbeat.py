"""Signs of life: holders of a lock give them, others watch for them."""

import contextlib
import threading
import time
from collections.abc import Callable, Hashable, Iterator

# A holder gives one this often; one that missed several has ended.
SECONDS = 10.0
_MISSED = 3


@contextlib.contextmanager
def repeating(
  action: Callable[[], object], seconds: float | None = None
) -> Iterator[None]:
  """Calls a function again and again in the background.

  Args:
    action: Called for the first time after `seconds`.
    seconds: The pause before each call; without it, that of a holder.
  """
  pause = SECONDS if seconds is None else seconds
  ended = threading.Event()

  def run() -> None:
    while not ended.wait(pause):
      action()

  thread = threading.Thread(target=run, daemon=True)
  thread.start()
  try:
    yield
  finally:
    ended.set()
    thread.join()


def stays(value: Hashable, look: Callable[[], Hashable]) -> bool:
  """Watches for so long that a holder would have given a sign.

  Time is that of this process's monotonic clock; no other clock matters.

  Args:
    value: What `look` returned.
    look: Returns something that every sign changes.

  Returns:
    Whether it stayed the same; False as soon as it changed.
  """
  deadline = time.monotonic() + _MISSED * SECONDS
  while time.monotonic() < deadline:
    time.sleep(SECONDS / 10)
    if look() != value:
      return False
  return True
