"""A film's mask as DICOM SEG, the standard's form of a segmentation.

It lies on the film's pixels and refers to the film. A radiograph has no place
in space, so the segmentation gets none, and no spacing either: viewers take it
from the film. Codes are those of SNOMED CT.
"""

import contextlib
import hashlib
import importlib.util
import io
import logging
import os
import re
import threading
import warnings
from typing import NamedTuple

import numpy as np
import pydicom
from pydicom import datadict, uid, valuerep
from pydicom.sr.codedict import codes

from pnx_jax.errors import UserError
from pnx_jax.formats import dicom_header, files

# All that is taken from a film. The standard wants these, if need be empty,
_PATIENT_AND_STUDY = (
  'PatientName',
  'PatientID',
  'PatientBirthDate',
  'PatientSex',
  'StudyDate',
  'StudyTime',
  'StudyID',
  'AccessionNumber',
  'ReferringPhysicianName',
)
# these, valid,
_UIDS = ('StudyInstanceUID', 'SeriesInstanceUID', 'SOPInstanceUID')
_SHAPE = ('SOPClassUID', 'Rows', 'Columns', 'PatientOrientation')
# and these where they apply.
_LOSSY = (
  'LossyImageCompression',
  'LossyImageCompressionRatio',
  'LossyImageCompressionMethod',
)
# What the standard says of these beyond their VR.
_FORMS = {
  'PatientSex': '[FMO]',
  'PatientName': r'([^=^]*\^){0,4}[^=^]*(=([^=^]*\^){0,4}[^=^]*){0,2}',
}
_FORMS['ReferringPhysicianName'] = _FORMS['PatientName']

_TIMES = {'DA': valuerep.DA, 'TM': valuerep.TM}

_SOFTWARE = 'pnx_jax'
_PURPOSE = 'For research only, not for diagnosis'
_SERIES_NUMBER = 1000  # Behind the series that a scanner makes.

_logger = logging.getLogger(__name__)
_one_at_a_time = threading.Lock()
# What they remark quotes the header.
for _library in ('highdicom', 'pydicom'):
  logging.getLogger(_library).setLevel(logging.ERROR)


class Unsuitable(UserError):
  """A film that no valid segmentation can refer to."""


class Reference(NamedTuple):
  """What a segmentation needs of the header of its film.

  Attributes:
    film: the attributes, all of them valid.
    replaced: the UIDs that the film lacks, and that are new.
  """

  film: pydicom.Dataset
  replaced: tuple[str, ...]


def check_installed() -> None:
  """Raises UserError where highdicom is missing."""
  if importlib.util.find_spec('highdicom') is None:
    raise UserError(
      "DICOM SEG needs highdicom: run `pip install -e '.[dicom]'`"
    )


def reference(source: str | os.PathLike[str] | bytes) -> Reference:
  """Reads what a segmentation needs of a film: a path or its content.

  Raises:
    Unsuitable: the header is not that of an image.
  """
  film, replaced = pydicom.Dataset(), []
  try:
    with _quiet():
      given = pydicom.dcmread(
        io.BytesIO(source) if isinstance(source, bytes) else source,
        force=True,
        stop_before_pixels=True,
        specific_tags=[*_PATIENT_AND_STUDY, *_UIDS, *_SHAPE, *_LOSSY],
      )
      film.SOPClassUID = uid.UID(given.SOPClassUID)
      film.Rows, film.Columns = int(given.Rows), int(given.Columns)
      film.PatientOrientation = list(dicom_header.orientation(given))
      for keyword in _PATIENT_AND_STUDY:
        setattr(film, keyword, _valid_text(given, keyword))
      for keyword in _LOSSY:
        if value := _valid_text(given, keyword):
          setattr(film, keyword, value)
      for keyword in _UIDS:
        text = dicom_header.text(given, keyword)
        if not uid.UID(text).is_valid:
          replaced.append(keyword)
          # The same one for the same text.
          text = uid.generate_uid(
            entropy_srcs=[keyword, text] if text else None
          )
        setattr(film, keyword, text)
  except Exception as error:
    raise Unsuitable(
      'no DICOM SEG: the header is not that of an image '
      f'({type(error).__name__})'
    ) from error
  return Reference(film, tuple(replaced))


