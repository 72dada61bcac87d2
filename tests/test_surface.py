"""Surface distances against hand-computed shapes and scipy's transforms."""

import numpy as np
import pytest
from scipy import ndimage

from pnx_jax.metrics.surface import outline, surface_distances


def _square(top, left, side=10, shape=(40, 50)):
  mask = np.zeros(shape, bool)
  mask[top : top + side, left : left + side] = True
  return mask


def _blobs(seed, shape=(64, 48)):
  noise = np.random.default_rng(seed).normal(size=shape)
  return ndimage.gaussian_filter(noise, 4) > 0.03


def _expected(first, second, tolerance, spacing):
  """From erosions and exact distance transforms of the whole image."""
  edges = [mask & ~ndimage.binary_erosion(mask) for mask in (first, second)]
  distances = [
    ndimage.distance_transform_edt(~edges[1 - n], sampling=spacing)[edges[n]]
    for n in (0, 1)
  ]
  both = np.concatenate(distances)
  return (
    max(np.percentile(d, 95) for d in distances),
    both.mean(),
    (both <= tolerance).mean(),
  )


@pytest.mark.parametrize('spacing', [(1.0, 1.0), (0.4, 0.7)])
@pytest.mark.parametrize('seed', range(4))
def test_distances_equal_those_of_scipys_transforms(seed, spacing):
  first, second = _blobs(seed), _blobs(seed + 100)
  found = surface_distances(first, second, tolerance=1.5, spacing=spacing)
  assert (found.hausdorff_95, found.mean, found.surface_dice) == pytest.approx(
    _expected(first, second, 1.5, spacing), rel=1e-12
  )


def _ellipse(row, column, height, width, shape=(64, 48)):
  rows, columns = np.ogrid[: shape[0], : shape[1]]
  down, across = (rows - row) / height, (columns - column) / width
  return down**2 + across**2 <= 1


_SHAPES = {
  'apart': (_ellipse(20, 20, 12, 7), _ellipse(24, 27, 9, 11)),
  'at the border': (
    _ellipse(0, 10, 15, 20),
    _ellipse(5, 40, 9, 14) | _ellipse(3, 8, 11, 9),
  ),
  'with a hole': (
    _ellipse(30, 24, 20, 20) & ~_ellipse(30, 24, 6, 9),
    _ellipse(33, 22, 18, 21),
  ),
}
# MONAI 1.6.1 (compute_hausdorff_distance with percentile=95,
# compute_average_surface_distance with symmetric=True, compute_surface_dice
# with a threshold of 1.5), PyTorch 2.13, float32.
_MONAI = [
  ('apart', (1.0, 1.0), (11.0, 4.6515908, 0.1759259)),
  ('apart', (0.4, 0.7), (7.3100824, 2.6641574, 0.3518519)),
  ('at the border', (1.0, 1.0), (18.410553, 4.2171807, 0.4918919)),
  ('at the border', (0.4, 0.7), (12.2885246, 2.6142869, 0.6324325)),
  ('with a hole', (1.0, 1.0), (13.6832008, 3.6225355, 0.3484848)),
  ('with a hole', (0.4, 0.7), (5.6020074, 1.6860889, 0.5265151)),
]


@pytest.mark.parametrize(('shapes', 'spacing', 'expected'), _MONAI)
def test_distances_equal_those_of_monai(shapes, spacing, expected):
  found = surface_distances(*_SHAPES[shapes], tolerance=1.5, spacing=spacing)
  assert (found.hausdorff_95, found.mean, found.surface_dice) == pytest.approx(
    expected, rel=1e-6
  )


def test_equal_masks_are_no_distance_apart():
  found = surface_distances(_square(3, 4), _square(3, 4), tolerance=0)
  assert found == type(found)(0.0, 0.0, 1.0)


def test_nested_squares_by_hand():
  """A ring of one pixel lies between the outlines: sides at 1, corners at 1.41.

  The inner outline has 28 pixels, all at 1. The outer one has 36, of which 4
  corners are at the square root of 2.
  """
  found = surface_distances(_square(5, 5), _square(6, 6, 8), tolerance=1)
  assert found.mean == pytest.approx((28 + 32 + 4 * 2**0.5) / 64)
  assert found.surface_dice == pytest.approx(60 / 64)
  assert found.hausdorff_95 == pytest.approx(2**0.5)


def test_rows_and_columns_have_their_own_spacing():
  """Squares of one pixel, three rows and four columns apart."""
  first, second = _square(5, 5, 1), _square(8, 9, 1)
  for spacing, distance in (
    ((1, 1), 5.0),
    ((2, 1), 52**0.5),
    ((1, 2), 73**0.5),
  ):
    found = surface_distances(first, second, tolerance=5, spacing=spacing)
    assert found.hausdorff_95 == found.mean == pytest.approx(distance)
    assert found.surface_dice == (distance <= 5)


def test_empty_masks():
  empty, full = _square(0, 0, 0), _square(2, 2)
  found = surface_distances(empty, full, tolerance=3)
  assert np.isnan([found.hausdorff_95, found.mean]).all()
  assert found.surface_dice == 0
  assert np.isnan(surface_distances(empty, empty, tolerance=3).surface_dice)


def test_the_border_of_the_image_is_an_outline():
  assert len(outline(np.ones((4, 5), bool))) == 14
  with pytest.raises(ValueError, match='Shapes differ'):
    surface_distances(_square(1, 1), _square(1, 1).T, tolerance=1)
