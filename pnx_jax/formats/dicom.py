"""Radiographs as DICOM files: header and pixels, or the reason why not."""

import contextlib
import logging
import os
import stat
import warnings
from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np
import pydicom
from pydicom import uid

from pnx_jax.errors import UserError
from pnx_jax.formats import (
  dicom_file,
  dicom_header,
  dicom_pixels,
  grayscale,
  limits,
)
from pnx_jax.formats.dicom_header import Header
from pnx_jax.formats.names import printable
from pnx_jax.formats.refusals import UnusableDicom

__all__ = [
  'CHEST',
  'RADIOGRAPHY',
  'Film',
  'Header',
  'UnusableDicom',
  'content',
  'find',
  'from_dataset',
  'image_id_of',
  'is_archive',
  'is_dicom',
  'is_named_or_marked',
  'read',
  'read_header',
  'walk',
]

CHEST = ('CHEST', 'THORAX', 'LUNG')
RADIOGRAPHY = ('CR', 'DX')
_ARCHIVES = ('.zip', '.7z', '.rar', '.tar', '.tgz')
_COMPRESSED = ('.gz', '.bz2', '.xz', '.zst', '.lz4', '.z')
# What is compressed beside films and is none.
_OTHERS = ('.csv', '.tsv', '.txt', '.json', '.jsonl', '.log', '.nii')

_logger = logging.getLogger(__name__)
# Its remarks on odd files would fill the screen; errors are raised anyhow.
logging.getLogger('pydicom').setLevel(logging.ERROR)


class Film(NamedTuple):
  """A radiograph.

  Attributes:
    pixels: uint8[H, W], dense tissue bright.
    header: What the file says about it.
  """

  pixels: np.ndarray
  header: Header


def content(path: str | os.PathLike[str]) -> bytes:
  """Returns the bytes of a file, for `read`.

  Raises:
    UnusableDicom: The file cannot be read, is too large, or is a pipe.
  """
  return dicom_file.content(path)


def read(
  source: str | os.PathLike[str] | bytes,
  *,
  window: str = 'auto',
  accept_modality: Collection[str] = RADIOGRAPHY,
  accept_body_part: Collection[str] = CHEST,
) -> Film:
  """Reads a single-frame monochrome radiograph.

  Args:
    source: The file's path or its content.
    window: See `grayscale.to_uint8`.
    accept_modality: Modalities to accept; empty accepts all.
    accept_body_part: Words of which BodyPartExamined must hold one, where the
      file has that attribute; empty accepts all.

  Raises:
    UnusableDicom: The file is not such a radiograph.
  """
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    with dicom_file.opened(source, pixels=True) as file, _refusing():
      header = dicom_header.parse(file.dataset)
      _check_kind(header, accept_modality, accept_body_part)
      if not file.has_pixels:
        raise UnusableDicom('no_pixels', 'no PixelData')
      _check_size(file.dataset, header)
      file.add_pixels()
      return Film(_pixels(file.dataset, header, window), header)


def from_dataset(
  dataset: pydicom.Dataset,
  *,
  window: str = 'auto',
  accept_modality: Collection[str] = RADIOGRAPHY,
  accept_body_part: Collection[str] = CHEST,
) -> Film:
  """Makes a film of a dataset in memory, which is not changed; see `read`.

  Without a transfer syntax its pixels are decoded as they were read, or as
  little-endian if the dataset was made in memory.

  Raises:
    UnusableDicom: The dataset is not such a radiograph.
  """
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    with _refusing():
      dataset = _with_own_file_meta(dataset)
      header = dicom_header.parse(dataset)
      _check_kind(header, accept_modality, accept_body_part)
      if 'PixelData' not in dataset:
        raise UnusableDicom('no_pixels', 'no PixelData')
      _check_size(dataset, header)
      return Film(_pixels(dataset, header, window), header)


def read_header(path: str | os.PathLike[str]) -> Header:
  """Reads the header alone; the film may be unusable all the same.

  Raises:
    UnusableDicom: The file is not DICOM, or its header is damaged.
  """
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    with dicom_file.opened(path) as file, _refusing():
      return dicom_header.parse(file.dataset)


def is_dicom(path: str | os.PathLike[str]) -> bool:
  """Returns whether a file carries DICOM's mark at byte 128."""
  try:
    if not stat.S_ISREG(os.stat(path).st_mode):
      return False
    with open(path, 'rb') as file:
      return file.read(132)[128:] == dicom_file.MARK
  except OSError:
    return False


