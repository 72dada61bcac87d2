"""One film in two places of a build; copies of test films stay out of folds."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from data_prep import dataset, report
from data_prep.request import Request
from pnx_jax.formats import built_dataset, record_reader


def smooth_film(seed):
  """Soft shadows, unlike those of any other seed."""
  noise = np.random.default_rng(seed).normal(size=(240, 240))
  soft = cv2.GaussianBlur(noise, (0, 0), 9)
  return np.uint8(128 + 40 * soft / soft.std().clip(1e-6)).clip(1, 254)


@pytest.fixture
def request_with_copies(tmp_path):
  """Six films, the first of which is a test film too, and the second twice.

  Of the copies one was brought to another shape, and of the other one more is
  known of the shape of its pixels.
  """
  for number in range(6):
    Image.fromarray(smooth_film(number)).save(tmp_path / f'{number}.png')
  small = cv2.resize(smooth_film(0), (190, 150), interpolation=cv2.INTER_AREA)
  Image.fromarray(small).save(tmp_path / 'test.jpg', quality=85)
  Image.fromarray(smooth_film(1)).save(tmp_path / 'again.jpg', quality=85)
  rows = [f'{number}.png,{number % 2},,' for number in range(6)]
  rows += ['test.jpg,,test,', 'again.jpg,1,,1.6 1.2']
  (tmp_path / 'films.csv').write_text(
    '\n'.join(['path,label,split,pixel_spacing_mm', *rows, ''])
  )
  return Request(
    manifest=str(tmp_path / 'films.csv'),
    output_dir=str(tmp_path / 'records'),
    image_size=32,
    num_folds=2,
  )


def test_a_copy_of_a_test_film_is_in_no_fold(request_with_copies):
  summary = dataset.build(request_with_copies)
  output_dir = request_with_copies.output_dir
  folds = built_dataset.folds_of(output_dir)
  assert set(folds) == {'1', '2', '3', '4', '5', 'again'}
  assert folds['1'] == folds['again']
  assert summary['rejected_by_reason'] == {'test_copy': 1}
  assert summary['near_duplicates'] == [['0', 'test'], ['1', 'again']]
  with open(f'{output_dir}/rejected.csv') as file:
    assert (
      file.read()
      .splitlines()[1]
      .endswith('0,test_copy,nearly the same film as test in the split test')
    )
  assert len(record_reader.read(output_dir, ['test'])) == 1
  assert built_dataset.origin(output_dir).kept_test_copies == 0


def test_copies_of_test_films_can_be_kept(request_with_copies, tmp_path):
  kept = Request(**{**vars(request_with_copies), 'keep_test_copies': True})
  summary = dataset.build(kept)
  assert '0' in built_dataset.folds_of(kept.output_dir)
  assert summary['kept_test_copies'] == 1 and not summary['rejected']
  written = json.loads((tmp_path / 'records' / 'build.json').read_text())
  assert written['kept_test_copies'] == 1
  assert built_dataset.origin(kept.output_dir).kept_test_copies == 1
  assert built_dataset.test_copies(kept.output_dir) == {'0'}
  assert 'WARNING: 1 training films are copies' in report.text(summary, '')


def test_patients_in_the_test_and_in_folds_are_counted(tmp_path):
  for number in range(5):
    Image.fromarray(smooth_film(number)).save(tmp_path / f'{number}.png')
  rows = ['0.png,0,,p', '1.png,1,,q', '2.png,1,,r']
  (tmp_path / 'films.csv').write_text(
    '\n'.join(
      ['path,label,split,patient', *rows, '3.png,,test,p', '4.png,,test,']
    )
  )
  summary = dataset.build(
    Request(
      manifest=str(tmp_path / 'films.csv'),
      output_dir=str(tmp_path / 'records'),
      image_size=32,
      num_folds=2,
    )
  )
  assert summary['test_patients_in_folds'] == 1
  assert 'WARNING: 1 patients have films in the split test' in report.text(
    summary, ''
  )
