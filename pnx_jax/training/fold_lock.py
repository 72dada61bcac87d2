"""One training at a time writes into a fold of a workdir."""

import contextlib
import errno
import os
import pathlib
import socket
import time
from collections.abc import Iterator

import jax

from pnx_jax.errors import UserError
from pnx_jax.formats import files
from pnx_jax.storage import heartbeat

# What `flock` answers on a file system that has no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_SETTLING_SECONDS = 1.0


@contextlib.contextmanager
def held(fold_dir: str | os.PathLike[str]) -> Iterator[None]:
  """Holds the lock of a fold; it ends with the process, however that ends.

  Of several processes that train together the first one holds it.

  Args:
    fold_dir: The folder of the fold.

  Raises:
    UserError: Another training holds the lock, or it cannot be made.
  """
  if jax.process_index() != 0:
    yield
    return
  path = pathlib.Path(fold_dir) / 'lock'
  with files.explained(path):
    path.parent.mkdir(parents=True, exist_ok=True)
  with contextlib.ExitStack() as stack:
    try:
      descriptor = stack.enter_context(files.locked(path, busy=_busy(path)))
      os.ftruncate(descriptor, 0)
      os.write(descriptor, _owner().encode())
    except OSError as error:
      if error.errno not in _NO_LOCKS:
        raise
      stack.enter_context(_heartbeat(path))
    yield


@contextlib.contextmanager
def _heartbeat(path: pathlib.Path) -> Iterator[None]:
  """Marks the fold as in use by writing the lock file again and again.

  Raises:
    UserError: Another process does.
  """
  _wait_for_silence(path)

  def beat() -> None:
    with contextlib.suppress(OSError):
      os.utime(path)

  files.write(path, _owner())
  # Another training may have found silence at the same time.
  time.sleep(_SETTLING_SECONDS)
  if _read(path) != _owner():
    raise UserError(_busy(path))
  try:
    with heartbeat.repeating(beat):
      yield
  finally:
    if _read(path) == _owner():  # Else another has taken it.
      path.unlink(missing_ok=True)


def _wait_for_silence(path: pathlib.Path) -> None:
  """Returns when the owner of a lock file has ended.

  Raises:
    UserError: It is alive: the file is written while we wait.
  """
  before = _last_beat(path)
  if before is None or _is_dead(path):
    return
  if not heartbeat.stays(before, lambda: _last_beat(path)) and path.exists():
    raise UserError(_busy(path))


def _last_beat(path: pathlib.Path) -> int | None:
  try:
    return path.stat().st_mtime_ns
  except OSError:
    return None


def _is_dead(path: pathlib.Path) -> bool:
  """Whether the owner was a process of this host that is not there any more."""
  host, _, process = _read(path).partition(' ')
  if host != socket.gethostname() or not process.isdecimal():
    return False
  if int(process) == os.getpid():  # The number of a process before a restart.
    return True
  try:
    os.kill(int(process), 0)
  except ProcessLookupError:
    return True
  except OSError:
    pass
  return False


def _owner() -> str:
  return f'{socket.gethostname()} {os.getpid()}'


def _busy(path: pathlib.Path) -> str:
  host, _, process = _read(path).partition(' ')
  return (
    f'{path.parent} is being trained by process {process or "?"} on '
    f'{host or "?"}: wait until it ends, or choose another --workdir or '
    '--config.fold'
  )


def _read(path: pathlib.Path) -> str:
  try:
    return path.read_text(errors='replace')[:200]
  except OSError:
    return ''
