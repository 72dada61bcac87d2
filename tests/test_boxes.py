"""Boxes against scipy's labelling, and the csv and json they are written as."""

import numpy as np
import pytest
from scipy import ndimage

from pnx_jax.formats.boxes import boxes


def reference(mask):
  """The same rows, by scipy's labelling and slices."""
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


def test_diagonal_neighbours_are_one_region():
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
