"""Which films there are to read, and what they are called from then on."""

import hashlib
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from pnx_jax.errors import UserError
from pnx_jax.formats import dicom
from pnx_jax.formats.names import printable

_LONGEST_STEM = 64


class Source(NamedTuple):
  """A file to read.

  Attributes:
    path: as it was found.
    name: safe and unique as a name of the film's own files, see `name_of`.
    image_id: the stem of the file's name.
    stamp: its size and time of change, which tell whether it is still the same.
  """

  path: str
  name: str
  image_id: str
  stamp: str


def find(
  inputs: Sequence[str], *, leave_out: str | os.PathLike
) -> list[Source]:
  """The films among files and folders, by path, each once.

  Args:
    inputs: Files, of which all are taken, and folders, see `dicom.find`.
    leave_out: A folder below which nothing is taken.

  Raises:
    UserError: One of the inputs is missing, or there is nothing at all.
  """
  paths = set()
  for entry in inputs:
    if os.path.isdir(entry):
      paths.update(dicom.find(entry))
    elif os.path.exists(entry):
      paths.add(entry)
    else:
      raise UserError(f'--input={printable(entry)}: no such file or folder')
  outside = os.path.join(os.path.realpath(leave_out), '')
  found = {}
  for path in sorted(paths):
    real = os.path.realpath(path)
    if not real.startswith(outside):
      found.setdefault(real, path)
  if not found:
    given = ' '.join(f'--input={printable(entry)}' for entry in inputs)
    raise UserError(
      f'no DICOM file in {given}: expected files named *.dcm or with the DICM '
      'mark at byte 128'
    )
  return [_source(path, real) for real, path in found.items()]


def name_of(path: str) -> str:
  """A name made of letters, digits, `_`, `.` and `-`, and of the whole path.

  Two files never share one, whatever their names, or one file under two paths.
  """
  stem = re.sub(r'[^\w.-]', '_', dicom.image_id_of(path), flags=re.ASCII)
  real = os.fsencode(os.path.realpath(path))
  digest = hashlib.sha256(real).hexdigest()[:12]
  return f'{stem[-_LONGEST_STEM:].lstrip(".")}_{digest}'


def _source(path: str, real: str) -> Source:
  try:
    status = os.stat(real)
    stamp = f'{status.st_size}-{status.st_mtime_ns}'
  except OSError:  # Reading it will tell.
    stamp = ''
  return Source(path, name_of(path), dicom.image_id_of(path), stamp)
