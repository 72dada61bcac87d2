"""Worker processes that may die: a broken file can crash a C decoder."""

import collections
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import process
from typing import Any

# A fresh interpreter: forking a process that runs threads may deadlock.
_CONTEXT = multiprocessing.get_context('spawn')

Batch = tuple[int, Sequence[Any]]


def run(
  function: Callable[[Batch], list],
  batches: Iterable[Batch],
  *,
  num_workers: int,
  on_crash: Callable[[Any], Any],
) -> Iterator[list]:
  """Yields `function(batch)` of every batch, in the order they are done.

  Args:
    function: Picklable; takes a batch.
    batches: Number of the first item and the items themselves.
    num_workers: Processes.
    on_crash: What stands in for the result of an item that kills its worker.
  """
  waiting = collections.deque(batches)
  while waiting:
    running: dict[futures.Future, Batch] = {}
    try:
      with _executor(num_workers) as executor:
        while waiting or running:
          while waiting and len(running) < 2 * num_workers:
            batch = waiting.popleft()
            running[executor.submit(function, batch)] = batch
          done, _ = futures.wait(running, return_when=futures.FIRST_COMPLETED)
          for future in done:
            result = future.result()
            del running[future]
            yield result
    except process.BrokenProcessPool:
      for batch in running.values():
        yield from _one_by_one(function, batch, on_crash)


def num_cores() -> int:
  """Returns how many cores this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _one_by_one(
  function: Callable[[Batch], list],
  batch: Batch,
  on_crash: Callable[[Any], Any],
) -> Iterator[list]:
  """Yields the results of single items, so that only the culprit is lost."""
  first, items = batch
  left = list(enumerate(items, first))
  while left:
    try:
      with _executor(1) as executor:
        while left:
          number, item = left[0]
          result = executor.submit(function, (number, [item])).result()
          del left[0]
          yield result
    except process.BrokenProcessPool:
      yield [on_crash(left.pop(0)[1])]


def _executor(num_workers: int) -> futures.ProcessPoolExecutor:
  return futures.ProcessPoolExecutor(
    num_workers, mp_context=_CONTEXT, initializer=_initialize
  )


def _initialize() -> None:
  import cv2

  cv2.setNumThreads(1)
  threading.Thread(target=_end_with_parent, daemon=True).start()
  # C decoders talk about damaged files there; exceptions take another way.
  os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _end_with_parent() -> None:
  """Keeps workers from waiting for ever when their parent is killed."""
  multiprocessing.parent_process().join()
  os._exit(1)
