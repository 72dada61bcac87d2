"""Distances of outlines: units, empty masks, and what their means are over."""

import types

import numpy as np
import pytest

from pnx_jax.evaluation import outlines
from pnx_jax.metrics.summary import Images
from pnx_jax.metrics.surface import SurfaceDistances


def _record(rows, columns, height=1000, width=800):
  return types.SimpleNamespace(
    pixel_spacing=(rows, columns), height=height, width=width
  )


@pytest.mark.parametrize(
  ('record', 'plausible'),
  [
    (_record(0.4, 0.4), True),
    (_record(0.143, 0.143), False),  # As in the competition's files.
    (_record(-1, -1), False),
    (_record(0.4, 0), False),
    (_record(0.2, 0.5), True),  # 200 x 400 mm.
    (_record(0.7, 0.4), False),
  ],
)
def test_millimeters_need_a_plausible_spacing(record, plausible):
  assert (outlines.spacing(record) is not None) == plausible


def test_pixels_and_millimeters_are_measured_apart():
  first, second = np.zeros((2, 1000, 800), bool)
  first[100:200, 100:200] = True
  second[104:204, 100:200] = True
  square = [np.pad(mask, ((12, 12), (112, 112))) for mask in (first, second)]
  found = outlines.measure(
    *square,
    film_predicted=first,
    film_truth=second,
    record=_record(0.4, 0.4),
  )
  assert found['mm'].mean == pytest.approx(0.4 * found['px'].mean)
  assert found['px'].surface_dice == found['mm'].surface_dice == 1
  alone = outlines.measure(
    *square,
    film_predicted=first,
    film_truth=second,
    record=_record(0.1, 0.1),
  )
  assert set(alone) == {'px'}


def test_means_are_over_the_images_that_have_a_value():
  label = np.array([True, True, True, False] * 4)
  images = Images(label, *[np.zeros(16)] * 6, patient=np.arange(16) // 2)
  records = [
    _record(0.4, 0.4) if i < 8 else _record(0.1, 0.1) for i in range(16)
  ]
  distances = SurfaceDistances(8.0, 4.0, 0.5)
  measured = {i: {'px': distances} for i in (0, 1, 8)} | {
    2: {'px': distances, 'mm': distances}
  }
  table = outlines.columns(measured, records, images)
  found = outlines.summarize(table, images)
  values = found.values
  assert values['mean_px'] == values['mean_px/median'] == 4
  assert values['mean_px/num_images'] == 4
  # Of 12 positive images 4 have a mask.
  assert values['surface_dice_px'] == pytest.approx(4 * 0.5 / 12)
  assert values['surface_dice_px/num_images'] == 12
  assert values['surface_dice_px/num_patients'] == 8
  # Of 6 with a plausible spacing, one.
  assert values['surface_dice_mm'] == pytest.approx(0.5 / 6)
  assert values['hausdorff_95_mm/num_images'] == 1
  assert found.intervals['hausdorff_95_mm'] is None
  low, high = found.intervals['surface_dice_px']
  assert low < values['surface_dice_px'] < high
