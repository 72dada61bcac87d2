"""Worker processes with limits: a broken file can crash or hang a C decoder."""

import collections
import contextlib
import dataclasses
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import connection, resource_tracker, util
from typing import Any, Generic, TypeVar

from pnx_jax.errors import UserError

Item = TypeVar('Item')
Result = TypeVar('Result')

# Items, each with its own number.
Batch = Sequence[tuple[int, Item]]

# A fresh interpreter: forking a process that runs threads may deadlock.
_CONTEXT = multiprocessing.get_context('spawn')
_BATCHES_PER_WORKER = 2  # one in work, one ready to be taken up


@dataclasses.dataclass(frozen=True)
class Limits:
  """What one item may take of its worker.

  Attributes:
    seconds: Time; a worker that needs longer for one item is ended.
    gib: Address space in GiB above what the worker has mapped when it starts.
  """

  seconds: float = 60.0
  gib: float = 4.0


@dataclasses.dataclass(frozen=True)
class Death:
  """How a worker ended while it worked on an item.

  Attributes:
    exit_code: As the system reports it: minus the signal's number.
    limits: The limits it worked under.
  """

  exit_code: int
  limits: Limits

  @property
  def timed_out(self) -> bool:
    """Whether the item took longer than its limit."""
    return self.exit_code == -signal.SIGALRM

  @property
  def killed(self) -> bool:
    """Whether the system ended the worker, as it does when memory is short."""
    return self.exit_code == -signal.SIGKILL

  @property
  def cause(self) -> str:
    """The name of the signal, or the exit code."""
    try:
      return signal.Signals(-self.exit_code).name
    except ValueError:
      return f'exit code {self.exit_code}'

  @property
  def may_pass(self) -> bool:
    """Whether the machine, not the item, may be at fault."""
    return self.timed_out or self.killed


def run(
  function: Callable[[Batch[Item]], list[Result]],
  batches: Iterable[Batch[Item]],
  *,
  num_workers: int,
  on_death: Callable[[int, Item, Death], Result],
  limits: Limits = Limits(),
) -> Iterator[list[Result]]:
  """Yields `function(batch)` of every batch, in the order they are finished.

  When a worker dies, only the item it worked on is lost. An item that crashes
  its worker is tried once more in a batch of its own. One whose worker was
  killed by the system or took too long is tried again at the end, while
  nothing else runs.

  Args:
    function: Picklable. It goes through its batch with `each`.
    batches: See `Batch`.
    num_workers: Number of processes.
    on_death: Makes the result of an item that ended its worker every time,
      from its number, the item and the last `Death`.
    limits: What one item may take.

  Raises:
    UserError: Workers cannot start.
    Exception: Whatever `function` raised in a worker.
  """
  jobs = _Jobs(batches)
  crew = _Crew(function, limits)
  try:
    while True:
      crew.assign(jobs, num_workers)
      if not crew.is_busy:
        return
      for worker in crew.with_news():
        try:
          result = worker.receive()
        except (EOFError, OSError):
          death = Death(crew.buried(worker), limits)
          for number, item in jobs.after_death(worker, death):
            yield [on_death(number, item, death)]
          continue
        if result is not None:
          yield result
  finally:
    crew.close()


def each(batch: Batch[Item]) -> Iterator[tuple[int, Item]]:
  """Yields the items of a batch; in a worker, each under its time limit."""
  if _worker is None:
    yield from batch
    return
  for place, entry in enumerate(batch):
    _worker.starts(place)
    yield entry


def current_limits() -> Limits | None:
  """Returns the limits of the worker this runs in, None outside of workers."""
  return None if _worker is None else _worker.limits


def batches(items: Iterable[tuple[int, Item]], size: int) -> list[Batch[Item]]:
  """Returns numbered items in batches of `size`."""
  items = list(items)
  return [items[n : n + size] for n in range(0, len(items), size)]


