"""Predictive values, decision curves and the threshold of an evaluation."""

import types

import numpy as np
import pytest

from pnx_jax.errors import UserError
from pnx_jax.evaluation import bedside
from pnx_jax.evaluation.tables import Calibration
from pnx_jax.metrics.summary import Images


@pytest.fixture
def results():
  """A calibrated network on 400 images of 200 patients."""
  rng = np.random.default_rng(0)
  probability = rng.beta(0.5, 1, 400)
  label = rng.random(400) < probability
  images = Images(
    label, probability, *[np.zeros(400)] * 5, patient=np.arange(400) // 2
  )
  groups = np.zeros(400, int)
  calibration = Calibration.fit(probability, label, groups)
  return types.SimpleNamespace(images=images, calibration=calibration)


def test_values_at_the_own_prevalence_are_those_that_are_counted(results):
  label, scaled = results.images.label, results.calibration.scaled
  found = bedside.summarize(results, (float(label.mean()), 0.01))
  points = results.calibration.points
  assert len(found.values) == 2 * len(points)
  for point, each in zip(points, found.values[::2], strict=True):
    called = scaled >= point.threshold
    assert each.positive == pytest.approx(label[called].mean())
    assert each.negative == pytest.approx((~label[~called]).mean())
  # The rarer the disease, the less an alert means.
  for own, rare in zip(found.values[::2], found.values[1::2], strict=True):
    assert rare.positive < own.positive and rare.negative > own.negative


def test_a_useful_network_beats_acting_on_all_or_none(results):
  found = bedside.summarize(results, (0.1,))
  (curve,) = found.curves
  assert curve.network[0] == pytest.approx(curve.everyone[0]) == 0.1
  inner = slice(20, 60)
  best = np.maximum(curve.everyone[inner], 0)
  assert (curve.network[inner] > best).mean() > 0.9
  assert found.bound.threshold is not None
  assert 0 < found.bound_specificity < 1


def test_one_class_leaves_gaps(results):
  images = results.images[~results.images.label]
  scaled = results.calibration.scaled[~results.images.label]
  alone = types.SimpleNamespace(
    images=images,
    calibration=types.SimpleNamespace(scaled=scaled, points=()),
  )
  found = bedside.summarize(alone, (0.1,))
  assert found.curves == found.values == []
  assert found.bound.threshold is None and np.isnan(found.bound_specificity)


def test_prevalences_are_read():
  assert bedside.parse_prevalences('0.01, 0.2,') == (0.01, 0.2)
  assert bedside.parse_prevalences('') == ()
  for text in ('0.1,much', '0', '1.5', 'nan'):
    with pytest.raises(UserError, match='prevalences='):
      bedside.parse_prevalences(text)
