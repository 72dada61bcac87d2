"""Radiographs as DICOM files: header and pixels, or the reason why not."""

import io
import logging
import os
import stat
import warnings
from collections.abc import Collection, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
import pydicom
from pydicom import uid

from pnx_jax.errors import UserError
from pnx_jax.formats import dicom_header, dicom_pixels, grayscale
from pnx_jax.formats.dicom_header import Header
from pnx_jax.formats.dicom_pixels import UnusableDicom
from pnx_jax.formats.names import printable

CHEST = ('CHEST', 'THORAX', 'LUNG')
RADIOGRAPHY = ('CR', 'DX')
_MOST_PIXELS = 100_000_000
_ARCHIVES = (
  *('.zip', '.dcm.gz', '.dcm.bz2', '.dcm.xz', '.7z', '.rar'),
  *('.tar', '.tar.gz', '.tgz', '.tar.bz2', '.tar.xz'),
)
_MARK = b'DICM'
_PIXEL_DATA = b'\xe0\x7f\x10\x00'  # the tag, little-endian

# Its remarks on odd files would fill the screen; errors are raised anyhow.
logging.getLogger('pydicom').setLevel(logging.ERROR)


class Film(NamedTuple):
  """A radiograph: uint8[H, W], dense tissue bright, and its header."""

  pixels: np.ndarray
  header: Header


def content(path: str | os.PathLike[str]) -> bytes:
  """Returns the bytes of a file, for `read`.

  Raises:
    UnusableDicom: The file cannot be read, or is a pipe or device.
  """
  try:
    with _opened(path) as file:
      return file.read()
  except OSError as error:
    raise UnusableDicom('unreadable', _told(error)) from error


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
    accept_modality: Modalities to let pass; empty lets all pass.
    accept_body_part: Words of which BodyPartExamined holds one, where the file
      has that attribute; empty lets all pass.

  Raises:
    UnusableDicom: The file is no such radiograph.
  """
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    dataset = _open(source)
    return _film(dataset, window, accept_modality, accept_body_part)


def from_dataset(
  dataset: pydicom.Dataset,
  *,
  window: str = 'auto',
  accept_modality: Collection[str] = RADIOGRAPHY,
  accept_body_part: Collection[str] = CHEST,
) -> Film:
  """Makes a film of a dataset in memory, which is left as it is; see `read`.

  Without a transfer syntax its pixels are taken as they were read, or as
  little-endian where it was made in memory.

  Raises:
    UnusableDicom: The dataset is no such radiograph.
  """
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    dataset = _with_own_file_meta(dataset)
    return _film(dataset, window, accept_modality, accept_body_part)


def read_header(path: str | os.PathLike) -> Header:
  """Reads the header alone; the film may be unusable all the same.

  Raises:
    UnusableDicom: The file is no DICOM, or its header makes no sense.
  """
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    dataset = _open(path, pixels=False)
    try:
      return dicom_header.parse(dataset)
    except Exception as error:
      raise UnusableDicom('undecodable', _told(error)) from error


def is_dicom(path: str | os.PathLike) -> bool:
  """Whether a file carries DICOM's mark at byte 128."""
  try:
    if not stat.S_ISREG(os.stat(path).st_mode):
      return False
    with open(path, 'rb') as file:
      return file.read(132)[128:] == _MARK
  except OSError:
    return False


def find(folder: str | os.PathLike[str]) -> Iterator[str]:
  """Yields every file below named `*.dcm`, or carrying DICOM's mark.

  Raises:
    UserError: See `walk`.
  """
  return filter(is_named_or_marked, walk(folder))


def is_named_or_marked(path: str) -> bool:
  """Whether a file is named `*.dcm` or carries DICOM's mark."""
  return path.lower().endswith('.dcm') or is_dicom(path)


def is_archive(path: str) -> bool:
  """Whether a file's name says that films may be packed in it."""
  return path.lower().endswith(_ARCHIVES)


def walk(folder: str | os.PathLike[str]) -> Iterator[str]:
  """Yields every file below; links are followed, but into no folder twice.

  Raises:
    UserError: A folder cannot be listed; leaving it out would go unnoticed.
  """
  seen = set()
  for parent, folders, names in os.walk(
    folder, onerror=_raise, followlinks=True
  ):
    here = os.stat(parent)
    if (here.st_dev, here.st_ino) in seen:
      folders.clear()
      continue
    seen.add((here.st_dev, here.st_ino))
    # The same path to a folder of several, wherever the files are.
    folders.sort()
    for name in names:
      yield os.path.join(parent, name)


