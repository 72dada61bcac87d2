"""Files are written whole or not at all; a failed read or write is one line."""

import contextlib
import csv
import fcntl
import gzip
import hashlib
import io
import itertools
import json
import os
import pathlib
import re
import shutil
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, BinaryIO

from pnx_jax.errors import UserError
from pnx_jax.formats import limits
from pnx_jax.formats.names import printable

# A spreadsheet takes a cell that begins with one of these for a formula.
_FORMULA = re.compile(r"'*[=+\-@\t\r＝＋－＠]")  # noqa: RUF001
_BYTE_ORDER_MARKS = {b'\xff\xfe': 'utf-16', b'\xfe\xff': 'utf-16'}
_DELIMITERS = ',;\t'
_GZIP = b'\x1f\x8b'

_PROBE_BYTES = 1 << 20

PARTIAL = '.partial'  # ends the names of files that are being written

csv.field_size_limit(limits.MOST_LINE)


@contextlib.contextmanager
def explained(path: str | os.PathLike[str]) -> Iterator[None]:
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
def atomic(
  path: str | os.PathLike[str], *, contended: bool = False
) -> Iterator[BinaryIO]:
  """Opens a file that appears under its name when all of it is on the disk.

  The content is written beside it and synced, then renamed; the folder is
  synced last, so a power cut leaves the old file or the new one. Missing
  folders are made, and an error leaves no partial file.

  Args:
    path: The file.
    contended: Several processes may write the file at once. After a kill the
      partial file, which ends in `PARTIAL`, has to be removed.

  Raises:
    UserError: The file cannot be written.
  """
  path = pathlib.Path(path)
  own = f'.{uuid.uuid4().hex}' if contended else ''
  partial = path.with_name(f'.{path.name}{own}{PARTIAL}')
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
    sync(path.parent)


@contextlib.contextmanager
def locked(
  path: str | os.PathLike[str], *, busy: str, mode: int = 0o666
) -> Iterator[int]:
  """Holds a lock file, made where it is missing; yields its descriptor.

  The lock ends with the process. A link in its place is not followed.

  Args:
    path: The lock file.
    busy: What to tell the user while another process holds the lock.
    mode: Who may hold it, as far as the umask allows: in a shared folder,
      others too.

  Raises:
    UserError: Another process holds the lock, or it cannot be made.
  """
  flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
  with explained(path):
    descriptor = os.open(path, flags, mode)
  try:
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise UserError(busy) from None
    yield descriptor
  finally:
    os.close(descriptor)


def write(path: str | os.PathLike[str], content: bytes | str) -> None:
  """Writes a file, text as UTF-8; see `atomic`."""
  with atomic(path) as file:
    file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
  """Writes indented JSON; NaN and infinity are errors."""
  write(path, json.dumps(content, indent=2, allow_nan=False) + '\n')


