"""readings.jsonl: what is known of every film so far, a line each.

Lines are only ever added, and each is there whole or not at all: whatever ends
a run, the next one goes on behind the last whole line.
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
  """The readings of an output folder; one process at a time has it.

  Args:
    folder: where it is, made where it is missing.

  Attributes:
    known: by `name` all readings but for their masks.

  Raises:
    UserError: the folder cannot be written, is in use, or holds something else.
  """

  def __init__(self, folder: str | os.PathLike):
    self.path = pathlib.Path(folder, NAME)
    with files.explained(self.path):
      self.path.parent.mkdir(parents=True, exist_ok=True)
      # Unbuffered: nothing is left to be written when it is closed.
      self._file = self.path.open('ab', buffering=0)
    try:
      self._lock()
      self._drop_torn_line()
      self.known = {
        reading.name: _without_mask(reading) for reading in self._lines()
      }
    except BaseException:
      self._file.close()
      raise

  def __enter__(self) -> 'Journal':
    return self

  def __exit__(self, *_) -> None:
    self._file.close()

  def check_model(self, model: str, rules: str) -> None:
    """Raises UserError where films were assessed by another one."""
    for reading in self.known.values():
      if reading.assessed and (reading.model, reading.rules) != (model, rules):
        raise UserError(
          f'{self.path} holds readings of model {reading.model} with rules '
          f'{reading.rules}, and this is model {model} with rules {rules}: '
          'choose another --output_dir'
        )

  def append(self, reading: Reading) -> None:
    """Adds a line, unless it says nothing new."""
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
            f'{self.path}, line {number}: no reading of this program; choose '
            'another --output_dir'
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
