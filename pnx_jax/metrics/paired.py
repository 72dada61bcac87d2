"""Paired comparison of two sides that predicted the same images.

A side is one run, or several runs of one recipe with different seeds, whose
metrics are averaged. Differences are the second side minus the first.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import scipy.stats

from pnx_jax.metrics import bootstrap, calibration, influence, intervals
from pnx_jax.metrics.averages import divide
from pnx_jax.metrics.bootstrap import Interval
from pnx_jax.metrics.influence import Influence
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
# Permutations are ranked as many at a time as this many images allow: their
# tables then fit into a processor's cache, and ranking is twice as fast.
_SWAPPED_IMAGES = 50_000

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

  Intervals are t intervals from the influence of every patient on both sides
  (see `intervals`), and on a side of several runs also from the variance
  between runs, with Satterthwaite's degrees of freedom. For sensitivity and
  specificity, two images are added on which the sides differ, one in each
  direction (Agresti and Min 2005, Statistics in Medicine 24, 729-740):
  otherwise an interval has no width where the sides agree by chance.

  Args:
    first: Runs that have the same images in the same order.
    second: As many runs with those images.
    replicates: Of the permutation test.
    seed: Of the permutation test.

  Raises:
    ValueError: The runs have different images, or the sides different numbers
      of runs.
  """
  patient = _check(first, second).patient
  same = all(map(_same, first, second))
  sides = [
    [influence.of_metrics(images) for images in side]
    for side in (first, second)
  ]
  p_values = permutation_test(first, second, replicates=replicates, seed=seed)
  found = {}
  for name in METRICS:
    runs = [[of_run[name]() for of_run in side] for side in sides]
    one, other = (float(np.mean([x.value for x in side])) for side in runs)
    interval, error = _interval(name, runs, patient)
    if same and interval:
      interval, error = (0.0, 0.0), 0.0
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


def _same(first: Images, second: Images) -> bool:
  return all(
    np.array_equal(getattr(first, column.name), getattr(second, column.name))
    for column in dataclasses.fields(first)
  )


def _interval(
  name: str, runs: Sequence[Sequence[Influence]], patient: np.ndarray
) -> tuple[Interval, float]:
  """The interval of a difference and its standard error; None and NaN."""
  before, after = (np.mean([x.of_image for x in side], axis=0) for side in runs)
  values = [np.array([x.value for x in side]) for side in runs]
  carriers = runs[0][0].carriers
  moved = Influence(
    float(values[1].mean() - values[0].mean()), after - before, carriers
  )
  count, variance = moved.num_patients(patient), moved.variance(patient)
  if count < bootstrap.MIN_CLUSTERS or np.isnan(variance):
    return None, float('nan')
  center = moved.value
  if name in ('sensitivity', 'specificity'):
    size = carriers[0].sum()
    center *= size / (size + 2)
    variance = (variance * size**2 + 1) / (size + 2) ** 2
  rest = variance**2 / (count - 1)
  for side in values:
    if len(side) > 1:
      between = side.var(ddof=1) / len(side)
      variance += between
      rest += between**2 / (len(side) - 1)
  error = float(np.sqrt(variance))
  if not error:
    return (center, center), 0.0
  half = intervals.quantile(variance**2 / rest) * error
  # All metrics lie between 0 and 1.
  return (float(max(-1, center - half)), float(min(1, center + half))), error


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
  # Twice the ranks within a run, as ties have their mean.
  one, other = (
    np.rint(2 * scipy.stats.rankdata(images.probability)).astype(np.int64)
    for images in (first, second)
  )
  num_parts = 1 + len(swaps) * len(patient) // _SWAPPED_IMAGES
  parts = []
  for part in np.array_split(swaps, num_parts):
    swap = part[:, patient]
    before = _ranking(np.where(swap, other, one), first.label)
    after = _ranking(np.where(swap, one, other), first.label)
    parts.append(after - before)
  auc, precision = np.concatenate(parts, axis=1)
  yield 'auc', auc
  yield 'average_precision', precision


def _ranking(score: np.ndarray, label: np.ndarray) -> np.ndarray:
  """AUC and average precision of R orders of N images: f64[2, R].

  Args:
    score: int[R, N], from 0 to 2 N.
    label: bool[N].
  """
  rows, size = len(score), 2 * score.shape[1] + 1
  address = score + size * np.arange(rows)[:, None]
  negative, positive = (
    np.bincount(address[:, chosen].ravel(), minlength=rows * size)
    .reshape(rows, size)[:, ::-1]
    .astype(np.float64)
    for chosen in (~label, label)
  )
  # From the highest score downwards.
  hits, false = np.cumsum(positive, axis=1), np.cumsum(negative, axis=1)
  num_positive, num_negative = hits[:, -1], false[:, -1]
  below = num_negative[:, None] - false + negative / 2
  return np.stack(
    [
      divide((positive * below).sum(axis=1), num_positive * num_negative),
      divide(
        (positive * divide(hits, hits + false)).sum(axis=1, where=positive > 0),
        num_positive,
      ),
    ]
  )


def _p_value(differences: np.ndarray) -> float:
  """How often permutations differ at least as much as the observed, first one.

  The observed one counts as a permutation, so the value is never 0 (Davison and
  Hinkley, Bootstrap Methods and their Application, 1997, section 4.2.5).
  """
  if np.isnan(differences[0]):
    return float('nan')
  size = np.abs(differences)
  return float(np.mean(size >= size[0] - _ROUNDING))
