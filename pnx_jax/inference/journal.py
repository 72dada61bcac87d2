"""readings.jsonl: the reading of every film so far, one a line.

Lines are only ever appended, each in one piece: however a run ends, the next
one drops a torn last line and appends after it. Each has a checksum, so that
a changed digit is noticed; those of older versions have none.

A shard appends to a journal of its own, readings-3-of-16.jsonl, whose lines
are moved to readings.jsonl when it has ended.
"""

import dataclasses
import fcntl
import json
import os
import pathlib
import re
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO

from pnx_jax.errors import UserError
from pnx_jax.formats import files, seal, typed_json
from pnx_jax.inference.readings import Reading
from pnx_jax.inference.shards import Shard

NAME = 'readings.jsonl'
_OF_SHARD = re.compile(r'readings-\d+-of-\d+\.jsonl')
_CHECKSUM = 'checksum'


class Journal:
  """The readings of an output folder, locked for one process.

  Args:
    folder: made where it is missing.
    shard: for the journal of a shard, which knows the readings of all.
    wait: for another process that has locked it, instead of raising; and leave
      the readings of shards that are still running to them.

  Attributes:
    path: of the file.
    known: all readings by `name`, without their masks.

  Raises:
    UserError: the folder cannot be written or is in use, or a line of the file
      is not a reading.
  """

  def __init__(
    self,
    folder: str | os.PathLike[str],
    shard: Shard | None = None,
    *,
    wait: bool = False,
  ):
    own = f'readings-{shard.number}-of-{shard.count}.jsonl' if shard else NAME
    self.path: pathlib.Path = pathlib.Path(folder, own)
    with files.explained(self.path):
      self.path.parent.mkdir(parents=True, exist_ok=True)
      self._file = _opened(self.path, wait=wait)
    self.known: dict[str, Reading] = {}
    try:
      self._drop_torn_line()
      others = [self.path.with_name(NAME), *of_shards(self.path.parent)]
      for path in [*(others if shard else []), self.path]:
        for reading in _lines(path):
          self.known[reading.name] = _without_mask(reading)
      if not shard:
        self._absorb(leave_locked=wait)
    except BaseException:
      self._file.close()
      raise

  def __enter__(self) -> 'Journal':
    return self

  def __exit__(self, *_: object) -> None:
    self._file.close()

  def check_model(self, model: str, rules: str) -> None:
    """Raises UserError where films were assessed by another model."""
    for reading in self.known.values():
      if reading.assessed and (reading.model, reading.rules) != (model, rules):
        raise UserError(
          f'{self.path} holds readings of model {reading.model} with rules '
          f'{reading.rules}, and this is model {model} with rules {rules}: '
          'choose another --output_dir'
        )

  def append(self, reading: Reading) -> None:
    """Appends a reading, unless the last one of the film is equal.

    Raises:
      UserError: the file cannot be written.
    """
    if self.known.get(reading.name) == _without_mask(reading):
      return
    fields = dataclasses.asdict(reading)
    fields[_CHECKSUM] = _checksum(fields)
    line = json.dumps(fields).encode('ascii') + b'\n'
    with files.explained(self.path):
      while line:
        line = line[self._file.write(line) :]
      os.fsync(self._file.fileno())
    self.known[reading.name] = _without_mask(reading)

  def with_masks(self, names: Collection[str]) -> dict[str, Reading]:
    """The last readings of some films, complete, by name."""
    folder = self.path.parent
    paths = [folder / NAME, *of_shards(folder), self.path]
    return {
      reading.name: reading
      for path in paths
      for reading in (_lines(path) if names else ())
      if reading.name in names
    }

  def readings(self) -> list[Reading]:
    """The last reading of every film."""
    return list({read.name: read for read in _lines(self.path)}.values())

  def _absorb(self, *, leave_locked: bool) -> None:
    """Moves the readings of shards that have ended here."""
    for path in of_shards(self.path.parent):
      try:
        file = _opened(path)
      except UserError:
        if leave_locked:
          continue
        raise
      with file, files.explained(path):
        for reading in _lines(path):
          self.append(reading)
        path.unlink()

  def _drop_torn_line(self) -> None:
    with self.path.open('rb') as file:
      whole = sum(len(line) for line in file if line.endswith(b'\n'))
    self._file.truncate(whole)


def of_shards(folder: str | os.PathLike[str]) -> list[pathlib.Path]:
  """The journals of shards in a folder, sorted."""
  paths = pathlib.Path(folder).iterdir()
  return sorted(path for path in paths if _OF_SHARD.fullmatch(path.name))


def is_ours(path: str | os.PathLike[str]) -> bool:
  """Whether a file is a journal: each whole line of it is a reading."""
  path = pathlib.Path(path)
  try:
    readings = sum(1 for _ in _lines(path))
    return bool(readings) or not path.stat().st_size
  except (OSError, UserError):
    return False


def _opened(path: pathlib.Path, *, wait: bool = False) -> BinaryIO:
  """Opens a journal for appending, and locks it.

  Raises:
    UserError: another process has locked it.
  """
  while True:
    # Unbuffered: nothing is left to be written when it is closed.
    file = open(path, 'ab', buffering=0, opener=_no_link)  # noqa: SIM115
    try:
      fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
      file.close()
      raise UserError(f'another run is writing to {path.parent}') from None
    if os.fstat(file.fileno()).st_nlink:
      return file
    file.close()  # Absorbed and removed before it was locked.


def _lines(path: pathlib.Path) -> Iterator[Reading]:
  """Yields the readings of a journal; a line that is being written ends it."""
  try:
    file = path.open('rb')
  except FileNotFoundError:  # Not yet there, or absorbed meanwhile.
    return
  with file:
    checksums = False  # Lines of older versions come first.
    for number, line in enumerate(file, 1):
      if not line.endswith(b'\n'):
        return
      try:
        fields = files.parse_json(line)
        reading = typed_json.convert(fields, Reading)
        checksums = checksums or _CHECKSUM in fields
        if checksums and fields.get(_CHECKSUM) != _checksum(fields):
          raise ValueError('its checksum is missing or differs')
        yield reading
      except ValueError as error:
        raise UserError(
          f'{path}, line {number}: not a reading of this program ({error}); '
          'remove the line, or choose another --output_dir'
        ) from None


def _checksum(fields: dict[str, Any]) -> str:
  """Returns a checksum of all other fields of a line."""
  fields = {name: fields[name] for name in fields if name != _CHECKSUM}
  return seal.digest({'reading': fields})[:16]


def _no_link(path: str, flags: int) -> int:
  """Opens a file for appending, but no link that lies in its place."""
  return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def _without_mask(reading: Reading) -> Reading:
  return dataclasses.replace(reading, rle='', boxes=())
