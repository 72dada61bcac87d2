"""The folder a build works in: hidden beside its output, kept until done."""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

from pnx_jax.errors import UserError

_LOCK = 'lock'
_INPUTS = 'inputs.json'
_SALT = 'salt'
_READY = 'ready'
_WRITTEN = ('build.json', 'dataset_info.json')


class Busy(UserError):
  """Another process builds into the same folder."""


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
  if not path.exists() or (path.is_dir() and not any(path.iterdir())):
    return
  if not all((path / name).is_file() for name in _WRITTEN):
    raise UserError(
      f'{output_dir} exists and is no dataset that a build has written, so it '
      'is not replaced: choose another --output_dir'
    )
  if not overwrite:
    raise UserError(
      f'{output_dir} holds a dataset: choose another --output_dir, or add '
      '--overwrite to replace it'
    )


@contextlib.contextmanager
def folder(output_dir: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields the working folder of an output folder, locked for this process.

  What an interrupted build left in it is still there.
  """
  path = _hidden(output_dir, 'building')
  path.mkdir(parents=True, exist_ok=True)
  with open(path / _LOCK, 'w') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise Busy(f'another build is writing {output_dir}') from error
    yield path


def is_begun(path: pathlib.Path) -> bool:
  """Whether a build has left anything."""
  return any(child.name != _LOCK for child in path.iterdir())


def matches(path: pathlib.Path, inputs: Any) -> bool:
  """Whether the folder was begun for the same inputs; empties it if not."""
  digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode())
  try:
    same = (path / _INPUTS).read_text() == digest.hexdigest()
  except OSError:
    same = False
  if not same:
    empty(path)
    (path / _INPUTS).write_text(digest.hexdigest())
  return same


def salt(path: pathlib.Path) -> bytes:
  """Returns random bytes that live as long as what is in the folder."""
  file = path / _SALT
  if not file.exists():
    file.write_bytes(os.urandom(32))
  return file.read_bytes()


def empty(path: pathlib.Path) -> None:
  """Removes everything but the lock."""
  for child in path.iterdir():
    if child.is_dir():
      shutil.rmtree(child)
    elif child.name != _LOCK:
      child.unlink()


def publish(built: pathlib.Path, output_dir: str | os.PathLike) -> None:
  """Moves a finished dataset to its place and removes its working folder.

  An older dataset makes room. `settle` ends this where it was cut short.
  """
  path = _hidden(output_dir, 'building')
  built.rename(path / _READY)
  _move(path, output_dir)


def settle(output_dir: str | os.PathLike) -> None:
  """Moves a dataset to its place that was ready when its build was killed."""
  path, older = (_hidden(output_dir, word) for word in ('building', 'replaced'))
  moved = (path / _READY).exists() or older.exists()
  kept = (path / _INPUTS).exists() or not os.path.exists(output_dir)
  if moved or (path.exists() and not kept):
    with folder(output_dir):
      _move(path, output_dir)
    print(f'Put {output_dir} in order, which a killed build had left halfway.')


def _move(path: pathlib.Path, output_dir: str | os.PathLike) -> None:
  output_dir = pathlib.Path(output_dir).resolve()
  older = _hidden(output_dir, 'replaced')
  ready = path / _READY
  if ready.exists():
    if output_dir.exists():
      shutil.rmtree(older, ignore_errors=True)
      output_dir.rename(older)
    # Without these a next build begins anew, not with half of what is left.
    (path / _INPUTS).unlink(missing_ok=True)
    ready.rename(output_dir)
  elif older.exists() and not output_dir.exists():
    older.rename(output_dir)
  shutil.rmtree(path)
  shutil.rmtree(older, ignore_errors=True)


def _hidden(output_dir: str | os.PathLike, word: str) -> pathlib.Path:
  output_dir = pathlib.Path(output_dir).resolve()
  return output_dir.with_name(f'.{output_dir.name}.{word}')
