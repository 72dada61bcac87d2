"""Simulated readers of known sensitivity, and methods of the literature."""

import types

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from pnx_jax.errors import UserError
from pnx_jax.evaluation import readers as evaluation
from pnx_jax.metrics import reader_study
from pnx_jax.metrics.reader_study import Calls

_SENSITIVITY, _SPECIFICITY = 0.8, 0.9


def _simulated(num_readers, *, num_images=600, spread=0.0, seed=0):
  """Labels, patients, the network, and readers of a mean sensitivity."""
  rng = np.random.default_rng(seed)
  patient = np.arange(num_images) // 2
  label = rng.random(num_images) < 0.4
  probability = 1 / (1 + np.exp(-(3 * label + rng.normal(size=num_images))))
  calls = {}
  for number in range(num_readers):
    shift = rng.normal(0, spread)
    threshold = np.where(label, _SENSITIVITY + shift, 1 - _SPECIFICITY)
    called = rng.random(num_images) < threshold
    calls[f'reader {number}'] = Calls(np.arange(num_images), called, None)
  return label, patient, probability, calls


def _study(num_readers, **options):
  replicates = options.pop('replicates', 400)
  label, patient, probability, calls = _simulated(num_readers, **options)
  found = reader_study.study(
    calls,
    probability=probability,
    network_called=probability > 0.8,
    label=label,
    patient=patient,
    replicates=replicates,
  )
  return label, probability, calls, found


def test_readers_of_known_sensitivity_are_found():
  label, probability, calls, found = _study(2)
  for name, result in found.readers.items():
    for value, truth in (
      (result.sensitivity, _SENSITIVITY),
      (result.specificity, _SPECIFICITY),
    ):
      assert value.interval[0] < truth < value.interval[1]
    called = calls[name].called
    # The network's sensitivity where it calls as many negatives.
    false_rate, true_rate, _ = sklearn.metrics.roc_curve(
      label, probability, drop_intermediate=False
    )
    allowed = false_rate <= called[~label].mean() + 1e-9
    expected = true_rate[allowed].max()
    assert result.network_sensitivity.value == pytest.approx(expected)
    assert result.difference.value == pytest.approx(
      expected - called[label].mean()
    )
    low, high = result.difference.interval
    assert low < result.difference.value < high
    both = called | (probability > 0.8)
    assert result.pair_sensitivity.value == both[label].mean()
    assert result.gain.value >= 0 >= result.loss.value
    assert 0 <= result.gain.interval[0] < result.gain.value
    assert result.loss.value < result.loss.interval[1] <= 0
  assert not found.draws_readers
  first, second = (x.called for x in calls.values())
  assert found.kappa['reader 0', 'reader 1'].value == pytest.approx(
    sklearn.metrics.cohen_kappa_score(first, second)
  )
  assert ('reader 1', 'network') in found.kappa


def _obuchowski_rockette(label, patient, probability, calls):
  """Mean difference and interval (Obuchowski and Rockette 1995; Hillis 2007).

  Covariances come from a jackknife over patients.
  """

  def differences(kept):
    rows = np.flatnonzero(kept)
    found = []
    for each in calls.values():
      false_rate, true_rate, _ = sklearn.metrics.roc_curve(
        label[rows], probability[rows], drop_intermediate=False
      )
      called = each.called[rows]
      allowed = false_rate <= called[~label[rows]].mean() + 1e-9
      found.append(true_rate[allowed].max() - called[label[rows]].mean())
    return found

  of_reader = np.array(differences(np.ones(len(label), bool)))
  names = np.unique(patient)
  left_out = np.array([differences(patient != name) for name in names])
  covariance = np.cov(left_out.T) * (len(names) - 1) ** 2 / len(names)
  count = len(of_reader)
  off_diagonal = covariance[~np.eye(count, dtype=bool)].mean()
  between = of_reader.var(ddof=1)
  total = between + count * max(off_diagonal, 0)
  degrees = total**2 / (between**2 / (count - 1))
  half = scipy.stats.t.ppf(0.975, degrees) * np.sqrt(total / count)
  return of_reader.mean(), half


def test_intervals_over_readers_agree_with_obuchowski_and_rockette():
  options = {'num_images': 300, 'spread': 0.05, 'seed': 3}
  label, patient, probability, calls = _simulated(8, **options)
  *_, found = _study(8, replicates=1000, **options)
  assert found.draws_readers and found.num_readers == 8
  mean, half = _obuchowski_rockette(label, patient, probability, calls)
  assert found.mean_difference.value == pytest.approx(mean)
  low, high = found.mean_difference.interval
  assert (high - low) / 2 == pytest.approx(half, rel=0.3)
  # Those of patients alone are narrower.
  label, patient, probability, calls = _simulated(4, **options)
  *_, few = _study(4, **options)
  assert not few.draws_readers


def test_one_patient_and_one_class_are_undefined():
  label, patient, probability, calls = _simulated(1, num_images=20)
  options = {
    'probability': probability,
    'network_called': probability > 0.5,
    'replicates': 50,
  }
  one = reader_study.study(
    calls, label=label, patient=np.zeros(20, int), **options
  )
  assert one.readers['reader 0'].difference.interval is None
  assert one.readers['reader 0'].sensitivity.interval is None
  negative = reader_study.study(
    calls, label=np.zeros(20, bool), patient=patient, **options
  )
  assert np.isnan(negative.readers['reader 0'].difference.value)


def _records(count=6):
  return [
    types.SimpleNamespace(image_id=f'film {number}', height=8, width=8)
    for number in range(count)
  ]


def test_a_table_of_readers_is_read(tmp_path):
  path = tmp_path / 'readers.csv'
  path.write_text(
    'reader,image_id,call,score,rle\n'
    'A,film 1,1,0.7,0 4\nA,film 0,0,0.1,-1\nB,film 1,1,,\nB,film x,0,,\n'
  )
  found = evaluation.read(path, _records())
  assert found['A'].calls.rows.tolist() == [1, 0]
  assert found['A'].calls.called.tolist() == [True, False]
  assert found['A'].calls.score.tolist() == [0.7, 0.1]
  assert found['A'].masks == {1: '0 4', 0: '-1'}
  assert found['B'].calls.score is None and not found['B'].masks


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('reader,image_id\nA,film 1\n', 'expected the columns'),
    ('reader,image_id,call\nA,film 1,2\n', 'line 2: the call .2. is not'),
    ('reader,image_id,call\nnetwork,film 1,1\n', "'network' needs another"),
    ('reader,image_id,call\nmean,film 1,1\n', "'mean' needs another"),
    ('reader,image_id,call\n,film 1,1\n', "'' needs another"),
    ('reader,image_id,score\nA,film 1,nan\n', 'not a number'),
    ('reader,image_id,call\nA,film 1,1\nA,film 1,0\n', 'line 3: A has read'),
    ('reader,image_id,call\nA,other,1\n', 'none of the 6 images'),
    ('reader,image_id,call\nA,film 1,1\nA,film 2,\n', 'on 1 of 2 images'),
    ('reader,image_id,call,rle\nA,film 1,1,9 900\n', 'line 2'),
  ],
)
def test_tables_that_are_wrong_are_one_line(tmp_path, text, message):
  path = tmp_path / 'readers.csv'
  path.write_text(text)
  with pytest.raises(UserError, match=message) as raised:
    evaluation.read(path, _records())
  assert '\n' not in str(raised.value)
