"""Paired comparison of two sides that predicted the same images.

A side is one run, or several runs of one recipe with different seeds, whose
metrics are averaged. Differences are the second side minus the first.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import scipy.stats

from pnx_jax.metrics import bootstrap, calibration, summary
from pnx_jax.metrics.averages import divide
from pnx_jax.metrics.bootstrap import Interval
from pnx_jax.metrics.curves import curve
from pnx_jax.metrics.summary import Images

# The metrics of `summary.compute` in which runs can differ, and the expected
# calibration error.
METRICS = (
  *('dice', 'dice_positive', 'dice_pooled', 'iou', 'iou_positive'),
  *('sensitivity', 'specificity', 'auc', 'average_precision', 'brier', 'ece'),
)
LOWER_IS_BETTER = ('brier', 'ece')
# A two-sided test at 5 % finds a difference of so many standard errors in 80 %
# of studies.
_RESOLVABLE = scipy.stats.norm.ppf(0.975) + scipy.stats.norm.ppf(0.8)
_ROUNDING = 1e-12

Side = Sequence[Images]
_Key = TypeVar('_Key')


@dataclasses.dataclass(frozen=True)
class Difference:
  """The difference of two sides in one metric; NaN where undefined.

  Attributes:
    first: The metric of the first side.
    second: The metric of the second side.
    difference: Second minus first.
    interval: 95 % interval of the difference; None if too few patients carry
      the metric.
    resolvable: The smallest difference that a two-sided test at 5 % finds in
      80 % of studies of this size.
    p_value: Of the permutation test.
  """

  first: float
  second: float
  difference: float
  interval: Interval
  resolvable: float
  p_value: float


def compare(
  first: Side,
  second: Side,
  *,
  replicates: int = bootstrap.REPLICATES,
  seed: int = 0,
) -> dict[str, Difference]:
  """Compares two sides in all METRICS.

  Intervals come from a bootstrap that draws patients, the same for both sides,
  and on a side of several runs also runs. Deviations of drawn runs from their
  mean are scaled so that their variance is unbiased (Rao and Wu 1988, Journal
  of the American Statistical Association 83, 231-241).

  Args:
    first: Runs that have the same images in the same order.
    second: As many runs with those images.
    replicates: Of the bootstrap and of the permutation test.
    seed: Seed of both.

  Raises:
    ValueError: The runs have different images, or the sides different numbers
      of runs.
  """
  patient = _check(first, second).patient
  once = np.ones((1, len(patient)))
  weights = bootstrap.cluster_weights(patient, replicates=replicates, seed=seed)
  enough = len(np.unique(patient)) >= bootstrap.MIN_CLUSTERS
  rng = np.random.default_rng(seed)
  values, drawn = [], []
  for side in (first, second):
    exact, replicated = (
      [_metrics(images, w) for images in side] for w in (once, weights)
    )
    runs = rng.integers(len(side), size=(len(side), replicates))
    values.append({n: float(np.mean([x[n] for x in exact])) for n in METRICS})
    drawn.append(
      {n: _drawn_mean([x[n] for x in replicated], runs) for n in METRICS}
    )
  p_values = permutation_test(first, second, replicates=replicates, seed=seed)
  found = {}
  for name in METRICS:
    one, other = (value[name] for value in values)
    differences = drawn[1][name] - drawn[0][name]
    interval = bootstrap.interval(differences) if enough else None
    error = np.nanstd(differences, ddof=1) if interval else np.nan
    found[name] = Difference(
      first=one,
      second=other,
      difference=other - one,
      interval=interval,
      resolvable=float(_RESOLVABLE * error),
      p_value=p_values[name],
    )
  return found


def permutation_test(
  first: Side,
  second: Side,
  *,
  replicates: int = bootstrap.REPLICATES,
  seed: int = 0,
) -> dict[str, float]:
  """Two-sided p-values of a permutation test, by metric; NaN if undefined.

  The null hypothesis is that it makes no difference which side predicted a
  patient: each permutation exchanges the sides for a random half of the
  patients, with all their images. For AUC and average precision, which depend
  on the order of images alone, probabilities are replaced by their ranks within
  the run, as two networks need not use one scale. The test is about these runs
  and new patients; it does not cover how runs with other seeds would differ.

  Args:
    first: See `compare`.
    second: See `compare`.
    replicates: Number of permutations.
    seed: Seed of the permutations.

  Raises:
    ValueError: See `compare`.
  """
  names, patient = np.unique(_check(first, second).patient, return_inverse=True)
  rng = np.random.default_rng(seed)
  swaps = rng.random((1 + replicates, len(names))) < 0.5
  swaps[0] = False  # The observed difference.
  differences = {name: np.zeros(len(swaps)) for name in METRICS}
  for one, other in zip(first, second, strict=True):
    for name, values in (
      *_summed_differences(one, other, patient, swaps),
      *_ranking_differences(one, other, patient, swaps),
    ):
      differences[name] += values / len(first)
  return {name: _p_value(values) for name, values in differences.items()}


def holm(p_values: Mapping[_Key, float]) -> dict[_Key, float]:
  """Adjusts p-values for their number; undefined ones do not count.

  Holm 1979, Scandinavian Journal of Statistics 6, 65-70.
  """
  defined = [key for key, value in p_values.items() if not np.isnan(value)]
  adjusted, highest = dict(p_values), 0.0
  for rank, key in enumerate(sorted(defined, key=p_values.__getitem__)):
    value = p_values[key] * (len(defined) - rank)
    highest = max(highest, min(1.0, value))
    adjusted[key] = highest
  return adjusted


def _check(first: Side, second: Side) -> Images:
  """The first run; raises ValueError if sides cannot be compared."""
  if not first or len(first) != len(second):
    raise ValueError(
      f'Sides of {len(first)} and of {len(second)} runs: both need the same '
      'number, at least one.'
    )
  for other in (*first, *second):
    for name in ('label', 'patient', 'truth_area'):
      if not np.array_equal(getattr(first[0], name), getattr(other, name)):
        raise ValueError(f'The runs differ in {name}.')
  return first[0]


def _metrics(images: Images, weights: np.ndarray) -> dict[str, np.ndarray]:
  error = calibration.expected_calibration_error
  found = summary.compute(images, weights)
  found['ece'] = error(images.probability, images.label, weights)
  return found


def _drawn_mean(values: Sequence[np.ndarray], runs: np.ndarray) -> np.ndarray:
  """Mean over drawn runs int[K, R] of a metric f64[R] of each of K runs."""
  of_run = np.stack(values)
  mean = of_run.mean(axis=0)
  if len(of_run) == 1:
    return mean
  drawn = np.take_along_axis(of_run, runs, axis=0).mean(axis=0)
  return mean + (drawn - mean) * np.sqrt(len(of_run) / (len(of_run) - 1))


def _summed_differences(
  first: Images, second: Images, patient: np.ndarray, swaps: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
  """Differences f64[R] of metrics that follow from sums over images."""
  one, other = (_sums_of_patients(x, patient) for x in (first, second))
  moved = swaps @ (other - one)
  label = first.label
  count = {'': len(label), 'positive': label.sum(), 'negative': (~label).sum()}
  totals = one.sum(axis=0) + moved, other.sum(axis=0) - moved
  for index, (name, of) in enumerate(_MEANS.items()):
    before, after = (total[:, index] for total in totals)
    yield name, (after - before) / (count[of] or np.nan)
  before, after = (
    divide(total[:, len(_MEANS)], total[:, len(_MEANS) + 1]) for total in totals
  )
  yield 'dice_pooled', after - before
  before, after = (
    np.abs(total[:, len(_MEANS) + 2 :]).sum(axis=1) for total in totals
  )
  yield 'ece', (after - before) / len(label)


# Over which images each metric is a mean, in the order of `_sums_of_patients`.
_MEANS = {
  'dice': '',
  'dice_positive': 'positive',
  'iou': '',
  'iou_positive': 'positive',
  'sensitivity': 'positive',
  'specificity': 'negative',
  'brier': '',
}


def _sums_of_patients(images: Images, patient: np.ndarray) -> np.ndarray:
  """What metrics are made of, summed over each patient's images: f64[P, C]."""
  label, error = images.label, images.probability - images.label
  area = images.predicted_area + images.truth_area
  iou = divide(images.intersection, area - images.intersection, undefined=1.0)
  columns = [
    images.dice,
    images.dice * label,
    iou,
    iou * label,
    images.predicted & label,
    ~images.predicted & ~label,
    error**2,
    2 * images.intersection,
    area,
    *(calibration.membership(images.probability) * error[:, None]).T,
  ]
  return np.stack([np.bincount(patient, column) for column in columns], axis=1)


def _ranking_differences(
  first: Images, second: Images, patient: np.ndarray, swaps: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
  """Differences f64[R] of metrics that follow from the order of images."""
  label = first.label
  one, other = (
    scipy.stats.rankdata(images.probability) for images in (first, second)
  )
  auc, precision = np.empty((2, len(swaps)))
  for row, swap in enumerate(swaps):
    swap = swap[patient]
    before = curve(np.where(swap, other, one), label)
    after = curve(np.where(swap, one, other), label)
    auc[row] = after.auc - before.auc
    precision[row] = after.average_precision - before.average_precision
  yield 'auc', auc
  yield 'average_precision', precision


def _p_value(differences: np.ndarray) -> float:
  """How often permutations differ at least as much as the observed, first one.

  The observed one counts as a permutation, so the value is never 0 (Davison and
  Hinkley, Bootstrap Methods and their Application, 1997, section 4.2.5).
  """
  if np.isnan(differences[0]):
    return float('nan')
  size = np.abs(differences)
  return float(np.mean(size >= size[0] - _ROUNDING))
