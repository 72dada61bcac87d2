"""The folder a build works in: hidden beside its output, kept until done.

Whoever can write in it decides what the build reads back. It belongs to the
user who builds, and nobody else has access, unless Beam's workers need it.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import stat
from collections.abc import Iterable, Iterator
from typing import Any

from pnx_jax.errors import UserError
from pnx_jax.formats import files, folders

_LOCK = 'lock'
_INPUTS = 'inputs.json'
_READY = 'ready'
_WRITTEN = ('build.json', 'dataset_info.json')


def check_output(
  output_dir: str, inputs: Iterable[str], *, overwrite: bool
) -> None:
  """Raises UserError where a build would remove what no build has written."""
  path = pathlib.Path(output_dir).resolve()
  for name in inputs:
    if pathlib.Path(name).resolve().is_relative_to(path):
      raise UserError(
        f'{name} lies in --output_dir={output_dir}, which the build replaces: '
        'choose another --output_dir'
      )
  folders.check_not_mounted(path)
  if not path.exists() or (path.is_dir() and not any(path.iterdir())):
    return
  if not all((path / name).is_file() for name in _WRITTEN):
    raise UserError(
      f'{output_dir} exists and is not a dataset that a build has written, so '
      'it is not replaced: choose another --output_dir'
    )
  if not overwrite:
    raise UserError(
      f'{output_dir} holds a dataset: choose another --output_dir, or add '
      '--overwrite to replace it'
    )


@contextlib.contextmanager
def folder(
  output_dir: str | os.PathLike[str], *, shared: bool = False
) -> Iterator[pathlib.Path]:
  """Yields the working folder of an output folder, locked for this process.

  What an interrupted build left in it is still there.

  Args:
    output_dir: What will be made.
    shared: Workers of other users may use the folder, as far as the umask
      and its group allow.

  Raises:
    UserError: Another process works in it, or other users can write to it.
  """
  path = _hidden(output_dir, 'building')
  path.parent.mkdir(parents=True, exist_ok=True)
  with contextlib.suppress(FileExistsError):
    path.mkdir(mode=0o777 if shared else 0o700)
  _check_ours(path, shared=shared)
  if not shared:
    path.chmod(0o700)
  busy = f'another build is writing {output_dir}'
  with files.locked(path / _LOCK, busy=busy, mode=0o600):
    yield path


def is_begun(path: pathlib.Path) -> bool:
  """Returns whether a build has left anything in its working folder."""
  return any(child.name != _LOCK for child in path.iterdir())


def matches(path: pathlib.Path, inputs: Any) -> bool:
  """Returns whether the folder was begun for these inputs; else empties it."""
  digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode())
  try:
    same = (path / _INPUTS).read_text() == digest.hexdigest()
  except (OSError, UnicodeError):
    same = False
  if not same:
    empty(path)
    files.write(path / _INPUTS, digest.hexdigest())
  return same


def secret(path: str | os.PathLike[str]) -> bytes:
  """Returns 32 bytes from a file; random ones are put in a new one.

  One that cannot be written, such as a mounted secret, is read as it is.
  """
  writable = os.access(path, os.W_OK) or not os.path.exists(path)
  flags = os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY
  with files.explained(path):
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, 'rb+' if writable else 'rb') as file:
      fcntl.flock(file, fcntl.LOCK_EX)  # Two builds may begin at once.
      if writable and os.fstat(descriptor).st_mode & stat.S_IRWXO:
        os.fchmod(descriptor, 0o600)  # As older versions made it.
      content = file.read()
      if not content and not writable:
        raise UserError(f'{path} is empty: the key of patients has 32 bytes')
      if not content:
        content = os.urandom(32)
        file.write(content)
  return hashlib.sha256(content).digest()


def empty(path: pathlib.Path) -> None:
  """Removes everything but the lock."""
  for child in path.iterdir():
    if child.is_dir() and not child.is_symlink():
      shutil.rmtree(child)
    elif child.name != _LOCK:
      child.unlink()


def publish(built: pathlib.Path, output_dir: str | os.PathLike[str]) -> None:
  """Moves a finished dataset to its place and removes its working folder.

  An older dataset makes room. Where this is cut short, `finish` completes it.
  """
  path = _hidden(output_dir, 'building')
  built.rename(path / _READY)
  _move(path, output_dir)


def finish(output_dir: str | os.PathLike[str]) -> None:
  """Completes the publication of a dataset whose build was killed in it."""
  path, older = (_hidden(output_dir, word) for word in ('building', 'replaced'))
  moved = (path / _READY).exists() or older.exists()
  kept = (path / _INPUTS).exists() or not os.path.exists(output_dir)
  if not (moved or (path.exists() and not kept)):
    return
  if older.exists():
    _check_ours(older, shared=True)
  shared = path.exists() and bool(path.stat().st_mode & 0o077)
  with folder(output_dir, shared=shared):
    _move(path, output_dir)
  print(f'Completed {output_dir}, whose build was killed while publishing it.')


def _move(path: pathlib.Path, output_dir: str | os.PathLike[str]) -> None:
  output_dir = pathlib.Path(output_dir).resolve()
  older = _hidden(output_dir, 'replaced')
  ready = path / _READY
  if ready.exists():
    if output_dir.exists():
      shutil.rmtree(older, ignore_errors=True)
      output_dir.rename(older)
    # Without these the next build starts from nothing, not from half of it.
    (path / _INPUTS).unlink(missing_ok=True)
    ready.rename(output_dir)
  elif older.exists() and not output_dir.exists():
    older.rename(output_dir)
  shutil.rmtree(path)
  shutil.rmtree(older, ignore_errors=True)


def _check_ours(path: pathlib.Path, *, shared: bool) -> None:
  """Raises UserError where other users decide what a folder holds."""
  status = path.lstat()
  if not stat.S_ISDIR(status.st_mode):
    raise UserError(f'{path} is not a folder: remove it')
  # Without Beam a folder that anybody else could write to is not trusted.
  writable = stat.S_IWOTH if shared else stat.S_IWOTH | stat.S_IWGRP
  if status.st_uid != os.geteuid() or status.st_mode & writable:
    raise UserError(
      f'{path} belongs to another user or others can write to it, so what it '
      'holds is not used: remove it, or choose another --output_dir'
    )


def _hidden(output_dir: str | os.PathLike[str], word: str) -> pathlib.Path:
  output_dir = pathlib.Path(output_dir).resolve()
  return output_dir.with_name(f'.{output_dir.name}.{word}')