def find(folder: str | os.PathLike[str]) -> Iterator[str]:
  """Yields every file below named `*.dcm`, or carrying DICOM's mark.

  Archives, whose films are not read, are counted in a warning.

  Raises:
    UserError: See `walk`.
  """
  archives: list[str] = []
  for path in walk(folder):
    if is_named_or_marked(path):
      yield path
    elif is_archive(path):
      archives.append(path)
  if archives:
    _logger.warning(
      '%d archives are not read, for example %s: unpack them first',
      len(archives),
      printable(min(archives)),
    )


def is_named_or_marked(path: str) -> bool:
  """Returns whether a file is named `*.dcm` or carries DICOM's mark."""
  return path.lower().endswith('.dcm') or is_dicom(path)


def is_archive(path: str) -> bool:
  """Returns whether a file's name says that films may be packed in it."""
  stem, ending = os.path.splitext(path.lower())
  return ending in _ARCHIVES or (
    ending in _COMPRESSED and not stem.endswith(_OTHERS)
  )


def walk(folder: str | os.PathLike[str]) -> Iterator[str]:
  """Yields every file below; links are followed, but into no folder twice.

  Raises:
    UserError: A folder cannot be listed; leaving it out would go unnoticed.
  """
  seen: set[tuple[int, int]] = set()
  for parent, folders, names in os.walk(
    folder, onerror=_raise, followlinks=True
  ):
    here = os.stat(parent)
    if (here.st_dev, here.st_ino) in seen:
      folders.clear()
      continue
    seen.add((here.st_dev, here.st_ino))
    # A folder that several links lead to always gets the same path.
    folders.sort()
    for name in names:
      yield os.path.join(parent, name)


def image_id_of(path: str) -> str:
  """Returns a file's name as text without `.dcm`; other dots belong to it."""
  name = printable(os.path.basename(path))
  return name[:-4] if name.lower().endswith('.dcm') else name


def _raise(error: OSError) -> None:
  raise UserError(f'cannot list {error.filename}: {error.strerror}')


def _with_own_file_meta(dataset: pydicom.Dataset) -> pydicom.Dataset:
  """Returns a shallow copy whose transfer syntax may be set."""
  result = dataset.copy()
  meta = pydicom.dataset.FileMetaDataset()
  meta.update(getattr(dataset, 'file_meta', {}))
  if None in dataset.original_encoding and 'TransferSyntaxUID' not in meta:
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
  result.file_meta = meta
  return result


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
  """Refuses the film, whatever its header or a decoder raises."""
  try:
    yield
  except (UnusableDicom, OSError, MemoryError):
    raise
  except Exception as error:
    raise UnusableDicom('undecodable', dicom_file.told(error)) from error


def _pixels(
  dataset: pydicom.Dataset, header: Header, window: str
) -> np.ndarray:
  if not dataset.PixelData:
    raise UnusableDicom('empty', 'PixelData is empty')
  stored = dicom_pixels.decode(dataset, header)
  return grayscale.to_uint8(stored, dataset, window=window)


def _check_kind(
  header: Header,
  accept_modality: Collection[str],
  accept_body_part: Collection[str],
) -> None:
  shown = dicom_header.shortened(header)
  if accept_modality and header.modality not in accept_modality:
    raise UnusableDicom(
      'modality',
      f'{shown.modality or "none"}, not {" or ".join(accept_modality)}',
    )
  if (
    accept_body_part
    and header.body_part
    and not any(word in header.body_part for word in accept_body_part)
  ):
    raise UnusableDicom(
      'body_part',
      f'{shown.body_part}, not {" or ".join(accept_body_part)}',
    )


def _check_size(dataset: pydicom.Dataset, header: Header) -> None:
  frames = dicom_header.integer(dataset.get('NumberOfFrames'))
  if frames > 1:
    raise UnusableDicom('multi_frame', f'{frames} frames')
  if header.height < 1 or header.width < 1:
    raise UnusableDicom('empty', f'{header.height} x {header.width} pixels')
  samples = dicom_header.integer(dataset.get('SamplesPerPixel'), 1)
  if samples != 1 or header.photometric not in ('MONOCHROME1', 'MONOCHROME2'):
    shown = dicom_header.shortened(header)
    raise UnusableDicom(
      'color', f'{shown.photometric or "no photometric"}, {samples} samples'
    )
  if header.height * header.width > limits.MOST_PIXELS:
    raise UnusableDicom(
      'limit',
      f'{header.height} x {header.width} pixels are more than '
      f'{limits.MOST_PIXELS:,}',
    )
  if not 1 < header.bits_stored <= 16:
    raise UnusableDicom('undecodable', f'{header.bits_stored} bits stored')
