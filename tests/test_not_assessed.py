"""Films that are not scored are listed with the reason, others are read."""

import os
import pathlib

import dicom_files
import numpy as np
import pydicom
import pytest
from output_files import csv_rows

from pnx_jax import pool
from pnx_jax.errors import UserError
from pnx_jax.formats import dicom, letterbox
from pnx_jax.inference import discovery
from pnx_jax.prediction import decoding


def test_what_is_not_assessed_is_listed_apart(predict, five_films, tmp_path):
  pixels = dicom.read(five_films / 'a.dcm').pixels
  folder = tmp_path / 'others'
  for name, picture, attributes in (
    ('lateral', pixels, {'ViewPosition': 'LL'}),
    ('hand', pixels, {'BodyPartExamined': 'HAND'}),
    ('tomography', pixels, {'Modality': 'CT'}),
    ('unnamed', pixels, {'BodyPartExamined': None, 'ViewPosition': None}),
    ('turned', np.ascontiguousarray(pixels[::-1, ::-1]), {}),
    ('blank', np.zeros_like(pixels), {}),
  ):
    dicom_files.write(folder / f'{name}.dcm', picture, **attributes)
  (folder / 'text.dcm').write_text('no DICOM')
  (folder / 'notes.txt').write_text('neither')
  (folder / 'gone.dcm').symlink_to('nowhere')
  readings = predict(folder, five_films / 'a.dcm')
  out = tmp_path / 'out'
  found = {
    r['image_id']: r['reason'] for r in csv_rows(out / 'not_assessed.csv')
  }
  assert found == {
    'lateral': 'lateral',
    'hand': 'body_part',
    'tomography': 'modality',
    'turned': 'turned',
    'blank': 'blank',
    'text': 'not_dicom',
    'gone': 'unreadable',
  }
  scored = {row['image_id'] for row in csv_rows(out / 'worklist.csv')}
  assert scored == {'unnamed', 'a'}
  assert readings['blank'].probability == -1
  again = predict(folder, accept_modality=('CR', 'CT'))
  assert again['tomography'].assessed
  assert not again['lateral'].assessed


def test_header_texts_of_any_length_are_cut_to_their_vr(
  predict, five_films, tmp_path
):
  """The film beside them comes out as it does alone."""
  pixels = dicom.read(five_films / 'a.dcm').pixels
  long = 'X' * 1_000_000
  folder = tmp_path / 'films'
  for name, attributes in (
    ('view', {'ViewPosition': long}),
    ('lateral', {'ViewPosition': long + 'LATERAL'}),
    ('modality', {'Modality': long}),
    ('body_part', {'BodyPartExamined': long}),
    ('photometric', {'PhotometricInterpretation': long}),
    ('twin', {}),
  ):
    film = dicom_files.dataset(pixels, **attributes)
    # Explicit VRs have no room for so long a text.
    film.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    folder.mkdir(exist_ok=True)
    film.save_as(folder / f'{name}.dcm', enforce_file_format=True)
  readings = predict(folder)
  assert {
    name: each.reason for name, each in readings.items() if each.reason
  } == {
    'lateral': 'lateral',
    'modality': 'modality',
    'body_part': 'body_part',
    'photometric': 'color',
  }
  assert readings['view'].view == 'X' * 16
  assert readings['view'].rle == readings['twin'].rle
  assert readings['lateral'].detail == f'view {"X" * 16}'
  for path in (tmp_path / 'out').rglob('*.csv'):
    assert 'X' * 17 not in path.read_text()


def test_awkward_files_are_all_accounted_for(predict, five_films, tmp_path):
  """pydicom's own: no chest film is among them."""
  folder = pathlib.Path(pydicom.__file__).parent / 'data' / 'test_files'
  readings = predict(folder, five_films / 'a.dcm', accept_modality=())
  refused = csv_rows(tmp_path / 'out' / 'not_assessed.csv')
  found = discovery.find([str(folder)], leave_out=tmp_path)
  assert {row['path'] for row in refused} == {one.path for one in found}
  assert [name for name, one in readings.items() if one.assessed] == ['a']


def test_real_films_are_assessed_and_others_are_not(predict, real_data):
  readings = predict(
    real_data / 'siim' / 'dicom-images-test', real_data / 'dicom_matrix'
  )
  refused = {
    name: one.reason for name, one in readings.items() if not one.assessed
  }
  assert refused == {
    'cr_monochrome1_jpeg_lossless_modality_lut': 'unlike',  # teeth
    'monochrome1_jpeg_baseline': 'unlike',  # bright and dark exchanged
    'truncated_pixels_mr': 'modality',
    'wrong_modality_ct': 'modality',
  }
  assert len(readings) - len(refused) == 12 + 4


def test_what_is_no_file_or_hangs_is_refused_and_the_others_are_read(
  five_films, tmp_path
):
  os.mkfifo(tmp_path / 'pipe.dcm')
  sources = discovery.find(
    [str(five_films), str(tmp_path)], leave_out='nowhere'
  )
  ids = [*(source.image_id for source in sources), 'hangs']
  with decoding.read(
    [*(source.path for source in sources), dicom_files.Hangs()],
    decoding.ReadOptions(32, 'auto'),
    num_workers=1,
    limits=pool.Limits(seconds=2),
  ) as films:
    found = {ids[film.number]: film for film in films}
  assert found.pop('hangs')[1:] == (
    'timeout',
    'takes longer than --seconds_per_film=2',
  )
  assert found.pop('pipe').reason == 'unreadable'
  assert set(found) == set('abcde')
  for name, film in found.items():
    pixels = dicom.read(five_films / f'{name}.dcm').pixels
    np.testing.assert_array_equal(
      film.square[..., 0], letterbox.letterbox(pixels, 32)
    )
    assert film.header.patient_id == ''


def test_a_defect_of_this_program_refuses_films_until_it_is_common(
  phantom_films,
):
  paths = sorted(phantom_films.rglob('*.dcm'))[:24]
  # Drawing such a picture raises a TypeError in the worker.
  options = decoding.ReadOptions(32, 'auto', picture_size='640')
  refused = []
  with (
    decoding.read(paths, options, num_workers=1) as films,
    pytest.raises(
      UserError, match=r'20 films met TypeError in .*defect of pnx'
    ),
  ):
    refused.extend(films)
  assert len(refused) <= 19