def num_cores() -> int:
  """Returns how many cores this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


class _Jobs(Generic[Item]):
  """The batches that still have to be worked on."""

  def __init__(self, batches: Iterable[Batch[Item]]):
    self._waiting = collections.deque(batches)
    # Items to be tried again at the end, one at a time.
    self._last: collections.deque[Batch[Item]] = collections.deque()
    self._final: set[int] = set()

  def next(self, *, others_work: bool) -> Batch[Item] | None:
    if self._waiting:
      return self._waiting.popleft()
    if self._last and not others_work:
      batch = self._last.popleft()
      self._final.add(batch[0][0])
      return batch
    return None

  def put_back(self, batches: Iterable[Batch[Item]]) -> None:
    self._waiting.extendleft(reversed(list(batches)))

  def after_death(
    self, worker: '_Worker[Item]', death: Death
  ) -> list[tuple[int, Item]]:
    """Returns the items that are given up; the others are tried again."""
    batch, *others = worker.assigned
    self.put_back(others)
    if worker.place is None and len(batch) > 1:
      self.put_back([[entry] for entry in batch])
      return []
    place = worker.place or 0
    culprit, rest = batch[place], [*batch[:place], *batch[place + 1 :]]
    self.put_back([rest] if rest else [])
    if death.may_pass and culprit[0] not in self._final:
      self._last.append([culprit])
    elif rest:
      self.put_back([[culprit]])
    else:
      return [culprit]
    return []


class _Crew(Generic[Item]):
  """The worker processes of one `run`."""

  def __init__(self, function: Callable[..., object], limits: Limits):
    self._function = function
    self._limits = limits
    self._workers: list[_Worker[Item]] = []
    self._any_ready = False

  @property
  def is_busy(self) -> bool:
    return any(worker.assigned for worker in self._workers)

  def assign(self, jobs: _Jobs[Item], num_workers: int) -> None:
    """Gives batches to idle workers first; starts workers where needed."""
    for load in range(_BATCHES_PER_WORKER):
      while True:
        idle = [w for w in self._workers if len(w.assigned) == load]
        missing = load == 0 and len(self._workers) < num_workers
        if not idle and not missing:
          break
        batch = jobs.next(others_work=self.is_busy)
        if batch is None:
          return
        if not idle:
          idle = [_Worker(self._function, self._limits)]
          self._workers += idle
        idle[0].assign(batch)

  def with_news(self) -> list['_Worker[Item]']:
    """Waits for workers that have sent something or died."""
    by_connection = {w.connection: w for w in self._workers if w.assigned}
    ready = connection.wait(list(by_connection))
    return [by_connection[one] for one in ready]  # type: ignore[index]

  def buried(self, worker: '_Worker[Item]') -> int:
    """Removes a dead worker; returns its exit code.

    Raises:
      UserError: It could not even start, like all before it.
    """
    self._workers.remove(worker)
    exit_code = worker.end()
    self._any_ready = self._any_ready or worker.is_ready
    if not self._any_ready:
      raise UserError(
        'worker processes cannot start: see what they print above, and whether '
        'memory or the number of processes is limited'
      )
    return exit_code

  def close(self) -> None:
    for worker in self._workers:
      worker.end(kill=True)


class _Worker(Generic[Item]):
  """A worker process as the parent sees it.

  Attributes:
    assigned: The batches it was given and has not finished; it works on the
      first.
    place: Where in that batch it is, None where it did not say.
  """

  def __init__(self, function: Callable[..., object], limits: Limits):
    self.connection, theirs = _CONTEXT.Pipe()
    self.assigned: collections.deque[Batch[Item]] = collections.deque()
    self.place: int | None = None
    self.is_ready = False
    # It ends with its parent. Signals that ask a command to stop are for the
    # parent; the child inherits that they are blocked.
    resource_tracker.ensure_running()  # Its start would unblock them.
    blocked = signal.pthread_sigmask(
      signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM}
    )
    try:
      self._process = _CONTEXT.Process(
        target=_work, args=(theirs, function, limits), daemon=True
      )
      self._process.start()
    finally:
      signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    theirs.close()
    # At exit multiprocessing would send it SIGTERM and wait.
    util.Finalize(self, self._process.kill, exitpriority=0)

  def assign(self, batch: Batch[Item]) -> None:
    self.assigned.append(batch)
    with contextlib.suppress(OSError):  # A death shows when it is read from.
      self.connection.send(batch)

  def receive(self) -> list[Any] | None:
    """Returns the result of a batch, or None after other news.

    Raises:
      EOFError, OSError: The worker has died.
    """
    kind, content = self.connection.recv()
    if kind == 'ready':
      self.is_ready = True
    elif kind == 'place':
      self.place = content
    else:
      self.assigned.popleft()
      self.place = None
      if kind == 'error':
        raise content
      return content
    return None

  def end(self, *, kill: bool = False) -> int:
    self.connection.close()
    if kill:
      self._process.kill()
    self._process.join()
    return self._process.exitcode or 0


class _InWorker:
  """What a worker process knows of itself."""

  def __init__(self, link: connection.Connection, limits: Limits):
    self.limits = limits
    self._link = link
    self._batches: queue.SimpleQueue[bytes] = queue.SimpleQueue()

  def loop(self, function: Callable[[Batch[Any]], list[Any]]) -> None:
    threading.Thread(target=self._receive, daemon=True).start()
    _limit_memory(self.limits.gib)
    self._link.send(('ready', None))
    # C decoders print remarks on damaged files; exceptions go another way.
    with open(os.devnull, 'w') as nowhere:
      os.dup2(nowhere.fileno(), 2)
    while True:
      batch = pickle.loads(self._batches.get())
      try:
        message = 'result', function(batch)
      except Exception as error:
        message = 'error', _portable(error)
      signal.setitimer(signal.ITIMER_REAL, 0)
      self._link.send(message)

  def starts(self, place: int) -> None:
    self._link.send(('place', place))
    # Nothing else ends a decoder that hangs: the process dies of it.
    signal.setitimer(signal.ITIMER_REAL, self.limits.seconds)

  def _receive(self) -> None:
    """Takes in batches, so that the parent never waits; ends with it."""
    while True:
      try:
        self._batches.put(self._link.recv_bytes())
      except (EOFError, OSError):
        os._exit(1)


def _portable(error: Exception) -> Exception:
  """Returns an error that can be sent, with its traceback as a note."""
  text = ''.join(traceback.format_exception(error))
  error.add_note(text)
  try:
    pickle.loads(pickle.dumps(error))
  except Exception:
    return RuntimeError(text)
  return error


_worker: _InWorker | None = None


def _work(
  link: connection.Connection,
  function: Callable[[Batch[Any]], list[Any]],
  limits: Limits,
) -> None:
  import cv2

  global _worker
  cv2.setNumThreads(1)
  _worker = _InWorker(link, limits)
  _worker.loop(function)


def _limit_memory(gib: float) -> None:
  try:
    import resource

    with open('/proc/self/statm') as file:
      mapped = int(file.read().split()[0]) * resource.getpagesize()
  except (ImportError, OSError):  # Not Linux: time alone is limited.
    return
  _, hard = resource.getrlimit(resource.RLIMIT_AS)
  wanted = mapped + int(gib * 2**30)
  if hard != resource.RLIM_INFINITY:
    wanted = min(wanted, hard)
  resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
