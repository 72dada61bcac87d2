"""DICOM SEG: what is written, read by others, and valid to their checkers."""

import functools
import shutil
import subprocess
import warnings
from concurrent import futures

import dicom_files
import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.data import get_testdata_file

from pnx_jax.errors import UserError
from pnx_jax.formats import dicom_seg

highdicom = pytest.importorskip('highdicom')

UIDS = ('StudyInstanceUID', 'SeriesInstanceUID', 'SOPInstanceUID')
MADE = {keyword: uid.generate_uid() for keyword in UIDS}
VERSIONS = {'model': '0123456789ab', 'rules': 'ba9876543210'}
# Not of patients' films, but single frames of every kind that a film may be.
ODD_FILES = (
  'ExplVR_BigEnd.dcm',
  'JPEG-lossy.dcm',
  'JPEG2000.dcm',
  'JPEGLSNearLossless_08.dcm',
  'SC_rgb_jpeg_dcmtk.dcm',
  'SC_rgb_rle.dcm',
)


def _mask(height=31, width=45):
  mask = np.zeros((height, width), bool)
  mask[3:9, 5 : width // 2] = True
  mask[height - 4 :, -1] = True
  return mask


def _written(tmp_path, mask, source=None, **attributes):
  """The DICOM SEG of a film with these attributes, its path and the film's."""
  if source is None:
    source = tmp_path / 'film.dcm'
    dicom_files.write(
      source, dicom_files.film(*mask.shape), **MADE | attributes
    )
  path = tmp_path / 'seg.dcm'
  dicom_seg.write(source, mask, path, **VERSIONS)
  return path


def _check(path, mask, source):
  """Both readers see the mask, and that it is the source's."""
  read = highdicom.seg.segread(path)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    film = pydicom.dcmread(source, force=True)
    film_uid = uid.UID(film.SOPInstanceUID)
  plain = pydicom.dcmread(path)
  np.testing.assert_array_equal(plain.pixel_array, mask)
  (series,) = plain.ReferencedSeriesSequence
  (image,) = series.ReferencedInstanceSequence
  seen = read.get_pixels_by_source_instance([image.ReferencedSOPInstanceUID])
  np.testing.assert_array_equal(seen[0, ..., 0], mask)
  if film_uid.is_valid:
    assert image.ReferencedSOPInstanceUID == film_uid
  assert image.ReferencedSOPClassUID == film.SOPClassUID
  _check_validity(path)
  return plain


def _check_validity(path):
  if shutil.which('dciodvfy'):
    said = subprocess.run(
      ['dciodvfy', path], capture_output=True, text=True, check=False
    )
    errors = [line for line in said.stderr.splitlines() if 'Error' in line]
    assert not errors
    assert 'Segmentation' in said.stderr.splitlines()
  if shutil.which('dcmdump'):
    said = subprocess.run(
      ['dcmdump', path], capture_output=True, text=True, check=True
    )
    assert not said.stderr
    assert 'SegmentationStorage' in said.stdout


def test_it_is_the_mask_of_the_film_and_says_what_it_shows(tmp_path):
  mask = _mask()
  source = tmp_path / 'film.dcm'
  path = _written(tmp_path, mask, StudyID='s1', PatientName='Doe^J')
  read = _check(path, mask, source)
  for keyword in ('StudyInstanceUID', 'StudyID', 'PatientName', 'PatientID'):
    assert read[keyword].value == pydicom.dcmread(source).get(keyword)
  assert read.SeriesInstanceUID != MADE['SeriesInstanceUID']
  assert read.SegmentationType == 'BINARY'
  assert read.ContentQualification == 'RESEARCH'
  assert 'research only' in read.SeriesDescription
  (segment,) = read.SegmentSequence
  (finding,) = segment.SegmentedPropertyTypeCodeSequence
  (category,) = segment.SegmentedPropertyCategoryCodeSequence
  assert (finding.CodeValue, finding.CodeMeaning) == (
    '36118008',
    'Pneumothorax',
  )
  assert category.CodeValue == '49755003'
  assert {finding.CodingSchemeDesignator, category.CodingSchemeDesignator} == {
    'SCT'
  }
  assert segment.SegmentAlgorithmType == 'AUTOMATIC'
  (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
  assert all(v in algorithm.AlgorithmVersion for v in VERSIONS.values())


def test_no_place_and_no_spacing_is_invented(tmp_path):
  path = _written(tmp_path, _mask(), PixelSpacing=[0.2, 0.2])
  tags = {element.keyword for element in pydicom.dcmread(path).iterall()}
  geometry = ('Spacing', 'Thickness', 'FrameOfReference', 'ImagePosition')
  assert not [t for t in tags if any(word in t for word in geometry)]


@pytest.mark.parametrize('given', [None, ['L', 'F'], 'nonsense'])
def test_orientation_is_the_films_or_unknown(tmp_path, given):
  attributes = {'PatientOrientation': given} if given else {}
  path = _written(tmp_path, _mask(), **attributes)
  said = pydicom.dcmread(path).PatientOrientation
  assert said == (given if isinstance(given, list) else None) or not said
  _check_validity(path)


def test_what_is_not_allowed_is_blank_and_uids_are_made(tmp_path, caplog):
  bad = {
    'PatientName': '^'.join('abcdefg'),
    'PatientID': 'x' * 65,
    'PatientBirthDate': '19990231',
    'PatientSex': 'X',
    'StudyDate': '19990101-20000101',
    'StudyTime': '2500',
    'StudyID': 'line\nfeed',
    'AccessionNumber': 'two\\of them',
  }
  uids = {'StudyInstanceUID': '1.02.3', 'SeriesInstanceUID': ''}
  path = _written(tmp_path, _mask(), **bad, **uids)
  first = _check(path, _mask(), tmp_path / 'film.dcm')
  for keyword in [*bad, 'ReferringPhysicianName']:
    assert not first[keyword].value, keyword
  assert uid.UID(first.StudyInstanceUID).is_valid
  assert uid.UID(first.ReferencedSeriesSequence[0].SeriesInstanceUID).is_valid
  assert 'no valid StudyInstanceUID' in caplog.text
  second = pydicom.dcmread(_written(tmp_path, _mask(), **bad, **uids))
  assert second.StudyInstanceUID == first.StudyInstanceUID


def test_the_same_finding_has_the_same_uids(tmp_path):
  first = pydicom.dcmread(_written(tmp_path, _mask()))
  again = pydicom.dcmread(_written(tmp_path, _mask()))
  other = pydicom.dcmread(_written(tmp_path, ~_mask()))
  for keyword in ('SOPInstanceUID', 'SeriesInstanceUID'):
    assert first[keyword].value == again[keyword].value != other[keyword].value


@pytest.mark.parametrize(
  'characters, name',
  [
    ('ISO_IR 100', 'Müller^Jörg'),
    ('ISO_IR 192', 'Wang^XiaoDong=王^小东='),
    (['', 'ISO 2022 IR 87'], 'Yamada^Tarou=山田^太郎=やまだ^たろう'),
    ('GB18030', 'Wang^XiaoDong=王^小东'),
  ],
)
def test_names_survive_their_character_sets(tmp_path, characters, name):
  path = _written(
    tmp_path, _mask(), SpecificCharacterSet=characters, PatientName=name
  )
  read = pydicom.dcmread(path)
  assert str(read.PatientName).rstrip('=') == name.rstrip('=')
  _check_validity(path)


def test_nothing_else_of_the_header_goes_in_and_nothing_is_said(
  tmp_path, caplog, recwarn
):
  secrets = {
    keyword: f'secret {keyword}'
    for keyword in (
      'InstitutionName',
      'OperatorsName',
      'OtherPatientIDs',
      'PatientComments',
      'PhysiciansOfRecord',
      'StationName',
      'StudyDescription',
    )
  }
  path = _written(tmp_path, _mask(), **secrets, PatientName='known')
  content = path.read_bytes()
  assert b'known' in content
  assert b'secret' not in content
  # A name of one part makes highdicom complain, and quote it.
  assert 'known' not in caplog.text
  assert not recwarn.list


@pytest.mark.parametrize('name', ODD_FILES)
def test_files_of_all_kinds(tmp_path, name):
  source = get_testdata_file(name)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    film = pydicom.dcmread(source)
    mask = _mask(film.Rows, film.Columns)
  _check(_written(tmp_path, mask, source), mask, source)


def test_real_films(tmp_path, real_data):
  sources = sorted(real_data.glob('dicom_matrix/*.dcm'))
  sources += sorted(real_data.glob('siim/dicom-images-test/*/*/*.dcm'))[:3]
  refused = []
  for source in sources:
    film = pydicom.dcmread(source, stop_before_pixels=True, force=True)
    mask = _mask(film.Rows, film.Columns)
    try:
      _check(_written(tmp_path, mask, source), mask, source)
    except UserError as error:
      refused.append(source.name)
      assert 'MR Image Storage' in str(error)
  assert refused == ['truncated_pixels_mr.dcm']


def test_what_no_segmentation_can_refer_to_is_one_line(tmp_path):
  noise = tmp_path / 'noise.dcm'
  noise.write_bytes(bytes(range(256)) * 8)
  film = dicom_files.write(
    tmp_path / 'film.dcm', dicom_files.film(31, 45), PatientName='Doe^Jane'
  )
  volume = get_testdata_file('MR_small.dcm')
  for source, mask, reason in (
    (tmp_path / 'missing.dcm', _mask(), 'header'),
    (noise, _mask(), 'header'),
    (film, _mask(30, 45), '30 x 45'),
    (volume, _mask(64, 64), 'MR Image Storage'),
  ):
    output = tmp_path / 'refused.dcm'
    with pytest.raises(UserError, match=reason) as error:
      dicom_seg.write(source, mask, output, **VERSIONS)
    assert str(error.value).startswith('no DICOM SEG: ')
    assert '\n' not in str(error.value) and 'Doe' not in str(error.value)
    assert not output.exists()
  with pytest.raises(ValueError, match='empty mask'):
    dicom_seg.write(film, ~_mask() & _mask(), tmp_path / 'x', **VERSIONS)


def test_without_highdicom_it_says_how_to_get_it(tmp_path, monkeypatch):
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  with pytest.raises(UserError, match=r"pip install -e '\.\[dicom\]'"):
    _written(tmp_path, _mask())


def test_threads_may_write_together(tmp_path, recwarn):
  source = dicom_files.write(
    tmp_path / 'film.dcm',
    dicom_files.film(31, 45),
    **MADE,
    PatientName='known',
  )
  paths = [tmp_path / f'{i}.dcm' for i in range(8)]
  with futures.ThreadPoolExecutor(4) as threads:
    write = functools.partial(dicom_seg.write, source, _mask(), **VERSIONS)
    list(threads.map(write, paths))
  for path in paths:
    _check(path, _mask(), source)
  assert not recwarn.list
