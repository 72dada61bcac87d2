"""Bootstrap intervals: coverage, width, and resampling by patient."""

import functools

import numpy as np

from pnx_jax.metrics import bootstrap


def _mean(values, weights):
  return {'mean': weights @ values / weights.sum(1)}


def test_images_of_a_patient_are_drawn_together():
  patients = np.array([4, 9, 4, 7, 9, 9])
  weights = bootstrap.cluster_weights(patients, replicates=50)
  for patient in patients:
    drawn = weights[:, patients == patient]
    np.testing.assert_array_equal(drawn, drawn[:, :1].repeat(drawn.shape[1], 1))
  # Three patients are drawn each time.
  np.testing.assert_array_equal(weights[:, [0, 1, 3]].sum(1), 3)


def test_intervals_cover_the_truth_with_dependent_images():
  rng = np.random.default_rng(0)
  patients = np.repeat(np.arange(40), 5)
  covered, naive_covered = 0, 0
  for trial in range(100):
    values = np.repeat(rng.normal(size=40), 5) + 0.1 * rng.normal(size=200)
    metric = functools.partial(_mean, values)
    low, high = bootstrap.cluster_bootstrap(
      metric, patients, replicates=200, seed=trial
    )['mean']
    covered += low < 0 < high
    low, high = bootstrap.cluster_bootstrap(
      metric, np.arange(200), replicates=200, seed=trial
    )['mean']
    naive_covered += low < 0 < high
  assert 88 <= covered <= 99
  assert naive_covered < 75


def test_width_agrees_with_the_standard_error():
  values = np.random.default_rng(0).normal(size=400)
  low, high = bootstrap.cluster_bootstrap(
    functools.partial(_mean, values), np.arange(400)
  )['mean']
  np.testing.assert_allclose(high - low, 2 * 1.96 * values.std() / 20, rtol=0.1)


def test_a_metric_of_few_patients_has_no_interval():
  values = np.random.default_rng(0).random(40)

  def mean_of_first(count):
    def metric(weights):
      first = weights[:, :count]
      with np.errstate(invalid='ignore'):
        return {'x': first @ values[:count] / first.sum(1)}

    return bootstrap.cluster_bootstrap(metric, np.arange(40))['x']

  # How many of 40 patients carry the metric.
  assert [mean_of_first(count) is None for count in (1, 3, 8, 40)] == [
    True,
    True,
    False,
    False,
  ]
  assert bootstrap.cluster_bootstrap(
    functools.partial(_mean, values[:4]), np.arange(4)
  ) == {'mean': None}


def test_the_same_seed_gives_the_same_interval():
  values = np.random.default_rng(0).random(30)
  metric = functools.partial(_mean, values)
  first, second, other = (
    bootstrap.cluster_bootstrap(metric, np.arange(30) // 2, seed=seed)
    for seed in (1, 1, 2)
  )
  assert first == second != other


def test_few_replicates_are_held_at_a_time():
  values = np.random.default_rng(0).random(6000)
  patients, sizes = np.arange(6000) // 3, []

  def metric(weights):
    sizes.append(weights.nbytes)
    return _mean(values, weights)

  found = bootstrap.samples(metric, patients, replicates=300, seed=5)['mean']
  weights = bootstrap.cluster_weights(patients, replicates=300, seed=5)
  np.testing.assert_allclose(found[1:], _mean(values, weights)['mean'])
  assert found[0] == np.mean(values)
  assert max(sizes) <= 4_000_000 < weights.nbytes