def checksum(path: str | os.PathLike[str]) -> str:
  """Returns the SHA-256 of a file's content."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def read_json(path: str | os.PathLike[str], *, remedy: str) -> Any:
  """Reads JSON; see `typed_json` for checking what it holds.

  Args:
    path: The file.
    remedy: What the user can do about a missing or damaged file.

  Raises:
    UserError: The file cannot be read, or is damaged.
  """
  try:
    return parse_json(pathlib.Path(path).read_bytes())
  except OSError as error:
    raise UserError(f'cannot read {path}: {error.strerror}; {remedy}') from None
  except ValueError as error:
    raise UserError(f'{path} is damaged: {error}; {remedy}') from None


def parse_json(text: str | bytes) -> Any:
  """Returns what JSON holds.

  Raises:
    ValueError: It is not JSON, or says something twice.
  """
  try:
    return json.loads(text, object_pairs_hook=_each_once)
  except RecursionError:
    raise ValueError('it has too many levels') from None


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
  content = dict(pairs)
  if len(content) != len(pairs):
    names = [name for name, _ in pairs]
    twice = next(name for name in names if names.count(name) > 1)
    raise ValueError(f'{twice[:40]!r} is there twice')
  return content


def write_csv(
  path: str | os.PathLike[str],
  header: Sequence[str],
  rows: Iterable[Sequence[Any]],
  *,
  escape: bool = True,
) -> None:
  """Writes a csv with a header; see `atomic`. Rows are taken one by one.

  Text that a spreadsheet would take for a formula gets a leading apostrophe,
  which `read_csv` takes away again.

  Args:
    path: Where to.
    header: The names of the columns.
    rows: A cell per column. Numbers and None are never escaped.
    escape: False for tables that other programs read, such as submissions.
  """
  with atomic(path) as file:
    text = io.TextIOWrapper(file, encoding='utf-8', newline='')
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(header)
    writer.writerows(map(escaped, row) for row in rows) if escape else (
      writer.writerows(rows)
    )
    text.flush()
    text.detach()


def read_csv(
  path: str | os.PathLike[str], columns: Sequence[str], *, remedy: str
) -> list[dict[str, str]]:
  """Reads a csv that `write_csv` has written; cells come back as they were.

  Args:
    path: The file.
    columns: Columns that it must have; it may have others.
    remedy: What the user can do about a missing or damaged file.

  Raises:
    UserError: The file cannot be read, lacks a column or is cut off.
  """
  try:
    content = pathlib.Path(path).read_bytes().decode()
    lines = csv.reader(io.StringIO(content, newline=''), strict=True)
    header = next(lines, [])
    rows = [(lines.line_num, row) for row in lines]
  except OSError as error:
    raise UserError(f'cannot read {path}: {error.strerror}; {remedy}') from None
  except (ValueError, csv.Error) as error:
    raise UserError(f'{path} is damaged: {error}; {remedy}') from None
  for name in columns:
    if name not in header:
      raise UserError(f'{path} has no column {name!r}; {remedy}')
  for number, row in rows:
    if len(row) != len(header):
      raise UserError(
        f'{path}, line {number}: {len(row)} cells instead of {len(header)}; '
        f'the file is damaged: {remedy}'
      )
  if not content.endswith('\n'):
    raise UserError(f'{path} is cut off in its last line; {remedy}')
  return [
    dict(zip(header, map(_restored, row), strict=True)) for _, row in rows
  ]


def csv_rows(
  path: str | os.PathLike[str], *, lenient: bool = True
) -> Iterator[tuple[int, list[str]]]:
  """Yields the rows of a user's csv, each with its line number.

  The file may be gzipped, whatever its name, and start with a byte-order mark,
  also of UTF-16.

  Args:
    path: The file.
    lenient: Semicolons or tabs may separate the cells, which are stripped of
      spaces, and rows without text are left out.

  Raises:
    UserError: The file cannot be read or is not a csv.
  """
  number = 0
  try:
    with open(path, 'rb') as file:
      opener = gzip.open if file.read(2) == _GZIP else open
    with opener(path, 'rb') as file:
      start = file.read(2)
    encoding = _BYTE_ORDER_MARKS.get(start, 'utf-8-sig')
    with opener(path, 'rt', encoding=encoding, newline='') as file:
      lines_of_file = _lines(file)
      first = next(lines_of_file, '')
      lines = csv.reader(
        itertools.chain([first], lines_of_file),
        delimiter=max(_DELIMITERS, key=first.count) if lenient else ',',
        skipinitialspace=lenient,
        strict=True,
      )
      for row in lines:
        number = lines.line_num
        cells = [cell.strip() for cell in row] if lenient else row
        if any(cells) or not lenient:
          yield number, cells
  except UnicodeError as error:
    raise UserError(
      f'{path} is not a csv file in UTF-8, near line {number + 1}: {error}; '
      'save it as UTF-8'
    ) from None
  except (csv.Error, gzip.BadGzipFile, zlib.error, EOFError) as error:
    raise UserError(
      f'{path} is not a csv file, near line {number + 1}: {error}'
    ) from None


def _lines(file: IO[str]) -> Iterator[str]:
  """Yields the lines of a file, none of which may take all memory.

  Raises:
    csv.Error: One is too long.
  """
  while line := file.readline(limits.MOST_LINE):
    if len(line) == limits.MOST_LINE:
      raise csv.Error(f'it has more than {limits.MOST_LINE:,} characters')
    yield line


def escaped(cell: Any) -> Any:
  """Returns a cell as `write_csv` writes it: printable, and not a formula."""
  if not isinstance(cell, str):
    return cell
  cell = printable(cell)
  return f"'{cell}" if _FORMULA.match(cell) else cell


def _restored(cell: str) -> str:
  return cell[1:] if cell[:1] == "'" and _FORMULA.match(cell) else cell


def remove(path: pathlib.Path) -> None:
  """Removes a folder, or a link that somebody left in its place."""
  if path.is_symlink() or path.is_file():
    path.unlink()
  elif path.exists():
    shutil.rmtree(path)


def check_name(path: str | os.PathLike[str]) -> None:
  """Checks that libraries which take names of files as text can take one.

  Raises:
    UserError: Its name, or that of a folder above it, is not UTF-8.
  """
  absolute = os.path.abspath(path)
  try:
    absolute.encode()
  except UnicodeEncodeError:
    raise UserError(
      f'{printable(absolute)} cannot be written: its name is not UTF-8, which '
      'TensorFlow and Orbax need; choose a folder whose name is'
    ) from None


def why_not_writable(folder: str | os.PathLike[str]) -> str:
  """Returns why a file of some size cannot be written in a folder, or ''."""
  path = pathlib.Path(folder, f'.{uuid.uuid4().hex}{PARTIAL}')
  try:
    try:
      with path.open('xb') as file:
        file.write(bytes(_PROBE_BYTES))
        file.flush()
        os.fsync(file.fileno())
    finally:
      path.unlink(missing_ok=True)
  except OSError as error:
    return error.strerror or type(error).__name__
  return ''


def sync(path: str | os.PathLike[str]) -> None:
  """Waits until a file or the entries of a folder are on the disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
