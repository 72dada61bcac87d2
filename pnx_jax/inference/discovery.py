"""Finds the films to predict and gives their files safe names."""

import hashlib
import logging
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from pnx_jax.errors import UserError
from pnx_jax.formats import dicom
from pnx_jax.formats.names import printable
from pnx_jax.storage import local

_LONGEST_STEM = 64

_logger = logging.getLogger(__name__)


class Source(NamedTuple):
  """A file to read.

  Attributes:
    path: as it was found.
    name: of the film's files in the output folder; safe and unique, see
      `name_of`.
    image_id: the stem of the file's name.
    stamp: size, times of modification and change, and inode: where they
      are the same, the file is taken to be unchanged.
  """

  path: str
  name: str
  image_id: str
  stamp: str


def find(
  inputs: Sequence[str], *, leave_out: str | os.PathLike[str]
) -> list[Source]:
  """The films among files and folders, sorted by path, each once.

  Args:
    inputs: files, all of which are taken, and folders, see `dicom.find`.
    leave_out: a folder whose files are not taken.

  Raises:
    UserError: an input is missing, or there is no film at all.
  """
  paths, archives = set(), set()
  for entry in inputs:
    if os.path.isdir(entry):
      for path in dicom.walk(entry):
        if dicom.is_named_or_marked(path):
          paths.add(path)
        elif dicom.is_archive(path):
          archives.add(path)
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
  packed = ''
  if archives:
    packed = (
      f'{len(archives)} packed files (*.zip, *.dcm.gz, ...) are not read, such '
      f'as {printable(min(archives))}: unpack them to have their films assessed'
    )
  if not found:
    given = ' '.join(f'--input={printable(entry)}' for entry in inputs)
    raise UserError(
      f'no DICOM file in {given}: '
      + (
        packed or 'expected files named *.dcm or with the mark DICM at byte 128'
      )
    )
  if packed:
    _logger.warning('%s.', packed)
  return [_source(path, real) for real, path in found.items()]


def name_of(path: str) -> str:
  """A name of letters, digits, `_`, `.` and `-` with a digest of the real path.

  Of a copy from a bucket, its address is the real path.

  Two files never share a name; a file that is found by two paths has one.
  """
  stem = re.sub(r'[^\w.-]', '_', dicom.image_id_of(path), flags=re.ASCII)
  real = os.fsencode(local.origin(os.path.realpath(path)))
  digest = hashlib.sha256(real).hexdigest()[:12]
  return f'{stem[-_LONGEST_STEM:].lstrip(".")}_{digest}'


def _source(path: str, real: str) -> Source:
  try:
    status = os.stat(real)
    stamp = '-'.join(
      map(
        str,
        (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino),
      )
    )
  except OSError:  # Reading the film reports it.
    stamp = ''
  return Source(path, name_of(path), dicom.image_id_of(path), stamp)
