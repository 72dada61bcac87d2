"""Paired comparisons against closed forms, scipy and plain loops."""

import dataclasses

import numpy as np
import pytest
import scipy.stats

from pnx_jax.metrics import calibration, paired, summary
from pnx_jax.metrics.dice import dice
from pnx_jax.metrics.summary import Images


def _studies(num_patients=60, seed=0, sides=2, gain=0.3):
  """Images of the same patients predicted by runs, the later the better."""
  rng = np.random.default_rng(seed)
  patient = np.repeat(np.arange(num_patients), rng.integers(1, 5, num_patients))
  size = len(patient)
  label = rng.random(size) < rng.beta(1, 3, num_patients)[patient]
  truth = np.where(label, rng.integers(100, 900, size), 0)
  effect = rng.normal(0, 0.5, num_patients)[patient]  # Patients are alike.
  runs = []
  for side in range(sides):
    score = label * (1 + gain * side) + effect + rng.normal(0, 1, size)
    predicted = rng.integers(100, 900, size) * (score > 0.8)
    both = (np.minimum(truth, predicted) * rng.random(size)).astype(int)
    runs.append(
      Images(
        label=label,
        probability=1 / (1 + np.exp(-score)),
        dice=dice(both, predicted, truth),
        predicted=predicted > 0,
        truth_area=truth,
        predicted_area=predicted,
        intersection=both,
        patient=patient,
      )
    )
  return runs


def _metrics(images):
  found = {name: float(x[0]) for name, x in summary.compute(images).items()}
  error = calibration.expected_calibration_error
  found['ece'] = float(error(images.probability, images.label)[0])
  return {name: found[name] for name in paired.METRICS}


def test_a_run_compared_with_itself_differs_in_nothing():
  (run,) = _studies(sides=1)
  for found in paired.compare([run], [run], replicates=50).values():
    assert found.difference == 0
    assert found.interval == (0, 0)
    assert found.resolvable == 0
    assert found.p_value == 1


def test_differences_are_those_of_the_metrics():
  first, second = _studies()
  found = paired.compare([first], [second], replicates=200)
  one, other = _metrics(first), _metrics(second)
  for name in paired.METRICS:
    assert found[name].first == pytest.approx(one[name], rel=1e-12)
    assert found[name].second == pytest.approx(other[name], rel=1e-12)
    low, high = found[name].interval
    assert low < other[name] - one[name] < high
    assert 0 < found[name].p_value <= 1
  swapped = paired.compare([second], [first], replicates=200)
  for name in paired.METRICS:
    assert swapped[name].difference == -found[name].difference
    assert swapped[name].p_value == found[name].p_value


def test_permutations_are_those_of_a_plain_loop():
  first, second = _studies(12, gain=1)
  replicates = 40
  names = np.unique(first.patient)
  swaps = np.random.default_rng(7).random((1 + replicates, len(names))) < 0.5
  swaps[0] = False
  ranked = [
    dataclasses.replace(x, probability=scipy.stats.rankdata(x.probability))
    for x in (first, second)
  ]
  differences = []
  for swap in swaps:
    rows = swap[first.patient]
    values = {}
    for kind, (one, other) in (('', (first, second)), ('rank', ranked)):
      mixed = [
        Images(
          *(
            np.where(rows, getattr(b, field.name), getattr(a, field.name))
            for field in dataclasses.fields(Images)
            if getattr(a, field.name) is not None
          )
        )
        for a, b in ((one, other), (other, one))
      ]
      before, after = map(_metrics, mixed) if not kind else map(_ranks, mixed)
      values |= {name: after[name] - before[name] for name in after}
    differences.append(values)
  found = paired.permutation_test(
    [first], [second], replicates=replicates, seed=7
  )
  for name in paired.METRICS:
    values = np.abs([difference[name] for difference in differences])
    assert found[name] == np.mean(values >= values[0] - 1e-12), name


def _ranks(images):
  found = summary.compute(images)
  return {name: float(found[name][0]) for name in ('auc', 'average_precision')}


def test_p_values_of_means_equal_the_exact_test_of_scipy():
  first, second = _studies(11, seed=3, gain=0.8)
  single = np.unique(first.patient, return_index=True)[1]
  first, second = first[single], second[single]
  exact = scipy.stats.permutation_test(
    (first.dice, second.dice),
    lambda a, b: np.mean(b - a),
    permutation_type='samples',
    n_resamples=np.inf,
  ).pvalue
  found = paired.permutation_test([first], [second], replicates=6000)
  assert found['dice'] == pytest.approx(exact, abs=0.025)


