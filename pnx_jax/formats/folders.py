"""Folders are replaced whole or not at all."""

import contextlib
import ctypes
import errno
import fcntl
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator

from pnx_jax.errors import UserError
from pnx_jax.formats.files import explained, remove, sync

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # Linux: fcntl.h, renameat2(2).
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)


def check_not_mounted(path: pathlib.Path) -> None:
  """Raises UserError where a disk is mounted: it cannot be replaced."""
  if path.is_mount():
    raise UserError(
      f'{path} is where a disk is mounted, and cannot be replaced: name a '
      'folder in it'
    )


@contextlib.contextmanager
def appearing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Makes a folder that appears when all files in it are on the disk.

  It is made beside `path` and renamed to it, which must be missing or empty.
  An error leaves nothing.

  Raises:
    UserError: The folder cannot be written.
  """
  path = pathlib.Path(os.path.realpath(path))
  partial = _beside(path, 'partial')
  with explained(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    remove(partial)
    try:
      partial.mkdir()
      yield partial
      _sync_all(partial)
      partial.replace(path)
    except BaseException:
      remove(partial)
      raise
    sync(path.parent)


@contextlib.contextmanager
def replaced(
  path: str | os.PathLike[str], *, ours: Callable[[str], bool]
) -> Iterator[pathlib.Path]:
  """Yields an empty folder that takes the place of `path` at the end.

  It is made beside `path`. What `path` holds that is not ours is carried over;
  then all files are synced and the folders are exchanged. A kill at any moment
  leaves the old folder or the new one under its name. Where the file system
  cannot exchange two folders, the old one may be left beside it: `recover`
  puts it back. A lock file `.<name>.lock` makes concurrent writers wait.

  Args:
    path: The folder; it may be missing.
    ours: Whether a file, named by its path relative to the folder, is one that
      the caller writes, so that an old one is dropped.

  Raises:
    UserError: The system refuses, for example because the disk is full.
  """
  path = pathlib.Path(os.path.realpath(path))
  new, old = _beside(path, 'partial'), _beside(path, 'old')
  with explained(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(_beside(path, 'lock')):
      recover(path)
      remove(new)
      remove(old)
      try:
        new.mkdir()
        yield new
        _carry_over(path, new, ours)
        _sync_all(new)
        if not path.exists():
          new.replace(path)
        elif not _exchange(path, new):
          path.replace(old)
          new.replace(path)
        sync(path.parent)
      finally:
        recover(path)
        remove(new)
      remove(old)


def recover(path: str | os.PathLike[str]) -> None:
  """Puts a folder back whose replacement was interrupted.

  To be called before the folder is read. It does nothing if the folder exists.
  """
  path = pathlib.Path(os.path.realpath(path))
  old = _beside(path, 'old')
  if old.is_dir() and not path.exists():
    with contextlib.suppress(OSError):  # Another process was faster.
      old.rename(path)


def _beside(path: pathlib.Path, kind: str) -> pathlib.Path:
  return path.with_name(f'.{path.name}.{kind}')


def _exchange(one: pathlib.Path, other: pathlib.Path) -> bool:
  """Exchanges two folders in one step; False if the system cannot."""
  renameat2 = getattr(ctypes.CDLL(None, use_errno=True), 'renameat2', None)
  if renameat2 is None:
    return False
  names = os.fsencode(one), os.fsencode(other)
  arguments = _AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE
  if not renameat2(*arguments):
    return True
  code = ctypes.get_errno()
  if code in _UNSUPPORTED:
    return False
  raise OSError(code, os.strerror(code), str(one))


def _carry_over(
  source: pathlib.Path, target: pathlib.Path, ours: Callable[[str], bool]
) -> None:
  """Links or copies what is not ours and has no successor."""
  for folder, folders, names in os.walk(source):
    here = pathlib.Path(folder)
    links = [name for name in folders if (here / name).is_symlink()]
    empty = not folders and not names
    relative = here.relative_to(source)
    if empty and not (target / relative).exists():
      (target / relative).mkdir(parents=True)
    for name in [*names, *links]:
      copy = target / relative / name
      if ours(str(relative / name)) or os.path.lexists(copy):
        continue
      copy.parent.mkdir(parents=True, exist_ok=True)
      try:
        os.link(here / name, copy, follow_symlinks=False)
      except OSError:  # Not every file system has hard links.
        shutil.copy2(here / name, copy, follow_symlinks=False)


def _sync_all(folder: pathlib.Path) -> None:
  for parent, _, names in os.walk(folder):
    for name in names:
      file = os.path.join(parent, name)
      if os.path.isfile(file) and not os.path.islink(file):
        sync(file)
    sync(parent)


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
  flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
  descriptor = os.open(path, flags, 0o666)
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield
  finally:
    os.close(descriptor)