def image_id_of(path: str) -> str:
  """Returns a file's name as text without `.dcm`; other dots belong to it."""
  name = printable(os.path.basename(path))
  return name[:-4] if name.lower().endswith('.dcm') else name


def _raise(error: OSError) -> None:
  raise UserError(f'cannot list {error.filename}: {error.strerror}')


def _open(
  source: str | os.PathLike[str] | bytes, *, pixels: bool = True
) -> pydicom.Dataset:
  try:
    with _opened(source) as file:
      dataset = _parse(file, pixels)
      # pydicom drops what it had read when compressed pixels end too soon.
      if pixels and (not dataset or 'Rows' in dataset):
        _check_for_cut_pixels(dataset, file)
  except OSError as error:
    raise UnusableDicom('unreadable', _told(error)) from error
  # With `force` pydicom finds "elements" in noise, too.
  if dataset.preamble is None and 'SOPClassUID' not in dataset:
    raise UnusableDicom('not_dicom', 'no DICM mark at byte 128')
  return dataset


def _opened(source: str | os.PathLike[str] | bytes) -> BinaryIO:
  if isinstance(source, bytes):
    return io.BytesIO(source)
  if not stat.S_ISREG(os.stat(source).st_mode):
    raise UnusableDicom('unreadable', 'neither a file nor a folder')
  return open(source, 'rb')


def _with_own_file_meta(dataset: pydicom.Dataset) -> pydicom.Dataset:
  """A shallow copy whose transfer syntax may be set."""
  result = dataset.copy()
  meta = pydicom.dataset.FileMetaDataset()
  meta.update(getattr(dataset, 'file_meta', {}))
  if None in dataset.original_encoding and 'TransferSyntaxUID' not in meta:
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
  result.file_meta = meta
  return result


def _parse(file: BinaryIO, pixels: bool) -> pydicom.Dataset:
  try:
    return pydicom.dcmread(file, force=True, stop_before_pixels=not pixels)
  except EOFError as error:
    raise UnusableDicom('truncated', _told(error)) from error
  except Exception as error:
    file.seek(128)
    reason = 'undecodable' if file.read(4) == _MARK else 'not_dicom'
    raise UnusableDicom(reason, _told(error)) from error


def _check_for_cut_pixels(dataset: pydicom.Dataset, file: BinaryIO) -> None:
  """Tells a file that ends within its pixels from one without any."""
  file.seek(0)
  if 'PixelData' not in dataset and _PIXEL_DATA in file.read():
    raise UnusableDicom('truncated', 'the file ends within its pixels')


def _film(
  dataset: pydicom.Dataset,
  window: str,
  accept_modality: Collection[str],
  accept_body_part: Collection[str],
) -> Film:
  try:
    header = dicom_header.parse(dataset)
    _check(dataset, header, accept_modality, accept_body_part)
    stored = dicom_pixels.decode(dataset, header)
    return Film(grayscale.to_uint8(stored, dataset, window=window), header)
  except UnusableDicom:
    raise
  except Exception as error:
    raise UnusableDicom('undecodable', _told(error)) from error


def _check(
  dataset: pydicom.Dataset,
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
  if 'PixelData' not in dataset:
    raise UnusableDicom('no_pixels', 'no PixelData')
  if dicom_header.integer(dataset.get('NumberOfFrames')) > 1:
    raise UnusableDicom('multi_frame', f'{dataset.NumberOfFrames} frames')
  if header.height < 1 or header.width < 1 or not dataset.PixelData:
    raise UnusableDicom('empty', f'{header.height} x {header.width} pixels')
  samples = dicom_header.integer(dataset.get('SamplesPerPixel'), 1)
  if samples != 1 or header.photometric not in ('MONOCHROME1', 'MONOCHROME2'):
    raise UnusableDicom(
      'color', f'{shown.photometric or "no photometric"}, {samples} samples'
    )
  if header.height * header.width > _MOST_PIXELS:
    raise UnusableDicom(
      'undecodable', f'{header.height} x {header.width} pixels are too many'
    )
  if not 1 < header.bits_stored <= 16:
    raise UnusableDicom('undecodable', f'{header.bits_stored} bits stored')


def _told(error: Exception) -> str:
  """What went wrong, but not its text, which may quote a header."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  return type(error).__name__
