"""Calibration against simulation, scikit-learn and plain counting."""

import numpy as np
import pytest
import scipy.stats
import sklearn.calibration
import sklearn.linear_model

from pnx_jax.metrics import calibration
from pnx_jax.metrics.curves import curve


@pytest.fixture(scope='module')
def overconfident():
  """Labels drawn from probabilities, and those with doubled logits."""
  rng = np.random.default_rng(0)
  logits = rng.normal(-1, 1.5, 4000)
  honest = 1 / (1 + np.exp(-logits))
  label = rng.random(4000) < honest
  return 1 / (1 + np.exp(-2 * logits)), label


def test_temperature_equals_a_logistic_fit_without_intercept(overconfident):
  probability, label = overconfident
  logits = np.log(probability / (1 - probability))[:, None]
  fit = sklearn.linear_model.LogisticRegression(
    fit_intercept=False, C=np.inf, tol=1e-8
  ).fit(logits, label)
  temperature = calibration.fit_temperature(probability, label)
  assert temperature == pytest.approx(1 / fit.coef_[0, 0], rel=1e-3)
  assert temperature == pytest.approx(2, rel=0.1)


def test_scaling_halves_the_logit_and_keeps_certainty_finite():
  scaled = calibration.scale(np.array([0, 0.5, 0.9, 1]), 2.0)
  assert scaled[1] == 0.5
  assert scaled[2] == pytest.approx(0.75)
  assert 0 < scaled[0] < 0.001 and 0.999 < scaled[3] < 1


def test_one_class_leaves_the_temperature_alone():
  ones = np.ones(5)
  assert calibration.fit_temperature(ones / 2, ones > 0) == 1
  assert calibration.fit_temperature(ones / 2, ones < 0) == 1
  assert calibration.operating_points(ones / 2, ones > 0) == []


def test_reliability_equals_scikit_learn(overconfident):
  probability, label = overconfident
  bins = calibration.reliability(probability, label)
  share, mean = sklearn.calibration.calibration_curve(
    label, probability, n_bins=10
  )
  filled = bins['count'] > 0
  np.testing.assert_allclose(bins['share'][filled], share, rtol=1e-12)
  np.testing.assert_allclose(bins['probability'][filled], mean, rtol=1e-12)
  for n, positive, *interval in zip(
    *(bins[name][filled] for name in ('count', 'share', 'low', 'high')),
    strict=True,
  ):
    test = scipy.stats.binomtest(round(positive * n), int(n))
    assert test.proportion_ci(method='wilson') == pytest.approx(interval)
  weight = bins['count'][filled] / len(label)
  assert calibration.expected_calibration_error(
    probability, label
  ) == pytest.approx((weight * np.abs(share - mean)).sum(), rel=1e-12)


def test_a_weight_is_a_repetition_for_the_calibration_error(overconfident):
  probability, label = (values[:50] for values in overconfident)
  weights = np.random.default_rng(0).integers(0, 3, (4, 50))
  error = calibration.expected_calibration_error
  for counts, value in zip(
    weights, error(probability, label, weights), strict=True
  ):
    rows = np.repeat(np.arange(50), counts)
    assert value == pytest.approx(error(probability[rows], label[rows]))


def test_scaling_lowers_the_calibration_error(overconfident):
  probability, label = overconfident
  temperature = calibration.fit_temperature(probability, label)
  scaled = calibration.scale(probability, temperature)
  error = calibration.expected_calibration_error
  assert error(scaled, label) < 0.3 * error(probability, label)


def test_operating_points_are_the_best_of_all_thresholds(overconfident):
  probability, label = overconfident
  probability, label = probability[:300].round(2), label[:300]

  def rates(threshold):
    called = probability >= threshold
    return called[label].mean(), (~called[~label]).mean()

  every = [rates(threshold) for threshold in [*np.unique(probability), 2]]
  points = calibration.operating_points(probability, label)
  ranking = curve(probability, label)
  names = [point.name for point in points]
  assert names[:2] == ['specificity 90%', 'specificity 95%']
  assert names[-1] == 'sensitivity 98%'
  for point in points:
    assert rates(point.threshold) == pytest.approx(
      (point.sensitivity, point.specificity)
    )
  for point, level in zip(points[:3], calibration.LEVELS, strict=True):
    assert point.specificity >= level
    best = max(s for s, specificity in every if specificity >= level)
    assert point.sensitivity == pytest.approx(best)
    assert ranking.sensitivity_at(level) == pytest.approx(best)
  for point, level in zip(points[3:], calibration.LEVELS, strict=True):
    assert point.sensitivity >= level
    best = max(s for sensitivity, s in every if sensitivity >= level)
    assert point.specificity == pytest.approx(best)
    assert ranking.specificity_at(level) == pytest.approx(best)
