"""Radiographs as DICOM files: header and pixels, or the reason why not."""

import dataclasses
import os
import warnings
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import pydicom
from pydicom import pixels as pydicom_pixels
from pydicom import uid

from pnx_jax.formats import greyscale

CHEST = ('CHEST', 'THORAX', 'LUNG')
RADIOGRAPHY = ('CR', 'DX')
# In this order; the plugins' names are pydicom's. `pydicom` itself reads RLE.
DECODERS = ('pydicom', 'pillow', 'gdcm', 'pylibjpeg', 'pyjpegls')
_PYLIBJPEG_IS_GPL = (*uid.JPEGTransferSyntaxes, *uid.JPEGLSTransferSyntaxes)
_MOST_PIXELS = 100_000_000


class UnusableDicom(ValueError):
  """A file that is no usable radiograph.

  Attributes:
    reason: Code for tables: `unreadable`, `not_dicom`, `modality`,
      `body_part`, `no_pixels`, `multi_frame`, `colour`, `empty`, `truncated`,
      `undecodable`.
    detail: The same in words.
  """

  def __init__(self, reason: str, detail: str):
    super().__init__(f'{reason}: {detail}')
    self.reason = reason
    self.detail = detail

  def __reduce__(self):
    return type(self), (self.reason, self.detail)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
  """What a file says about its film; empty or -1 where it says nothing.

  `patient_id` is for grouping in memory: it is never written anywhere.
  """

  height: int
  width: int
  modality: str
  body_part: str
  view: str
  sex: str
  age: int
  pixel_spacing: tuple[float, float]
  spacing_plane: str
  pixel_aspect: float
  photometric: str
  bits_stored: int
  transfer_syntax: str
  manufacturer: str
  patient_id: str


class Film(NamedTuple):
  """A radiograph: uint8[H, W], dense tissue bright, and its header."""

  pixels: np.ndarray
  header: Header


def read(
  path: str | os.PathLike,
  *,
  window: str = 'auto',
  accept_modality: Collection[str] = RADIOGRAPHY,
  accept_body_part: Collection[str] = CHEST,
) -> Film:
  """Reads a single-frame monochrome radiograph.

  Args:
    path: The file.
    window: See `greyscale.to_uint8`.
    accept_modality: Modalities to let pass; empty lets all pass.
    accept_body_part: Words of which BodyPartExamined holds one, where the file
      has that attribute; empty lets all pass.

  Raises:
    UnusableDicom: The file is no such radiograph.
  """
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    dataset = _open(path)
    header = _header(dataset)
    _check(dataset, header, accept_modality, accept_body_part)
    try:
      stored = _decode(dataset, header)
      return Film(greyscale.to_uint8(stored, dataset, window=window), header)
    except UnusableDicom:
      raise
    except Exception as error:
      raise UnusableDicom('undecodable', _one_line(error)) from error


def read_header(path: str | os.PathLike) -> Header:
  """Reads the header alone; the film may be unusable all the same.

  Raises:
    UnusableDicom: The file is no DICOM.
  """
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    return _header(_open(path, pixels=False))


def is_dicom(path: str | os.PathLike) -> bool:
  """Whether a file carries DICOM's mark at byte 128."""
  try:
    with open(path, 'rb') as file:
      return file.read(132)[128:] == b'DICM'
  except OSError:
    return False


def _open(path: str | os.PathLike, *, pixels: bool = True) -> pydicom.Dataset:
  try:
    dataset = pydicom.dcmread(path, force=True, stop_before_pixels=not pixels)
    # Without pydicom's own check a headerless file of noise has "elements".
    if dataset.preamble is None and 'SOPClassUID' not in dataset:
      raise UnusableDicom('not_dicom', 'no DICM mark at byte 128')
  except UnusableDicom:
    raise
  except OSError as error:
    raise UnusableDicom('unreadable', _one_line(error)) from error
  except EOFError as error:
    raise UnusableDicom('truncated', _one_line(error)) from error
  except Exception as error:
    raise UnusableDicom('not_dicom', _one_line(error)) from error
  return dataset


def _check(
  dataset: pydicom.Dataset,
  header: Header,
  accept_modality: Collection[str],
  accept_body_part: Collection[str],
) -> None:
  if accept_modality and header.modality not in accept_modality:
    raise UnusableDicom(
      'modality',
      f'{header.modality or "none"}, not {" or ".join(accept_modality)}',
    )
  if (
    accept_body_part
    and header.body_part
    and not any(word in header.body_part for word in accept_body_part)
  ):
    raise UnusableDicom(
      'body_part',
      f'{header.body_part}, not {" or ".join(accept_body_part)}',
    )
  if 'PixelData' not in dataset:
    raise UnusableDicom('no_pixels', 'no PixelData')
  if _integer(dataset.get('NumberOfFrames')) > 1:
    raise UnusableDicom('multi_frame', f'{dataset.NumberOfFrames} frames')
  samples = _integer(dataset.get('SamplesPerPixel'), 1)
  if samples != 1 or header.photometric not in ('MONOCHROME1', 'MONOCHROME2'):
    raise UnusableDicom(
      'colour', f'{header.photometric or "no photometric"}, {samples} samples'
    )
  if header.height < 1 or header.width < 1 or not dataset.PixelData:
    raise UnusableDicom('empty', f'{header.height} x {header.width} pixels')
  if header.height * header.width > _MOST_PIXELS:
    raise UnusableDicom(
      'undecodable', f'{header.height} x {header.width} pixels are too many'
    )
  if not 1 < header.bits_stored <= 16:
    raise UnusableDicom('undecodable', f'{header.bits_stored} bits stored')


