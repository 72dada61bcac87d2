"""Boxes against scipy's labeling, and the csv and json they are written as."""

import functools
import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage

from data_prep.boxes import read as read_boxes
from data_prep.boxes import write as write_boxes
from pnx_jax.formats import rle
from pnx_jax.formats.boxes import boxes


def reference(mask):
  """The same rows, by scipy's labeling and slices."""
  labels, _ = ndimage.label(mask, structure=np.ones((3, 3)))
  rows = []
  for number, (down, across) in enumerate(ndimage.find_objects(labels), 1):
    width, height = across.stop - across.start, down.stop - down.start
    area = int((labels == number).sum())
    rows.append((across.start, down.start, width, height, area))
  return sorted(rows, key=lambda row: (-row[4], row[1], row[0]))


@pytest.mark.parametrize('density', [0.02, 0.2, 0.5])
def test_regions_agree_with_scipy(density):
  generator = np.random.default_rng(0)
  for _ in range(20):
    mask = generator.random((37, 53)) < density
    assert list(map(tuple, boxes(mask).tolist())) == reference(mask)


def test_diagonal_neighbors_are_one_region():
  assert boxes(np.eye(5, dtype=bool)).tolist() == [[0, 0, 5, 5, 5]]


def test_empty_full_and_any_non_zero_value():
  assert boxes(np.zeros((4, 6), bool)).shape == (0, 5)
  assert boxes(np.ones((4, 6), bool)).tolist() == [[0, 0, 6, 4, 24]]
  assert boxes(np.full((4, 6), 2, np.uint8)).tolist() == [[0, 0, 6, 4, 24]]


def test_a_transposed_view_is_read_as_it_looks():
  mask = np.zeros((8, 8), bool)
  mask[1, 2:7] = True
  assert boxes(mask.T).tolist() == [[1, 2, 1, 5, 5]]


def test_a_batch_is_refused():
  with pytest.raises(
    ValueError, match=r'two dimensions, not shape \(1, 4, 4\)'
  ):
    boxes(np.zeros((1, 4, 4), bool))


def run(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'data_prep.boxes', *arguments],
    capture_output=True,
    text=True,
  )


@pytest.fixture
def annotations(tmp_path):
  masks = np.zeros((3, 40, 50), bool)
  masks[0, 5:9, 10:30] = True
  masks[1, 20:40, 45:50] = True  # touches the film's last pixel
  masks[2, 7:12, 10:12] = True
  path = tmp_path / 'train-rle.csv'
  rows = [f'a, {rle.encode(mask)}' for mask in masks]
  path.write_text('\n'.join(['ImageId, EncodedPixels', *rows, 'b, -1', '']))
  return path, masks.any(axis=0)


def test_csv_of_the_union(annotations, tmp_path):
  path, union = annotations
  output = tmp_path / 'boxes.csv'
  done = run(
    f'--rle_csv={path}', f'--output={output}', '--height=40', '--width=50'
  )
  assert done.returncode == 0, done.stderr
  header, *rows = output.read_text().splitlines()
  assert header == 'image_id,x,y,width,height,area'
  assert [tuple(map(int, row.split(',')[1:])) for row in rows] == reference(
    union
  )
  assert '2 regions in 1 of 2 images' in done.stdout


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_json_is_read_by_pycocotools(annotations, tmp_path, capsys):
  from pycocotools.coco import COCO

  path, union = annotations
  output = tmp_path / 'boxes.json'
  write_boxes(read_boxes(path, 40, 50), output, 40, 50)
  coco = COCO(output)
  positive, negative = coco.loadImgs(coco.getImgIds())
  assert (positive['file_name'], negative['file_name']) == ('a.dcm', 'b.dcm')
  assert not coco.getAnnIds(imgIds=negative['id'])
  regions = coco.loadAnns(coco.getAnnIds(imgIds=positive['id']))
  found = [(*region['bbox'], region['area']) for region in regions]
  assert found == reference(union)
  assert len({region['id'] for region in regions}) == 2


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--height=30', '--width=50'], 'image a, at 30 x 50: RLE number'),
    (['--output=boxes.xml'], 'end it in .csv or .json'),
    (['--heigth=30'], "flag 'heigth'. Did you mean: height"),
    (['boxes.csv'], "unexpected argument 'boxes.csv'"),
  ],
)
def test_mistakes_are_one_line(annotations, tmp_path, arguments, message):
  path, _ = annotations
  done = run(f'--rle_csv={path}', f'--output={tmp_path}/b.csv', *arguments)
  assert done.returncode == 2
  assert message in done.stderr
  assert done.stderr.count('\n') == 1


def test_areas_of_real_boxes_sum_to_the_masks(real_data):
  path = real_data / 'siim' / 'train-rle.csv'
  for image_id, rles in rle.read_csv(path).items():
    regions = read_real(path)[image_id]
    assert regions[:, 4].sum() == rle.union(rles, 1024, 1024).sum()


@functools.cache
def read_real(path):
  return read_boxes(path, 1024, 1024)
