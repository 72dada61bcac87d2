"""Worker processes that may die: a broken file can crash a C decoder."""

import collections
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import process
from typing import Any

from pnx_jax.errors import UserError

# A fresh interpreter: forking a process that runs threads may deadlock.
_CONTEXT = multiprocessing.get_context('spawn')

# Items, each with its own number.
Batch = Sequence[tuple[int, Any]]


def run(
  function: Callable[[Batch], list],
  batches: Iterable[Batch],
  *,
  num_workers: int,
  on_crash: Callable[[int, Any], Any],
) -> Iterator[list]:
  """Yields `function(batch)` of every batch, in the order they are done.

  A batch whose worker dies is taken apart: its items come in batches of one.

  Args:
    function: Picklable; takes a batch.
    batches: See `Batch`.
    num_workers: Processes.
    on_crash: What stands in for the result of an item that kills its worker;
      takes its number and the item.

  Raises:
    UserError: No worker lives long enough to be given a batch.
  """
  at_work = _CONTEXT.Event()
  waiting = collections.deque(batches)
  while waiting:
    running: dict[futures.Future, Batch] = {}
    try:
      with _executor(num_workers, at_work) as executor:
        while waiting or running:
          while waiting and len(running) < 2 * num_workers:
            batch = waiting.popleft()
            running[executor.submit(_call, function, batch)] = batch
          done, _ = futures.wait(running, return_when=futures.FIRST_COMPLETED)
          for future in done:
            result = future.result()
            del running[future]
            yield result
    except process.BrokenProcessPool as error:
      _check_start(at_work, error)
      for future, batch in running.items():
        if future.exception() is None:
          yield future.result()
        else:
          yield from _one_by_one(function, batch, on_crash, at_work)


def batches(items: Iterable[tuple[int, Any]], size: int) -> list[Batch]:
  """Returns numbered items in batches of `size`."""
  items = list(items)
  return [items[n : n + size] for n in range(0, len(items), size)]


def num_cores() -> int:
  """Returns how many cores this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _one_by_one(
  function: Callable[[Batch], list],
  batch: Batch,
  on_crash: Callable[[int, Any], Any],
  at_work,
) -> Iterator[list]:
  """Yields the results of single items, so that only the culprit is lost."""
  left = collections.deque(batch)
  while left:
    try:
      with _executor(1, at_work) as executor:
        while left:
          result = executor.submit(_call, function, [left[0]]).result()
          left.popleft()
          yield result
    except process.BrokenProcessPool:
      yield [on_crash(*left.popleft())]


def _executor(num_workers: int, at_work) -> futures.ProcessPoolExecutor:
  return futures.ProcessPoolExecutor(
    num_workers,
    mp_context=_CONTEXT,
    initializer=_initialize,
    initargs=(at_work,),
  )


def _check_start(at_work, error: Exception) -> None:
  """Tells workers that never get to work from those that an item kills."""
  if not at_work.is_set():
    raise UserError(
      'worker processes cannot start: see what they say above, and whether '
      'memory or the number of processes is limited'
    ) from error


def _initialize(at_work) -> None:
  import cv2

  global _at_work
  _at_work = at_work
  cv2.setNumThreads(1)
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _call(function: Callable[[Batch], list], batch: Batch) -> list:
  _at_work.set()
  # C decoders talk about damaged files there; exceptions take another way.
  with open(os.devnull, 'w') as nowhere:
    os.dup2(nowhere.fileno(), 2)
  return function(batch)


def _end_with_parent() -> None:
  """Keeps workers from waiting for ever when their parent is killed."""
  multiprocessing.parent_process().join()
  os._exit(1)