def _decode(dataset: pydicom.Dataset, header: Header) -> np.ndarray:
  """Returns the stored values, int[H, W], by the first decoder that can."""
  syntax = dataset.file_meta.TransferSyntaxUID
  if syntax.is_compressed:
    return _decompress(dataset, syntax)
  needed = header.height * header.width * int(dataset.BitsAllocated) // 8
  if len(dataset.PixelData) < needed:
    raise UnusableDicom(
      'truncated', f'{len(dataset.PixelData)} of {needed} bytes of pixels'
    )
  return _unused_bits_removed(
    pydicom_pixels.get_decoder(syntax).as_array(dataset, raw=True)[0], dataset
  )


def _decompress(dataset: pydicom.Dataset, syntax: uid.UID) -> np.ndarray:
  decoder = pydicom_pixels.get_decoder(syntax)
  # The JPEG decoder that pylibjpeg can be given is GPL: it is never asked.
  plugins = [
    name
    for name in DECODERS
    if name in decoder.available_plugins
    and (name != 'pylibjpeg' or syntax not in _PYLIBJPEG_IS_GPL)
  ]
  if not plugins:
    raise UnusableDicom('undecodable', f'no decoder for {syntax.name}')
  errors = []
  for plugin in plugins:
    try:
      return decoder.as_array(dataset, raw=True, decoding_plugin=plugin)[0]
    except Exception as error:
      errors.append(f'{plugin}: {_one_line(error)}')
  reason = 'truncated' if 'truncated' in errors[0] else 'undecodable'
  raise UnusableDicom(reason, '; '.join(errors))


def _unused_bits_removed(
  stored: np.ndarray, dataset: pydicom.Dataset
) -> np.ndarray:
  """Clears bits outside HighBit and BitsStored (old files keep overlays)."""
  allocated, bits = int(dataset.BitsAllocated), int(dataset.BitsStored)
  above = allocated - 1 - int(dataset.get('HighBit', bits - 1))
  if allocated == bits or above < 0:
    return stored
  return (stored << above) >> (allocated - bits)


def _header(dataset: pydicom.Dataset) -> Header:
  if 'TransferSyntaxUID' not in dataset.file_meta:
    implicit, little = dataset.original_encoding
    dataset.file_meta.TransferSyntaxUID = (
      uid.ImplicitVRLittleEndian
      if implicit
      else uid.ExplicitVRLittleEndian
      if little
      else uid.ExplicitVRBigEndian
    )
  spacing, plane = _spacing(dataset)
  sex = _text(dataset, 'PatientSex').upper()
  return Header(
    height=_integer(dataset.get('Rows')),
    width=_integer(dataset.get('Columns')),
    modality=_text(dataset, 'Modality').upper(),
    body_part=_text(dataset, 'BodyPartExamined').upper(),
    view=_text(dataset, 'ViewPosition').upper(),
    sex=sex if sex in ('F', 'M', 'O') else '',
    age=_years(_text(dataset, 'PatientAge')),
    pixel_spacing=spacing,
    spacing_plane=plane,
    pixel_aspect=_aspect(dataset, spacing),
    photometric=_text(dataset, 'PhotometricInterpretation').upper(),
    bits_stored=_integer(dataset.get('BitsStored')),
    transfer_syntax=str(dataset.file_meta.TransferSyntaxUID),
    manufacturer=_text(dataset, 'Manufacturer'),
    patient_id=_text(dataset, 'PatientID'),
  )


def _spacing(dataset: pydicom.Dataset) -> tuple[tuple[float, float], str]:
  for keyword, plane in (
    ('PixelSpacing', 'patient'),
    ('ImagerPixelSpacing', 'detector'),
  ):
    pair = _pair(dataset, keyword)
    if pair:
      return pair, plane
  return (-1.0, -1.0), ''


def _aspect(dataset: pydicom.Dataset, spacing: tuple[float, float]) -> float:
  """Returns a pixel's height over its width, 1 where that is no sane number."""
  pair = spacing if min(spacing) > 0 else _pair(dataset, 'PixelAspectRatio')
  aspect = pair[0] / pair[1] if pair else 1.0
  return aspect if 0.2 <= aspect <= 5 else 1.0


def _pair(dataset: pydicom.Dataset, keyword: str) -> tuple[float, float] | None:
  try:
    first, second = (float(value) for value in dataset[keyword].value)
  except (KeyError, TypeError, ValueError):
    return None
  return (first, second) if min(first, second) > 0 else None


def _years(age: str) -> int:
  """Returns `069Y`, `018M`, `030W`, `005D` or a bare `69` as years."""
  digits, unit = age.rstrip('YMWDymwd'), age[-1:].upper()
  if not digits.isdecimal():
    return -1
  return int(int(digits) / {'M': 12, 'W': 52.18, 'D': 365.25}.get(unit, 1))


def _text(dataset: pydicom.Dataset, keyword: str) -> str:
  try:
    value = dataset.get(keyword)
  except Exception:
    return ''
  return '' if value is None else str(value).strip(' \0')


def _integer(value, default: int = 0) -> int:
  try:
    return int(value)
  except (TypeError, ValueError):
    return default


def _one_line(error: Exception) -> str:
  words = ' '.join(str(error).split())
  return f'{type(error).__name__}: {words[:200]}' if words else repr(error)
