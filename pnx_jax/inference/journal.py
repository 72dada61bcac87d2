"""readings.jsonl: the reading of every film so far, one a line.

Lines are only ever appended, each in one piece: however a run ends, the next
one drops a torn last line and appends after it.
"""

import dataclasses
import fcntl
import json
import os
import pathlib
from collections.abc import Iterator

from pnx_jax.errors import UserError
from pnx_jax.formats import files
from pnx_jax.inference.readings import Reading

NAME = 'readings.jsonl'


class Journal:
  """The readings of an output folder, locked for one process.

  Args:
    folder: made where it is missing.

  Attributes:
    path: of the file.
    known: all readings by `name`, without their masks.

  Raises:
    UserError: the folder cannot be written or is in use, or a line of the file
      is not a reading.
  """

  def __init__(self, folder: str | os.PathLike[str]):
    self.path: pathlib.Path = pathlib.Path(folder, NAME)
    with files.explained(self.path):
      self.path.parent.mkdir(parents=True, exist_ok=True)
      # Unbuffered: nothing is left to be written when it is closed.
      self._file = self.path.open('ab', buffering=0)
    try:
      self._lock()
      self._drop_torn_line()
      self.known: dict[str, Reading] = {
        reading.name: _without_mask(reading) for reading in self._lines()
      }
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
    line = json.dumps(dataclasses.asdict(reading)).encode('ascii') + b'\n'
    with files.explained(self.path):
      while line:
        line = line[self._file.write(line) :]
    self.known[reading.name] = _without_mask(reading)

  def readings(self) -> list[Reading]:
    """The last reading of every film."""
    return list({reading.name: reading for reading in self._lines()}.values())

  def _lines(self) -> Iterator[Reading]:
    with self.path.open('rb') as file:
      for number, line in enumerate(file, 1):
        try:
          fields = json.loads(line)
          boxes = tuple(tuple(box) for box in fields['boxes'])
          yield Reading(**fields | {'boxes': boxes})
        except (KeyError, TypeError, ValueError):
          raise UserError(
            f'{self.path}, line {number}: not a reading of this program; '
            'choose another --output_dir'
          ) from None

  def _lock(self) -> None:
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise UserError(f'another run is writing to {self.path.parent}') from None

  def _drop_torn_line(self) -> None:
    with self.path.open('rb') as file:
      whole = sum(len(line) for line in file if line.endswith(b'\n'))
    self._file.truncate(whole)


def _without_mask(reading: Reading) -> Reading:
  return dataclasses.replace(reading, rle='', boxes=())
