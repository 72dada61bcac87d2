"""Lesions against scipy's regions, plain loops and drawn shapes."""

import types

import numpy as np
import pytest
from scipy import ndimage

from pnx_jax.evaluation import lesions as evaluation
from pnx_jax.metrics import lesions
from pnx_jax.metrics.dice import THRESHOLDS
from pnx_jax.prediction.network import SIZE

_EIGHT = np.ones((3, 3))


def _film(name='film', view='PA', spacing=(0.35, 0.35)):
  return types.SimpleNamespace(
    image_id=name,
    view=view,
    mirrored=0,
    height=SIZE,
    width=SIZE,
    pixel_aspect=1.0,
    pixel_spacing=spacing,
  )


def _expected(truth, candidates, levels):
  """Scores of lesions and of false findings, pixel by pixel."""
  of_truth, count = ndimage.label(truth, _EIGHT)
  of_candidates, num_found = ndimage.label(candidates, _EIGHT)
  any_overlap, by_iou, false = [], [], []
  for lesion in range(1, count + 1):
    here = of_truth == lesion
    scores, strict = [0], [0]
    for number in range(1, num_found + 1):
      finding = of_candidates == number
      both = (here & finding).sum()
      if both:
        scores.append(int(levels[finding].max()))
      if both / (here | finding).sum() >= 0.1:
        strict.append(int(levels[finding].max()))
    any_overlap.append(max(scores))
    by_iou.append(max(strict))
  for number in range(1, num_found + 1):
    finding = of_candidates == number
    if not (finding & truth).any():
      false.append((int(finding.sum()), int(levels[finding].max())))
  return sorted(any_overlap), sorted(by_iou), sorted(false)


def test_matches_are_those_of_a_loop_over_scipys_regions():
  rng = np.random.default_rng(0)
  for _ in range(20):
    smooth = ndimage.gaussian_filter(rng.normal(size=(2, 48, 48)), (0, 2, 2))
    truth = smooth[0] > 0.12
    levels = np.clip(20 + 80 * smooth[1], 0, 36).astype(np.uint8)
    candidates = levels > 26
    found, false = lesions.match(truth, candidates, levels)
    assert (
      sorted(lesion.score for lesion in found),
      sorted(lesion.score_iou for lesion in found),
      sorted((each.region.area, each.score) for each in false),
    ) == _expected(truth, candidates, levels)
    regions, count = ndimage.label(truth, _EIGHT)
    centers = ndimage.center_of_mass(truth, regions, range(1, count + 1))
    np.testing.assert_allclose(
      sorted((x.region.row, x.region.column) for x in found), sorted(centers)
    )


def test_films_without_regions_have_neither():
  nothing = np.zeros((8, 8), bool)
  assert lesions.match(nothing, nothing, nothing.view(np.uint8)) == ([], [])


def _drawn(*squares):
  mask = np.zeros((SIZE, SIZE), bool)
  for row, column, side in squares:
    mask[row : row + side, column : column + side] = True
  return mask


@pytest.fixture(scope='module')
def report():
  """12 films: on each a lesion above on the patient's right.

  Of even films it is found, on every third one with a false positive on the
  other side; film 12 is negative and has one too.
  """
  films, records = {}, [_film(f'film {number}') for number in range(14)]
  for number in range(12):
    truth = _drawn((100, 100, 20 + 4 * number))
    found = [(110, 110, 10)] if number % 2 == 0 else []
    found += [(800, 800, 15)] if number % 3 == 0 else []
    levels = np.uint8(20) * _drawn(*found)
    candidates = levels > 0
    films[number] = evaluation.find(truth, candidates, candidates, levels)
  levels = np.uint8(30) * _drawn((500, 200, 40))
  films[12] = evaluation.find(
    _drawn(), levels > 0, _drawn((500, 200, 40)), levels
  )
  return evaluation.summarize(films, records, np.arange(14))


def test_lesions_are_counted_by_size_and_place(report):
  values = report.metrics.values
  assert values['sensitivity'] == 0.5
  assert values['sensitivity/count'] == 12
  assert values['zone=upper right'] == 0.5
  assert values['zone=upper right/count'] == 12
  assert 'zone=lower left' not in values
  assert sum(values[f'area_quartile={q}/count'] for q in range(1, 5)) == 12
  low, high = report.metrics.intervals['sensitivity']
  assert 0.2 < low < 0.5 < high < 0.8
  assert all(row[5:7] == ('upper', 'right') for row in report.lesions)
  # 0.35 mm a pixel, 20 px wide.
  assert float(report.lesions[0][4]) == pytest.approx((20 * 0.35) ** 2, abs=0.1)


def test_false_positives_are_told_apart(report):
  values = report.metrics.values
  assert values['false_positives'] == pytest.approx(5 / 14)
  assert values['kind=negative film/count'] == 1
  assert values['kind=other side/count'] == 4
  assert values['kind=same side/count'] == 0
  assert report.false_images[0] == (12, 'negative film')  # The surest first.


def test_the_free_response_curve_counts_from_above(report):
  curve = report.froc['any overlap']
  assert curve.thresholds.tolist() == [THRESHOLDS[29], THRESHOLDS[19]]
  assert curve.sensitivity.tolist() == [0, 0.5]
  assert curve.false_positives == pytest.approx([1 / 14, 5 / 14])
  for low, high in (
    *curve.false_intervals,
    *(
      pair
      for name, pair in report.metrics.intervals.items()
      if name.startswith(('false_positives', 'kind='))
    ),
  ):
    assert 0 <= low < high
  # 100 of up to 4,096 px: hits of the largest lesions are below an IoU of 0.1.
  strict = report.froc['IoU at least 0.1'].sensitivity[-1]
  areas = [(20 + 4 * number) ** 2 for number in range(0, 12, 2)]
  assert strict == pytest.approx(np.sum(100 / np.array(areas) >= 0.1) / 12)


def test_sensitivity_by_size_follows_a_trend():
  """Small lesions are missed, large ones found."""
  films, records = {}, [_film(str(number)) for number in range(60)]
  sides = np.linspace(10, 200, 60).astype(int)
  for number, side in enumerate(sides):
    truth = _drawn((100, 100, side))
    mask = truth & (side > 100)
    films[number] = evaluation.find(truth, mask, mask, np.uint8(30) * mask)
  found = evaluation.summarize(films, records, np.arange(60))
  px, mm2 = found.sizes
  assert (px.unit, mm2.unit) == ('px', 'mm2')
  assert px.sensitivity[0] < 0.01 and px.sensitivity[-1] > 0.99
  half = px.areas[np.argmin(np.abs(px.sensitivity - 0.5))]
  assert np.log10(half) == pytest.approx(np.log10(100**2), abs=0.1)
  assert all(
    pair is None or pair[0] <= value <= pair[1]
    for value, pair in zip(px.sensitivity, px.intervals, strict=True)
  )
  np.testing.assert_allclose(mm2.areas, px.areas * 0.35**2, rtol=1e-6)


def test_without_any_region_the_report_is_undefined():
  found = evaluation.summarize({}, [_film()] * 6, np.arange(6))
  assert np.isnan(found.metrics.values['sensitivity'])
  assert found.metrics.values['false_positives'] == 0
  assert not found.sizes and not len(found.froc['any overlap'].thresholds)