def write(
  source: str | os.PathLike[str] | Reference,
  mask: np.ndarray,
  output: str | os.PathLike[str],
  *,
  model: str,
  rules: str,
) -> None:
  """Writes the mask of a film; the file is there whole or not at all.

  The same film, mask and versions give the same UIDs.

  Args:
    source: the film's file, or what was read of it.
    mask: bool[H, W] in the film's own pixels, not empty: a film without a
      finding has no segmentation.
    output: where to.
    model: version of the networks.
    rules: version of the rules and thresholds.

  Raises:
    Unsuitable: no valid segmentation can refer to this film.
    UserError: highdicom is missing, or the file cannot be written.
  """
  check_installed()
  if not mask.any():
    raise ValueError('an empty mask cannot be a segmentation')
  film, replaced = (
    source if isinstance(source, Reference) else reference(source)
  )
  if mask.shape != (film.Rows, film.Columns):
    raise Unsuitable(
      f'no DICOM SEG: a mask of {mask.shape[0]} x {mask.shape[1]} does not fit '
      f'a film of {film.Rows} x {film.Columns}'
    )
  for keyword in replaced:
    _logger.warning(
      '%s: the film has no valid %s; this one is new, no archive knows it.',
      output,
      keyword,
    )
  try:
    with _quiet():
      made = _segmentation(film, mask, model, rules)
  except Exception as error:  # Its text may name what the header holds.
    raise Unsuitable(
      f'no DICOM SEG: highdicom takes no {film.SOPClassUID.name} with this '
      f'header ({type(error).__name__})'
    ) from error
  with files.atomic(output) as file:
    made.save_as(file, enforce_file_format=True)


@contextlib.contextmanager
def _quiet():
  """Without warnings, which quote the header; their filters know no threads."""
  with _one_at_a_time, warnings.catch_warnings():
    warnings.simplefilter('ignore')
    yield


def _valid_text(dataset: pydicom.Dataset, keyword: str) -> str:
  """The text of an attribute, empty where it is missing or not allowed."""
  text = dicom_header.text(dataset, keyword)
  vr = datadict.dictionary_VR(keyword)
  allowed, _ = valuerep.VALIDATORS[vr](vr, text)
  if not (allowed and text.isprintable() and '\\' not in text):
    return ''
  try:
    if vr in _TIMES:
      _TIMES[vr](text)
  except ValueError:
    return ''
  return text if re.fullmatch(_FORMS.get(keyword, '.*'), text) else ''


def _segmentation(film, mask, model, rules) -> pydicom.Dataset:
  import highdicom  # Not part of a plain installation.

  version = f'{model}, rules {rules}'
  segment = highdicom.seg.SegmentDescription(
    segment_number=1,
    segment_label='Pneumothorax',
    segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
    segmented_property_type=codes.SCT.Pneumothorax,
    algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
    algorithm_identification=highdicom.AlgorithmIdentificationSequence(
      name=_SOFTWARE,
      version=version,
      family=codes.DCM.ArtificialIntelligence,
    ),
  )
  drawn = hashlib.sha256(np.packbits(mask)).hexdigest()
  what = [film.SOPInstanceUID, version, drawn]
  made = highdicom.seg.Segmentation(
    source_images=[film],
    pixel_array=mask[None],
    segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
    segment_descriptions=[segment],
    series_instance_uid=uid.generate_uid(entropy_srcs=['series', *what]),
    series_number=_SERIES_NUMBER,
    series_description=f'Pneumothorax. {_PURPOSE}',
    sop_instance_uid=uid.generate_uid(entropy_srcs=['image', *what]),
    instance_number=1,
    manufacturer=_SOFTWARE,
    manufacturer_model_name=_SOFTWARE,
    software_versions=version,
    device_serial_number=model,
    content_label='PNEUMOTHORAX',
    content_description=_PURPOSE,
    content_qualification=highdicom.ContentQualificationValues.RESEARCH,
    specific_character_set='ISO_IR 192',
  )
  made.PatientOrientation = film.PatientOrientation
  made.ContentCreatorName = ''
  return made
