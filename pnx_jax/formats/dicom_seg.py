"""A film's mask as DICOM SEG, the standard's form of a segmentation.

It lies on the film's pixels and refers to the film. A radiograph has no place
in space, so the segmentation gets none, and no spacing either: viewers take it
from the film. Codes are those of SNOMED CT.
"""

import contextlib
import hashlib
import importlib.util
import logging
import os
import re
import threading
import warnings

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


def check_installed() -> None:
  """Raises UserError where highdicom is missing."""
  if importlib.util.find_spec('highdicom') is None:
    raise UserError(
      "DICOM SEG needs highdicom: run `pip install -e '.[dicom]'`"
    )


def write(
  source: str | os.PathLike,
  mask: np.ndarray,
  output: str | os.PathLike,
  *,
  model: str,
  rules: str,
) -> None:
  """Writes the mask of a film; the file is there whole or not at all.

  The same film, mask and versions give the same UIDs.

  Args:
    source: the film's file.
    mask: bool[H, W] in the film's own pixels, not empty: a film without a
      finding has no segmentation.
    output: where to.
    model: version of the networks.
    rules: version of the rules and thresholds.

  Raises:
    UserError: highdicom is missing, or no valid segmentation can refer to this
      film.
  """
  check_installed()
  if not mask.any():
    raise ValueError('an empty mask is no segmentation')
  film = _film(source)
  if mask.shape != (film.Rows, film.Columns):
    raise UserError(
      f'{source}: no DICOM SEG, a mask of {mask.shape[0]} x {mask.shape[1]} '
      f'does not fit a film of {film.Rows} x {film.Columns}'
    )
  try:
    with _quiet():
      made = _segmentation(film, mask, model, rules)
  except Exception as error:  # Its text may name what the header holds.
    raise UserError(
      f'{source}: no DICOM SEG, highdicom takes no {film.SOPClassUID.name} '
      f'with this header ({type(error).__name__})'
    ) from error
  with files.atomic(output) as file:
    made.save_as(file, enforce_file_format=True)


@contextlib.contextmanager
def _quiet():
  """Without warnings, which quote the header; their filters know no threads."""
  with _one_at_a_time, warnings.catch_warnings():
    warnings.simplefilter('ignore')
    yield


def _film(source) -> pydicom.Dataset:
  """What a segmentation needs of a film's header, all of it valid."""
  film = pydicom.Dataset()
  try:
    with _quiet():
      given = pydicom.dcmread(
        source,
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
        setattr(film, keyword, _valid_uid(given, keyword, source))
  except Exception as error:
    raise UserError(
      f'{source}: no DICOM SEG, its header is not that of an image '
      f'({type(error).__name__})'
    ) from error
  return film


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


def _valid_uid(dataset: pydicom.Dataset, keyword: str, source) -> str:
  """A UID of the film; a new one, the same for the same text, if need be."""
  text = dicom_header.text(dataset, keyword)
  if uid.UID(text).is_valid:
    return text
  _logger.warning(
    '%s: no valid %s; its DICOM SEG has a new one, which no archive knows.',
    source,
    keyword,
  )
  return uid.generate_uid(entropy_srcs=[keyword, text] if text else None)


def _segmentation(film, mask, model, rules) -> pydicom.Dataset:
  import highdicom  # It is no part of a plain installation.

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
