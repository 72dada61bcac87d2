"""Bounds against simulation, predictive values and net benefit by counting."""

import numpy as np
import pytest
import scipy.stats

from pnx_jax.metrics import decisions


@pytest.mark.parametrize(
  ('patients', 'misses'), [(28, -1), (29, 0), (45, 0), (46, 1), (130, 7)]
)
def test_allowed_misses_are_the_known_ones(patients, misses):
  options = {'sensitivity': 0.9, 'confidence': 0.95}
  assert decisions.allowed_misses(patients, **options) == misses


def test_a_patient_counts_by_the_lowest_positive_image():
  patient = np.repeat(np.arange(40), 2)
  probability = np.linspace(0.1, 0.9, 80)
  label = np.ones(80, bool)
  found = decisions.sensitivity_bound(probability, label, patient)
  assert (found.num_patients, found.num_missed) == (40, 0)
  assert found.threshold == probability[0]
  # A negative image of a patient does not count.
  label[0] = False
  found = decisions.sensitivity_bound(probability, label, patient)
  assert found.threshold == probability[1]
  few = decisions.sensitivity_bound(probability[:40], label[:40], patient[:40])
  assert (few.num_patients, few.threshold) == (20, None)
  none = decisions.sensitivity_bound(probability, label & False, patient)
  assert (none.num_patients, none.threshold) == (0, None)


@pytest.mark.parametrize('patients', [30, 130])
def test_the_bound_holds_for_new_patients(patients):
  """In 95 % of studies, whatever scores and clusters are like."""
  rng = np.random.default_rng(patients)
  held = 0
  studies = 2000
  for _ in range(studies):
    images = rng.integers(1, 4, patients)
    patient = np.repeat(np.arange(patients), images)
    effect = rng.normal(1, 1, patients)[patient]
    score = effect + rng.normal(0, 0.5, len(patient))
    label = np.ones(len(patient), bool)
    found = decisions.sensitivity_bound(score, label, patient)
    held += _true_sensitivity(found.threshold) >= 0.9
  error = np.sqrt(0.95 * 0.05 / studies)
  assert held / studies > 0.95 - 3 * error


# The share of new patients all of whose one to three images reach a threshold.
_GRID = np.linspace(-4, 4, 401)
_EFFECTS = np.linspace(-4, 6, 1001)


def _patient_sensitivity():
  weight = scipy.stats.norm.pdf(_EFFECTS, 1, 1)
  found = scipy.stats.norm.sf(_GRID[:, None], _EFFECTS, 0.5)
  several = (found + found**2 + found**3) / 3
  return several @ weight / weight.sum()


_SENSITIVITY = _patient_sensitivity()


def _true_sensitivity(threshold):
  return np.interp(threshold, _GRID, _SENSITIVITY)


def test_predictive_values_are_those_of_counting():
  positives, negatives = 200, 1800
  ppv, npv = decisions.predictive_values(
    np.array([0.9, 0.0]), np.array([0.95, 1.0]), prevalence=0.1
  )
  assert ppv[0] == pytest.approx(180 / (180 + 90))
  assert npv[0] == pytest.approx(1710 / (1710 + 20))
  assert np.isnan(ppv[1])  # Nothing is called positive.
  assert npv[1] == pytest.approx(negatives / (negatives + positives))


def test_net_benefit_is_that_of_counting():
  rng = np.random.default_rng(0)
  probability = rng.random(500)
  label = rng.random(500) < probability
  thresholds = np.array([0.1, 0.3, 0.8])
  prevalence = label.mean()
  found = decisions.net_benefit(
    probability, label, thresholds, prevalence=prevalence
  )
  for threshold, value in zip(thresholds, found, strict=True):
    called = probability >= threshold
    true, false = np.sum(called & label), np.sum(called & ~label)
    expected = true / 500 - false / 500 * threshold / (1 - threshold)
    assert value == pytest.approx(expected)
  everyone = decisions.net_benefit(
    np.ones(500), label, thresholds, prevalence=prevalence
  )
  np.testing.assert_allclose(
    decisions.net_benefit_of_all(thresholds, prevalence=prevalence), everyone
  )


def test_probabilities_stay_calibrated_at_another_prevalence():
  """Positives are drawn down from 50 % to 10 %."""
  rng = np.random.default_rng(0)
  label = rng.random(400_000) < 0.5
  score = rng.normal(label * 1.5, 1)
  probability = 1 / (1 + np.exp(-(1.5 * score - 1.125)))
  kept = ~label | (rng.random(len(label)) < 1 / 9)
  moved = decisions.at_prevalence(probability[kept], was=0.5, prevalence=0.1)
  label = label[kept]
  for low in (0.0, 0.2, 0.5):
    chosen = (moved >= low) & (moved < low + 0.1)
    assert label[chosen].mean() == pytest.approx(moved[chosen].mean(), abs=0.01)


def test_few_patients_are_on_the_wrong_side_of_the_band():
  rng = np.random.default_rng(0)
  patient = np.repeat(np.arange(400), 2)
  label = np.repeat(rng.random(400) < 0.4, 2)
  probability = 1 / (1 + np.exp(-(2 * label - 1 + rng.normal(size=800))))
  band = decisions.abstain_band(probability, label, patient)
  below, above = probability < band.low, probability >= band.high
  assert band.undecided == pytest.approx(np.mean(~below & ~above))
  assert band.sensitivity == np.mean(above[label & (below | above)])
  assert band.specificity == np.mean(below[~label & (below | above)])
  for wrong, chosen in ((below, label), (above, ~label)):
    patients = np.unique(patient[chosen])
    missed = np.unique(patient[wrong & chosen])
    allowed = decisions.allowed_misses(
      len(patients), sensitivity=0.9, confidence=0.95
    )
    assert len(missed) == allowed
  few = patient < 40
  assert (
    decisions.abstain_band(probability[few], label[few], patient[few]) is None
  )
