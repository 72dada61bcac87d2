"""Label text, sides and pictures of films whose answers are known."""

import os
import subprocess
import sys
import types

import cv2
import dicom_files
import numpy as np
import pytest
from PIL import Image

from data_prep import entries, prepare, view
from pnx_jax import case as cases
from pnx_jax import draw
from pnx_jax.errors import UserError
from pnx_jax.formats import built_dataset, rle, schema


def case(mask=None, **known):
  values = {
    'image': np.full((80, 100), 90, np.uint8),
    'mask': mask,
    'image_id': 'film',
    'view': 'PA',
    'sex': 'F',
    'age': 48,
    'pixel_spacing': (0.2, 0.1),
    'spacing_plane': 'patient',
    **known,
  }
  return cases.Case(**values)


def mask_at(*columns):
  mask = np.zeros((80, 100), bool)
  for column in columns:
    mask[10:60, column : column + 20] = True
  return mask


def test_label_text_of_a_positive():
  assert cases.describe(case(mask_at(5))) == [
    'film',
    'PA, female, 48 years',
    'pneumothorax: yes, right',
    '1,000 px, 20 mm2',  # 1,000 x 0.2 x 0.1
  ]


def test_label_text_of_a_negative_and_of_an_unlabeled_film():
  assert cases.describe(case(mask_at()))[2:] == ['pneumothorax: no']
  unknown = case(view='', sex='', age=-1)
  assert cases.describe(unknown) == [
    'film',
    'view, sex and age unknown',
    'not labeled',
  ]


def test_square_millimeters_name_the_plane_or_are_left_out():
  detector = case(mask_at(5), spacing_plane='detector')
  assert cases.describe(detector)[3].endswith('20 mm2 (detector plane)')
  none = case(mask_at(5), pixel_spacing=(-1.0, -1.0), spacing_plane='')
  assert cases.describe(none)[3] == '1,000 px'


@pytest.mark.parametrize(
  ('columns', 'expected'),
  [((5,), ['right']), ((70,), ['left']), ((5, 70), ['right', 'left'])],
)
def test_the_films_left_half_is_the_patients_right(columns, expected):
  assert case(mask_at(*columns)).sides == expected


def test_no_side_on_a_lateral_film():
  assert case(mask_at(5), view='LL').sides == []
  assert cases.describe(case(mask_at(5), view='LL'))[2] == 'pneumothorax: yes'


def test_picture_marks_the_mask_where_it_is():
  picture = cases.overlay(case(mask_at(70)), 400)
  colored = np.ptp(picture[:320].astype(int), axis=-1) > 30
  rows, columns = np.nonzero(colored)
  # The rectangle at 4 times the size, and a box that leaves it a margin.
  assert abs(rows.min() - 40) < 8 and abs(rows.max() - 240) < 8
  assert abs(columns.min() - 280) < 8 and abs(columns.max() - 360) < 8
  assert picture.shape[0] > 320 and picture.shape[1] == 400


def test_regions_are_told_their_areas_when_there_are_several():
  one, two = (
    cases.overlay(case(mask_at(*columns)), 400)[:320]
    for columns in ((5,), (5, 70))
  )
  plates = [
    (picture == draw.BACKGROUND).all(-1).any(axis=0) for picture in (one, two)
  ]
  assert not plates[0].any()
  assert plates[1][:200].any() and plates[1][200:].any()


@pytest.fixture
def films(tmp_path):
  folder = tmp_path / 'films'
  folder.mkdir()
  for name, seed in (('a', 0), ('b', 1), ('c', 2)):
    made = dicom_files.dataset(dicom_files.film(48, 64, seed=seed))
    made.save_as(folder / f'{name}.dcm', enforce_file_format=True)
  (folder / 'broken.dcm').write_bytes(b'no film')
  mask = np.zeros((48, 64), bool)
  mask[4:20, 40:50] = True
  table = tmp_path / 'rle.csv'
  table.write_text(f'ImageId,EncodedPixels\na,{rle.encode(mask)}\nb,-1\n')
  return folder, table, mask


