"""Differences between a subgroup of images and all others.

Many subgroups are looked at together, so their intervals are simultaneous: with
95 % confidence all of them hold at once. They come from the largest studentized
deviation over subgroups in a bootstrap over patients (max-t; Westfall and
Young, Resampling-Based Multiple Testing, 1993).
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from scipy import special

from pnx_jax.metrics import averages, bootstrap
from pnx_jax.metrics.averages import weighted_mean
from pnx_jax.metrics.bootstrap import Interval
from pnx_jax.metrics.curves import curve
from pnx_jax.metrics.summary import Images, rates

# Half the width of a 95 % interval in standard errors.
_NORMAL = special.ndtri((1 + averages.CONFIDENCE) / 2)
METRICS = ('dice_positive', 'sensitivity', 'specificity', 'auc')
# Of calls by the image's probability, whose masks may be empty all the same.
OF_CALLS = ('sensitivity_of_calls', 'specificity_of_calls')


@dataclasses.dataclass(frozen=True)
class SubgroupDifference:
  """How a subgroup differs from all other images in a metric.

  Attributes:
    table: The attribute, such as `view`.
    row: The subgroup's value of it, such as `AP`.
    metric: One of METRICS or OF_CALLS.
    inside: The metric of the subgroup; NaN if undefined.
    outside: The metric of all other images; NaN if undefined.
    interval: Simultaneous 95 % interval of inside minus outside; None if fewer
      than 5 patients carry the metric on either side.
  """

  table: str
  row: str
  metric: str
  inside: float
  outside: float
  interval: Interval

  @property
  def difference(self) -> float:
    """Inside minus outside."""
    return self.inside - self.outside


def differences(
  images: Images,
  tables: Mapping[str, Mapping[str, np.ndarray]],
  *,
  called: np.ndarray | None = None,
  replicates: int = bootstrap.REPLICATES,
  seed: int = 0,
) -> list[SubgroupDifference]:
  """Compares every subgroup with the rest, in METRICS and OF_CALLS.

  Intervals are simultaneous over the subgroups of all tables, for each metric.

  Args:
    images: N images.
    tables: Subgroups bool[N], by table and row.
    called: bool[N], calls at an operating point of the probability; without
      them OF_CALLS are left out.
    replicates: Of the bootstrap.
    seed: Seed of the bootstrap.
  """
  groups = {
    (table, row): chosen
    for table, rows in tables.items()
    for row, chosen in rows.items()
  }
  enough = len(np.unique(images.patient)) >= bootstrap.MIN_CLUSTERS

  def compute(weights: np.ndarray) -> dict[tuple, np.ndarray]:
    return {
      (group, inside, metric): values
      for group, chosen in groups.items()
      for inside, side in ((True, chosen), (False, ~chosen))
      for metric, values in _metrics(
        images[side],
        weights[:, side],
        None if called is None else called[side],
      ).items()
    }

  drawn = bootstrap.samples(
    compute, images.patient, replicates=replicates, seed=seed
  )
  found = []
  for metric in METRICS + (() if called is None else OF_CALLS):
    values = {
      group: (drawn[group, True, metric], drawn[group, False, metric])
      for group in groups
    }
    intervals = _simultaneous(
      {group: inside - outside for group, (inside, outside) in values.items()},
      {
        group: _hidden_variance(values[group][0], images[chosen], metric)
        + _hidden_variance(values[group][1], images[~chosen], metric)
        for group, chosen in groups.items()
      },
    )
    for (table, row), (inside, outside) in values.items():
      found.append(
        SubgroupDifference(
          table,
          row,
          metric,
          float(inside[0]),
          float(outside[0]),
          intervals[table, row] if enough else None,
        )
      )
  return found


def worst(
  found: list[SubgroupDifference], metric: str
) -> SubgroupDifference | None:
  """The subgroup that is worst in a metric; None if that is not resolved.

  It is resolved only if the subgroup's own interval excludes 0.
  """
  resolved = [
    each
    for each in found
    if each.metric == metric and each.interval and each.interval[1] < 0
  ]
  return min(resolved, key=lambda each: each.difference, default=None)


def _metrics(
  images: Images, weights: np.ndarray, called: np.ndarray | None
) -> dict[str, np.ndarray]:
  label = images.label
  of_calls = {}
  if called is not None:
    both = rates(called, label, weights)
    of_calls = {f'{name}_of_calls': values for name, values in both.items()}
  auc = np.full(len(weights), np.nan)
  if label.any() and not label.all():
    auc = curve(images.probability, label, weights).auc
  return {
    'dice_positive': weighted_mean(images.dice, weights, images.marked),
    **rates(images.predicted, label, weights),
    'auc': auc,
    **of_calls,
  }


def _hidden_variance(values: np.ndarray, images: Images, metric: str) -> float:
  """Variance of a metric that no sample shows, as all its patients are alike.

  With it the interval reaches as far as Wilson's of a share of 0 or 1 among the
  patients. 0 where samples vary.

  Args:
    values: f64[1 + R], of the images and of bootstrap samples.
    images: Of a subgroup.
    metric: One of METRICS or OF_CALLS.
  """
  if np.isnan(values[0]) or np.nanstd(values[1:]) > 0:
    return 0.0
  label = images.label
  carriers = [~label] if metric.startswith('specificity') else [label]
  if metric == 'auc':
    carriers = [label, ~label]
  count = min(len(np.unique(images.patient[chosen])) for chosen in carriers)
  return (_NORMAL / (count + _NORMAL**2)) ** 2


def _simultaneous(
  values: Mapping[tuple[str, str], np.ndarray],
  hidden: Mapping[tuple[str, str], float],
) -> dict[tuple[str, str], Interval]:
  """Intervals around the first of f64[1 + R], which hold at once.

  Differences of metrics between 0 and 1 lie between -1 and 1.

  Args:
    values: By subgroup, of the images and of bootstrap samples.
    hidden: By subgroup, variance beyond that of the samples.
  """
  intervals: dict[tuple[str, str], Interval] = dict.fromkeys(values)
  variances = {
    group: np.nanvar(drawn[1:], ddof=1)
    for group, drawn in values.items()
    if np.isfinite(drawn[0]) and bootstrap.interval(drawn[1:])
  }
  deviations = [
    np.abs(values[group][1:] - values[group][0]) / np.sqrt(variance)
    for group, variance in variances.items()
    if variance > 0
  ]
  if not deviations:
    return intervals
  largest = np.fmax.reduce(np.stack(deviations))
  factor = np.nanquantile(largest, averages.CONFIDENCE)
  errors = {
    group: np.sqrt(variance + hidden[group])
    for group, variance in variances.items()
  }
  for group, error in errors.items():
    center, half = float(values[group][0]), float(factor * error)
    intervals[group] = max(-1.0, center - half), min(1.0, center + half)
  return intervals
