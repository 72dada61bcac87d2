"""Files are written whole or not at all; a failed write is one line."""

import contextlib
import csv
import io
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

from pnx_jax.errors import UserError


@contextlib.contextmanager
def explained(path: str | os.PathLike) -> Iterator[None]:
  """Turns whatever keeps a file from being written into one line.

  Raises:
    UserError: The system refused, for example because the disk is full.
  """
  try:
    yield
  except OSError as error:
    raise UserError(
      f'cannot write {path}: {error.strerror}; files written before are '
      'complete, run the same command to resume'
    ) from None


@contextlib.contextmanager
def atomic(path: str | os.PathLike) -> Iterator[BinaryIO]:
  """Opens a file that appears under its name when all of it is on the disk.

  The content is written beside it and synced, then renamed; the folder is
  synced last, so a power cut leaves the old file or the new one. Missing
  folders are made, and an error leaves no partial file.

  Raises:
    UserError: The file cannot be written.
  """
  path = pathlib.Path(path)
  partial = path.with_name(f'.{path.name}.partial')
  with explained(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    # A new file each time: a link that somebody left there is not followed.
    partial.unlink(missing_ok=True)
    try:
      with partial.open('xb') as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
      partial.replace(path)
    except BaseException:
      partial.unlink(missing_ok=True)
      raise
    _sync_folder(path.parent)


def write(path: str | os.PathLike, content: bytes | str) -> None:
  """Writes a file, text as UTF-8; see `atomic`."""
  with atomic(path) as file:
    file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: str | os.PathLike, content: Any) -> None:
  """Writes indented JSON; NaN and infinity are errors."""
  write(path, json.dumps(content, indent=2, allow_nan=False) + '\n')


def write_csv(
  path: str | os.PathLike, header: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
  """Writes a csv with a header; see `atomic`. Rows are taken one by one."""
  with atomic(path) as file:
    text = io.TextIOWrapper(file, encoding='utf-8', newline='')
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(header)
    writer.writerows(rows)
    text.flush()
    text.detach()


def _sync_folder(folder: pathlib.Path) -> None:
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
