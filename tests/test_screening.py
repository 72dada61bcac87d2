"""What is caught, and that real films pass."""

import pathlib

import dicom_files
import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes

from pnx_jax.formats import dicom, dicom_header
from pnx_jax.formats.dicom import UnusableDicom
from pnx_jax.prediction import screening

TURNS = (1, 2, 3)


def reason(pixels):
  """Why a film is refused, or '' where it is not."""
  try:
    screening.check_pixels(np.ascontiguousarray(pixels))
  except UnusableDicom as error:
    return error.reason
  return ''


def films(paths):
  return [dicom.read(path).pixels for path in sorted(paths)]


@pytest.fixture(scope='module')
def phantoms(dataset_dir):
  folder = pathlib.Path(dataset_dir).parent / 'films'
  return films(list(folder.rglob('*.dcm'))[:12])


def test_phantoms_pass_upright_and_mirrored_alone(phantoms):
  for film in phantoms:
    assert [reason(np.rot90(film, n)) for n in TURNS] == ['turned'] * 3
    assert reason(film) == reason(film[:, ::-1]) == ''
    assert reason(film[::-1]) == 'turned'
    assert reason(255 - film) in ('unlike', 'turned')


def test_exposure_and_shape_do_not_matter(phantoms):
  for film in phantoms:
    dark = (255 * (film / 255) ** 3).astype(np.uint8)
    assert reason(dark) == reason(film // 4 + 60) == ''
    assert reason(np.repeat(film, 2, axis=0)) == ''
    assert reason(film[: 7 * len(film) // 8]) == ''


@pytest.mark.parametrize(
  'film',
  [
    np.zeros((200, 200), np.uint8),
    np.full((200, 200), 255, np.uint8),
    np.random.default_rng(0).integers(100, 104, (200, 200)).astype(np.uint8),
    np.random.default_rng(0).integers(0, 2, (200, 200)).astype(np.uint8) * 255,
  ],
)
def test_films_without_a_picture_are_blank(film):
  assert reason(film) == 'blank'


def test_noise_is_unlike_a_chest():
  noise = np.random.default_rng(0).integers(0, 256, (40, 200, 200), np.uint8)
  assert all(reason(picture) == 'unlike' for picture in noise)


def test_stamps_are_too_small():
  assert reason(dicom_files.film(99, 300)) == 'small'


@pytest.mark.parametrize(
  ('attributes', 'expected'),
  [
    ({'ViewPosition': 'LL'}, 'lateral'),
    ({'ViewPosition': 'Lateral'}, 'lateral'),
    ({'ViewPosition': 'LLO'}, 'oblique'),
    ({'ViewPosition': '', 'PatientOrientation': ['A', 'F']}, 'lateral'),
    ({'ViewPosition': 'PA', 'PatientOrientation': ['A', 'F']}, ''),
    ({'ViewPosition': 'AP'}, ''),
    ({'ViewPosition': None}, ''),
    ({'ViewPosition': None, 'PatientOrientation': ['R', 'F']}, ''),
  ],
)
def test_side_views_are_told_by_their_header(tmp_path, attributes, expected):
  path = dicom_files.write(
    tmp_path / 'film.dcm', dicom_files.film(), **attributes
  )
  header = dicom.read_header(path)
  if not expected:
    screening.check_header(header)
    return
  with pytest.raises(UnusableDicom) as error:
    screening.check_header(header)
  assert error.value.reason == expected


def _of_view(code, **attributes):
  """What a header says of the view, and why a film so coded is refused."""
  item = pydicom.Dataset()
  item.CodeValue = code
  item.CodeMeaning = 'secret'
  film = dicom_files.dataset(
    dicom_files.film(),
    **{'ViewPosition': None, 'ViewCodeSequence': [item]} | attributes,
  )
  header = dicom_header.parse(film)
  try:
    screening.check_header(header)
  except UnusableDicom as error:
    assert 'secret' not in error.detail
    return header.view, error.reason
  return header.view, ''


def test_coded_views_are_the_standards():
  """All codes of context group 4010, as pydicom names them."""
  expected = {'postero-anterior': ('PA', ''), 'antero-posterior': ('AP', '')}
  for meaning, view in (
    ('left lateral', 'LL'),
    ('right lateral', 'RL'),
    ('lateral', 'LATERAL'),
    ('medial-lateral', 'LATERAL'),
    ('lateral-medial', 'LATERAL'),
    ('Sagittal', 'LATERAL'),
  ):
    expected[meaning] = view, 'lateral'
  for kind in (
    '{}',
    *('frontal {}', 'antero-posterior {}', 'postero-anterior {}'),
    *('left {}', 'left anterior {}', 'left posterior {}'),
    *('right {}', 'right anterior {}', 'right posterior {}', 'lateral {}'),
  ):
    expected[kind.format('oblique')] = 'OBLIQUE', 'oblique'
  group = codes.cid4010
  concepts = [getattr(group, name) for name in group.dir()]
  assert expected.keys() < {concept.meaning for concept in concepts}
  for concept in concepts:
    found = _of_view(concept.value)
    assert found == expected.get(concept.meaning, ('', '')), concept


def test_older_and_odd_view_codes():
  assert _of_view('R-10206') == ('AP', '')
  assert _of_view('R-40888') == _of_view('R-10214') == ('PA', '')
  assert _of_view('R-10236') == ('LL', 'lateral')
  assert _of_view('399067008', ViewPosition='PA') == ('PA', '')
  assert _of_view('', ViewCodeSequence=[]) == ('', '')


def test_real_films_pass_and_turned_ones_do_not(real_data):
  pixels = films((real_data / 'siim').rglob('*.dcm'))
  assert [reason(film) for film in pixels] == [''] * 80
  turned = [reason(np.rot90(film, n)) for film in pixels for n in TURNS]
  assert turned.count('turned') >= 239
  assert all(reason(255 - film) for film in pixels)


def test_a_panorama_of_teeth_is_no_chest(real_data):
  folder = real_data / 'dicom_matrix'
  teeth = folder / 'cr_monochrome1_jpeg_lossless_modality_lut.dcm'
  assert reason(dicom.read(teeth).pixels) == 'unlike'
