"""What a DICOM file says about its film."""

import dataclasses
import math
from typing import Any

import numpy as np
import pydicom
from pydicom import uid

from pnx_jax.formats.names import printable
from pnx_jax.formats.spacing import IMPLAUSIBLE, UNKNOWN, is_plausible

# ViewCodeSequence in the terms of ViewPosition: of DICOM's context group 4010
# the codes in SNOMED CT and, as older files have them, in SNOMED RT.
_VIEW_CODES = {
  'PA': '272479007 R-40888 R-10214',
  'AP': '399348003 R-10206',
  'LL': '399173006 R-10236',
  'RL': '399198007 R-10232',
  'LATERAL': (
    '399067008 R-102CD 399260004 R-10224 399352003 R-10228 30730003 G-A145'
  ),
  'OBLIQUE': (
    '399182000 R-102C1 399160007 R-10204 399312000 R-10208 399059000 R-10216 '
    '399038007 R-10210 399006002 R-10212 399356000 R-40985 399135007 R-10220 '
    '399236003 R-10234 399184004 R-10238 260427002 R-40783'
  ),
}
# Most letters of the attributes' value representations, CS, LO and UI.
_LENGTHS = {
  'modality': 16,
  'body_part': 16,
  'view': 16,
  'photometric': 16,
  'transfer_syntax': 64,
  'manufacturer': 64,
}
_VIEW_OF = {
  code: view for view, codes in _VIEW_CODES.items() for code in codes.split()
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
  """What a file says about its film; empty or -1 where it says nothing.

  `orientation` is which way rows and columns run on the patient, a letter
  each: `LF` (left, foot) is usual. `patient_id` is for grouping: a digest of
  it, keyed at random, is all that is kept, and only while a build runs.
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
  orientation: str
  synthetic: bool
  patient_id: str

  @property
  def mirrored(self) -> bool:
    """Whether the film's left half is the patient's left."""
    return self.orientation.startswith('R')


def parse(dataset: pydicom.Dataset) -> Header:
  """Returns the header; names the transfer syntax where the file does not."""
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
  aspect_of_pixels = _aspect(dataset, spacing)
  height, width = integer(dataset.get('Rows')), integer(dataset.get('Columns'))
  if not is_plausible(spacing, height, width):
    spacing, plane = UNKNOWN, IMPLAUSIBLE
  sex = text(dataset, 'PatientSex').upper()
  return Header(
    height=height,
    width=width,
    modality=text(dataset, 'Modality').upper(),
    body_part=text(dataset, 'BodyPartExamined').upper(),
    view=text(dataset, 'ViewPosition').upper() or _coded_view(dataset),
    sex=sex if sex in ('F', 'M', 'O') else '',
    age=_years(text(dataset, 'PatientAge')),
    pixel_spacing=spacing,
    spacing_plane=plane,
    pixel_aspect=aspect_of_pixels,
    photometric=photometric(dataset),
    bits_stored=integer(dataset.get('BitsStored')),
    transfer_syntax=printable(str(dataset.file_meta.TransferSyntaxUID)),
    manufacturer=text(dataset, 'Manufacturer'),
    orientation=orientation(dataset),
    synthetic=text(dataset, 'SyntheticData') == 'YES',
    patient_id=text(dataset, 'PatientID'),
  )


def unknown(height: int, width: int) -> Header:
  """Returns the header of a film of which only the size is known."""
  return Header(
    height=height,
    width=width,
    modality='',
    body_part='',
    view='',
    sex='',
    age=-1,
    pixel_spacing=UNKNOWN,
    spacing_plane='',
    pixel_aspect=1.0,
    photometric='MONOCHROME2',
    bits_stored=8,
    transfer_syntax='',
    manufacturer='',
    orientation='',
    synthetic=False,
    patient_id='',
  )


def shortened(header: Header) -> Header:
  """The header with every text cut to the length that the standard allows.

  Damaged headers hold texts of any length; these are for tables and pictures.
  """
  return dataclasses.replace(
    header,
    **{name: getattr(header, name)[:most] for name, most in _LENGTHS.items()},
  )


def photometric(dataset: pydicom.Dataset) -> str:
  """Returns PhotometricInterpretation in capitals."""
  return text(dataset, 'PhotometricInterpretation').upper()


def _coded_view(dataset: pydicom.Dataset) -> str:
  """Returns what ViewCodeSequence says; its own words go nowhere."""
  try:
    code = text(dataset.ViewCodeSequence[0], 'CodeValue')
  except Exception:
    return ''
  return _VIEW_OF.get(code, '')


def _spacing(dataset: pydicom.Dataset) -> tuple[tuple[float, float], str]:
  for keyword, plane in (
    ('PixelSpacing', 'patient'),
    ('ImagerPixelSpacing', 'detector'),
  ):
    pair = _pair(dataset, keyword)
    if pair:
      return pair, plane
  return UNKNOWN, ''


def _aspect(dataset: pydicom.Dataset, spacing: tuple[float, float]) -> float:
  """Returns a pixel's height over its width, 1 where that is implausible."""
  pair = spacing if min(spacing) > 0 else _pair(dataset, 'PixelAspectRatio')
  return aspect(pair) if pair else 1.0


def aspect(pair: tuple[float, float]) -> float:
  """Returns a pixel's height over its width, 1 where that is implausible.

  It is as precise as a record, so that the way back is the way there.
  """
  ratio = pair[0] / pair[1]
  return float(np.float32(ratio)) if 0.2 <= ratio <= 5 else 1.0


def _pair(dataset: pydicom.Dataset, keyword: str) -> tuple[float, float] | None:
  try:
    first, second = (float(value) for value in dataset[keyword].value)
  except Exception:  # The value may be anything.
    return None
  usable = 0 < first < math.inf and 0 < second < math.inf
  return (first, second) if usable else None


def orientation(dataset: pydicom.Dataset) -> str:
  """Returns where rows and columns run, the first letter of each."""
  try:
    row, column = (str(value)[0] for value in dataset.PatientOrientation)
  except Exception:  # The value may be anything.
    return ''
  return row + column if {row, column} <= set('LRAPHF') else ''


def _years(age: str) -> int:
  """Returns `069Y`, `018M`, `030W`, `005D` or a bare `69` as years."""
  digits, unit = age.rstrip('YMWDymwd'), age[-1:].upper()
  if not digits.isdecimal() or len(digits) > 9:
    return -1
  years = int(int(digits) / {'M': 12, 'W': 52.18, 'D': 365.25}.get(unit, 1))
  return years if years < 1000 else -1


def text(dataset: pydicom.Dataset, keyword: str) -> str:
  """Returns an attribute as printable text of any length, empty without one."""
  try:
    value = dataset.get(keyword)
  except Exception:
    return ''
  return '' if value is None else printable(str(value).strip(' \0'))


def integer(value: Any, default: int = 0) -> int:
  """Returns an attribute that should be a whole number, or the default."""
  try:
    return int(value)
  except (TypeError, ValueError, OverflowError):
    return default