def test_command_from_dicom(films, tmp_path):
  folder, table, _ = films
  output = tmp_path / 'out'
  done = subprocess.run(
    [
      sys.executable,
      '-m',
      'data_prep.view',
      f'--dicom_dir={folder}',
      f'--rle_csv={table}',
      f'--output_dir={output}',
      '--size=96',
    ],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert (
    '3 pictures' in done.stdout and 'left out: broken: not_dicom' in done.stdout
  )
  names = {path.name for path in output.iterdir()}
  assert names == {'a.png', 'b.png', 'c.png', 'contact_sheet_1.png'}
  picture = cv2.imread(str(output / 'a.png'))
  assert (np.abs(picture[:72] - np.array(draw.BOX[::-1])).max(-1) < 9).any()
  sheet = cv2.imread(str(output / 'contact_sheet_1.png'))
  assert sheet.shape[1] > 3 * 96


def test_mask_of_a_dicom_is_the_union_of_its_rows(films):
  folder, table, mask = films
  found = entries.find(folder, entries.TRAIN, rle.read_csv(table))
  first, second, _, third = found  # the third is not a DICOM file
  assert np.array_equal(view.from_film(first).mask, mask)
  assert not view.from_film(second).mask.any()
  assert view.from_film(third).mask is None


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ((), 'give either --dicom_dir'),
    (('--dicom_dir=none',), 'none is not a folder'),
    (('--data_dir=none',), 'no dataset at none'),
  ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path):
  done = subprocess.run(
    [
      sys.executable,
      '-m',
      'data_prep.view',
      f'--output_dir={tmp_path}',
      *arguments,
    ],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2
  assert message in done.stderr
  assert done.stderr.count('\n') == 1


def test_built_records_show_the_films_own_pixels(films, tmp_path):
  """A record of a non-square film, against that film."""
  folder, _, mask = films
  film = view.from_film(entries.find(folder, entries.TEST, {})[0])
  square = np.zeros((64, 64), np.uint8)
  square[8:56] = film.image
  record = schema.Record(
    image=cv2.imencode('.png', square)[1].tobytes(),
    mask=b'',
    rle=rle.encode(mask),
    image_id='a',
    patient=0,
    label=schema.POSITIVE,
    height=48,
    width=64,
    pixel_aspect=1.0,
    view='PA',
    sex='F',
    age=69,
    pixel_spacing=(0.2, 0.2),
    spacing_plane='patient',
    mirrored=0,
    num_annotations=1,
    agreement=-1.0,
    boxes=np.zeros((0, 5), np.int32),
  )
  shown = view.from_record(record)
  assert np.array_equal(shown.image, film.image)
  assert np.array_equal(shown.mask, mask)


def test_films_without_a_mask_say_what_is_known_of_them():
  boxed = case(None, positive=True, boxes=np.array([[10, 10, 20, 20]]))
  assert cases.describe(boxed)[2] == 'pneumothorax: yes, in 1 box'
  assert cases.describe(case(None, positive=True))[2].endswith(
    'yes, not outlined'
  )
  assert cases.describe(case(None))[2] == 'not labeled'
  plain = cases.overlay(case(None, positive=True), 128)
  assert not np.array_equal(cases.overlay(boxed, 128)[:96], plain[:96])


def test_boxes_of_a_manifest_are_shown(tmp_path):
  Image.fromarray(dicom_files.film(64, 64)).save(tmp_path / 'a.png')
  manifest = tmp_path / 'films.csv'
  manifest.write_text('path,box\na.png,10 20 30 15\n')
  ((name, load),) = films_of(manifest=str(manifest), image_ids=[])
  shown = load()
  assert (name, shown.mask) == ('a', None)
  assert shown.boxes.tolist() == [[10, 20, 30, 15, 450]]


def films_of(**values):
  names = (
    *('dicom_dir', 'rle_csv', 'data_dir', 'manifest'),
    *('num_images', 'image_ids'),
  )
  return view._films(types.SimpleNamespace(**dict.fromkeys(names) | values))


def test_records_of_a_dataset_are_shown(dataset_dir, tmp_path):
  splits = built_dataset.split_sizes(dataset_dir)
  films = films_of(data_dir=dataset_dir, image_ids=[])
  assert len(films) == sum(splits.values())
  written, failures = view.write(films[:5], tmp_path, size=64, columns=2)
  assert (written, failures) == (5, [])
  chosen = [films[3][0]]
  ((image_id, _),) = films_of(data_dir=dataset_dir, image_ids=chosen)
  assert image_id == chosen[0]
  first = films_of(data_dir=dataset_dir, image_ids=[], num_images=2)
  assert [film[0] for film in first] == [film[0] for film in films[:2]]
  with pytest.raises(UserError, match='no film is named typo'):
    films_of(data_dir=dataset_dir, image_ids=[*chosen, 'typo'])


def crash():
  os.abort()


def plain():
  return case()


def test_a_film_that_ends_its_decoder_and_one_id_twice(tmp_path):
  films = [('a', plain), ('b', crash), ('a', plain)]
  written, failures = view.write(films, tmp_path, size=64, columns=2)
  assert (written, failures) == (
    2,
    ['b: crashed: its decoder ended the process (SIGABRT)'],
  )
  names = {path.name for path in tmp_path.iterdir()}
  assert names == {'a.png', 'a_2.png', 'contact_sheet_1.png'}


def test_a_picture_that_cannot_be_written(tmp_path):
  (tmp_path / 'a.png').mkdir()
  with pytest.raises(UserError, match=r'cannot write .*a\.png: '):
    view.write([('a', plain)], tmp_path, size=64, columns=2)


def test_side_of_a_mirrored_film_from_its_record(films, tmp_path):
  folder, table, _ = films
  path = dicom_files.write(
    folder / 'a.dcm',
    dicom_files.film(48, 64),
    PatientOrientation=['R', 'F'],
  )
  source = entries.find(folder, entries.TRAIN, rle.read_csv(table))[0]
  assert source.path == str(path)
  assert view.from_film(source).sides == ['right']  # columns 40 to 50 of 64
  (outcome,) = prepare.run_batch(
    [(0, source)],
    options=prepare.RecordOptions(16, 'auto', (), ()),
    folder=tmp_path,
    salt=b'',
  )
  record = prepare.read_record(tmp_path, outcome)
  assert view.from_record(record).sides == ['right']
