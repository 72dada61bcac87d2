"""Influences against finite differences, and intervals against closed forms."""

import numpy as np
import pytest
import scipy.stats
from test_summary import _images

from pnx_jax.metrics import (
  bootstrap,
  calibration,
  influence,
  intervals,
  summary,
)


def _compute(images, weights):
  found = summary.compute(images, weights)
  error = calibration.expected_calibration_error
  found['ece'] = error(images.probability, images.label, weights)
  return found


def test_influences_are_derivatives_by_an_images_weight():
  images, step = _images(40), 1e-6
  weights = np.ones((1 + len(images), len(images)))
  weights[1:] += step * np.eye(len(images))
  values = _compute(images, weights)
  found = influence.of_metrics(images)
  assert set(found) == set(values)
  for name, compute in found.items():
    exact = compute()
    assert exact.value == pytest.approx(values[name][0], rel=1e-12), name
    slopes = (values[name][1:] - values[name][0]) / step
    np.testing.assert_allclose(exact.of_image, slopes, atol=3e-7, err_msg=name)
    assert abs(exact.of_image.sum()) < 1e-12


def test_variances_are_those_of_a_bootstrap():
  images = _images(900)
  weights = bootstrap.cluster_weights(images.patient, replicates=2000)
  drawn = _compute(images, weights)
  for name, compute in influence.of_metrics(images).items():
    error = np.sqrt(compute().variance(images.patient))
    assert error == pytest.approx(drawn[name].std(), rel=0.1), name


def test_the_interval_of_independent_images_is_wilsons():
  called = np.arange(80) < 68
  found = intervals.wilson(influence.mean(called), np.arange(80))
  expected = scipy.stats.binomtest(68, 80).proportion_ci(method='wilson')
  # With quantiles of t instead of the normal distribution.
  assert found == pytest.approx(tuple(expected), abs=0.004)
  # Four images of each patient that are all alike count once.
  repeated = intervals.wilson(
    influence.mean(np.repeat(called, 4)), np.repeat(np.arange(80), 4)
  )
  assert repeated == pytest.approx(found, rel=1e-9)


def test_a_share_of_1_has_an_interval():
  low, high = intervals.wilson(influence.mean(np.ones(30)), np.arange(30))
  assert high == 1
  expected = scipy.stats.binomtest(30, 30).proportion_ci(method='wilson')
  assert low == pytest.approx(expected.low, abs=0.02)


def test_the_interval_of_a_rate_inverts_the_score_test():
  counts = np.array([0, 0, 3, 1, 0, 0, 2, 0, 0, 0, 1, 0])
  found = influence.mean(counts)
  patient = np.arange(len(counts))
  variance = found.variance(patient) / found.value  # Of a rate of 1.
  t = intervals.quantile(len(counts) - 1)
  for end in intervals.score(found, patient):
    error = np.sqrt(variance * end)
    assert abs(found.value - end) == pytest.approx(t * error)


def test_intervals_of_rates_cover_the_truth_and_are_not_negative():
  rng = np.random.default_rng(0)
  covered, below = np.zeros(2), 0
  for _ in range(300):
    patient = np.repeat(np.arange(20), rng.integers(1, 4, 20))
    of_patient = rng.gamma(0.5, 0.3 / 0.5, 20)
    found = influence.mean(rng.poisson(of_patient[patient]))
    for number, method in enumerate((intervals.score, intervals.student)):
      low, high = method(found, patient)
      covered[number] += low <= 0.3 <= high
      assert low >= 0 or method is intervals.student
    below += low < 0
  assert covered[0] / 300 >= 0.92 > covered[1] / 300
  assert below > 30  # Those of t.


def test_no_finding_in_few_patients_does_not_prove_that_there_are_none():
  low, high = intervals.score(influence.mean(np.zeros(40)), np.arange(40) // 2)
  assert low == 0
  assert high == pytest.approx(intervals.quantile(19) ** 2 / 20)


def test_the_t_interval_of_independent_images_is_students():
  values = np.random.default_rng(0).normal(size=12)
  found = intervals.student(influence.mean(values), np.arange(12))
  expected = scipy.stats.ttest_1samp(values, 0).confidence_interval()
  assert found == pytest.approx(tuple(expected), rel=1e-9)


def test_metrics_of_few_patients_have_no_interval():
  few = influence.mean(np.arange(4.0) / 4)
  assert intervals.wilson(few, np.arange(4)) is None
  assert intervals.student(few, np.arange(4)) is None
  assert intervals.score(few, np.arange(4)) is None
  label = np.arange(30) < 3
  few = influence.auc(np.linspace(0, 1, 30), label)
  assert intervals.wilson(few, np.arange(30)) is None
  missing = influence.auc(np.linspace(0, 1, 30), np.zeros(30, bool))
  assert np.isnan(missing.value)
  assert intervals.wilson(missing, np.arange(30)) is None