def _delong(first, second):
  """Obuchowski 1997, Biometrics 53, 567-578: variance of a difference in AUC.

  Also of clusters in which some images are positive and others negative.
  """
  label, patient = first.label, first.patient
  parts = []
  for images in (first, second):
    positive = images.probability[label][:, None]
    negative = images.probability[~label][None]
    wins = (positive > negative) + 0.5 * (positive == negative)
    parts.append((wins.mean(1), wins.mean(0), wins.mean()))
  of_positive, of_negative, auc = (
    after - before for before, after in zip(*parts, strict=True)
  )
  count = patient.max() + 1
  num_positive, num_negative = label.sum(), (~label).sum()
  one = np.bincount(patient[label], of_positive - auc, count)
  other = np.bincount(patient[~label], of_negative - auc, count)
  with_positive = len(np.unique(patient[label]))
  with_negative = len(np.unique(patient[~label]))
  clusters = len(np.unique(patient))
  return auc, (
    with_positive / (with_positive - 1) * (one**2).sum() / num_positive**2
    + with_negative / (with_negative - 1) * (other**2).sum() / num_negative**2
    + 2
    * clusters
    / (clusters - 1)
    * (one * other).sum()
    / (num_positive * num_negative)
  )


def test_the_difference_in_auc_agrees_with_clustered_delong():
  first, second = _studies(500, seed=1)
  difference, variance = _delong(first, second)
  found = paired.compare([first], [second], replicates=1000)['auc']
  assert found.difference == pytest.approx(difference, rel=1e-9)
  error = np.sqrt(variance)
  low, high = found.interval
  assert (high - low) / (2 * 1.96) == pytest.approx(error, rel=0.1)
  assert found.resolvable == pytest.approx(2.8016 * error, rel=0.1)
  normal = 2 * scipy.stats.norm.sf(abs(difference) / error)
  assert found.p_value == pytest.approx(normal, abs=0.03)


def test_seeds_widen_the_interval_as_a_t_distribution_would():
  """Runs of one side differ by a shift that no image shares."""
  first, second = _studies(300)
  rng = np.random.default_rng(0)
  shifts = rng.normal(0, 0.02, (2, 4))
  sides = [
    [
      dataclasses.replace(run, dice=np.clip(run.dice, 0.1, 0.9) + shift)
      for shift in row
    ]
    for run, row in zip((first, second), shifts, strict=True)
  ]
  alone = paired.compare([sides[0][0]], [sides[1][0]])['dice']
  found = paired.compare(*sides)['dice']
  of_patients = (alone.resolvable / 2.8016) ** 2
  of_seeds = (shifts.var(axis=1, ddof=1) / 4).sum()
  expected = np.sqrt(of_patients + of_seeds)
  assert found.resolvable / 2.8016 == pytest.approx(expected, rel=0.1)


def test_few_patients_have_no_interval_and_one_class_no_auc():
  first, second = _studies(4)
  for found in paired.compare([first], [second], replicates=20).values():
    assert found.interval is None and np.isnan(found.resolvable)
  first, second = (run[~run.label] for run in _studies())
  found = paired.compare([first], [second], replicates=50)
  assert found['auc'].interval is None and np.isnan(found['auc'].p_value)
  assert np.isnan(found['dice_positive'].difference)
  assert found['specificity'].interval is not None


def test_other_images_and_unequal_sides_are_errors():
  first, second = _studies()
  with pytest.raises(ValueError, match='differ in label'):
    paired.compare([first], [second[:-1]])
  with pytest.raises(ValueError, match='1 and of 2 runs'):
    paired.compare([first], [second, second])


def test_holm_adjusts_step_by_step():
  p_values = {'a': 0.01, 'b': 0.04, 'c': 0.03, 'd': 0.005, 'e': np.nan}
  adjusted = paired.holm(p_values)
  assert np.isnan(adjusted.pop('e'))
  assert adjusted == pytest.approx({'a': 0.03, 'b': 0.06, 'c': 0.06, 'd': 0.02})
  assert paired.holm({'a': 0.9, 'b': 0.8}) == {'a': 1.0, 'b': 1.0}
