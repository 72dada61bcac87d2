"""Metrics of an evaluation with their intervals, overall and by subgroup."""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from pnx_jax.evaluation.rule_search import Outcome
from pnx_jax.formats import schema
from pnx_jax.formats.schema import Record
from pnx_jax.metrics import averages, bootstrap, calibration, summary
from pnx_jax.metrics.averages import quartiles, weighted_mean
from pnx_jax.metrics.bootstrap import Interval
from pnx_jax.metrics.calibration import OperatingPoint
from pnx_jax.metrics.curves import curve
from pnx_jax.metrics.summary import Images, rates

AGE_BANDS = ((0, 17), (18, 39), (40, 59), (60, 79), (80, 120))
# Columns of the tables by view, sex, age and size of the mask.
TABLE_METRICS = ('dice', 'dice_positive', 'sensitivity', 'specificity', 'auc')


@dataclasses.dataclass(frozen=True)
class Metrics:
  """Metrics by name with their intervals.

  Attributes:
    values: NaN where undefined.
    intervals: None where too few patients carry the metric.
  """

  values: dict[str, float]
  intervals: dict[str, Interval]

  def flat(self) -> dict[str, Any]:
    """Scalars by name and `intervals`, ready for JSON: undefined is None."""
    return {
      **{name: _json(value) for name, value in self.values.items()},
      'intervals': {
        name: None if pair is None else list(pair)
        for name, pair in self.intervals.items()
      },
    }


def images_table(
  records: Sequence[Record],
  statistics: Mapping[str, np.ndarray],
  outcome: Outcome,
) -> Images:
  """Joins records, statistics and the outcome of the rules into one table."""
  return Images(
    label=np.array([r.label == schema.POSITIVE for r in records], bool),
    probability=np.asarray(statistics['probability'], np.float64),
    dice=outcome.dice,
    predicted=outcome.predicted,
    truth_area=np.asarray(statistics['truth_area']),
    predicted_area=outcome.predicted_area,
    intersection=outcome.intersection,
    patient=np.array([record.patient for record in records], np.int64),
    mask_known=statistics.get('mask_known'),
  )


def with_intervals(
  images: Images,
  *,
  replicates: int,
  names: Collection[str] | None = None,
  more: Callable[[np.ndarray], dict[str, np.ndarray]] | None = None,
) -> Metrics:
  """Metrics of images, with intervals from resampled patients.

  Args:
    images: N images.
    replicates: R, of the bootstrap.
    names: The metrics of `summary.compute` to keep; all of them if None.
    more: Maps weights f64[R, N] to further metrics f64[R] by name.
  """

  def compute(weights: np.ndarray) -> dict[str, np.ndarray]:
    values = summary.compute(images, weights)
    values = {name: values[name] for name in names or values}
    return values | (more(weights) if more else {})

  values = compute(np.ones((1, len(images))))
  return Metrics(
    {name: float(value[0]) for name, value in values.items()},
    bootstrap.cluster_bootstrap(compute, images.patient, replicates=replicates),
  )


def means(
  columns: Mapping[str, np.ndarray],
  weights: np.ndarray,
  *,
  chosen: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
  """Means of columns f64[N] under each of R weightings: f64[R] by name.

  Args:
    columns: f64[N] by name.
    weights: f64[R, N].
    chosen: bool[N], the images to average; all of them if None.
  """
  return {
    name: weighted_mean(x, weights, chosen) for name, x in columns.items()
  }


def strata(
  records: Sequence[Record], images: Images
) -> dict[str, dict[str, np.ndarray]]:
  """Subgroups of images: bool[N] by table and row; empty ones are left out."""
  quartile = quartiles(images.truth_area, images.marked)
  age = np.array([record.age for record in records])
  names = {
    'view': np.array([record.view or 'unknown' for record in records]),
    'sex': np.array([record.sex or 'unknown' for record in records]),
  }
  sources = np.array([record.source or 'unnamed' for record in records])
  if len(set(sources.tolist())) > 1:
    names['source'] = sources
  return {
    'size_quartile': {
      str(number): rows
      for number in range(1, averages.NUM_QUARTILES + 1)
      if (rows := quartile == number).any()
    },
    **{
      table: {row: column == row for row in sorted(set(column.tolist()))}
      for table, column in names.items()
    },
    'age': {
      name: rows
      for name, rows in {
        **{
          f'{low}-{high}': (age >= low) & (age <= high)
          for low, high in AGE_BANDS
        },
        'unknown': (age < 0) | (age > AGE_BANDS[-1][1]),
      }.items()
      if rows.any()
    },
  }


@dataclasses.dataclass(frozen=True)
class Calibration:
  """Image probabilities before and after temperature scaling.

  Attributes:
    temperature: Fitted to all images, or the saved one.
    scaled: f64[N], calibrated probabilities. If they were fitted here, each
      group of images is scaled by the temperature of the other groups.
    points: Operating points on the calibrated probability.
  """

  temperature: float
  scaled: np.ndarray
  points: tuple[OperatingPoint, ...]

  @classmethod
  def fit(
    cls, probability: np.ndarray, label: np.ndarray, groups: np.ndarray
  ) -> 'Calibration':
    """Fits the temperature and chooses operating points.

    Args:
      probability: f64[N].
      label: bool[N].
      groups: int[N], for cross-fitting.
    """
    fit = calibration.fit_temperature
    temperature = fit(probability, label)
    scaled = np.array(probability, np.float64)
    several = groups.max() > 0
    for group in range(groups.max() + 1):
      rows, others = groups == group, groups != group
      fitted = fit(probability[others], label[others]) if several else 1.0
      scaled[rows] = calibration.scale(probability[rows], fitted)
    everywhere = calibration.scale(probability, temperature)
    points = calibration.operating_points(everywhere, label)
    return cls(temperature, scaled, tuple(points))

  def metrics(
    self, images: Images, weights: np.ndarray
  ) -> dict[str, np.ndarray]:
    """Calibration errors and points of the ROC curve: f64[R] by name."""
    label, error = images.label, calibration.expected_calibration_error
    ranking = curve(images.probability, label, weights)
    return {
      'brier_calibrated': weighted_mean((self.scaled - label) ** 2, weights),
      'ece': error(images.probability, label, weights),
      'ece_calibrated': error(self.scaled, label, weights),
      **{
        f'sensitivity_at_specificity_{level * 100:.0f}': (
          ranking.sensitivity_at(level)
        )
        for level in calibration.LEVELS
      },
      **{
        f'specificity_at_sensitivity_{level * 100:.0f}': (
          ranking.specificity_at(level)
        )
        for level in calibration.LEVELS
      },
    }

  def operating_point_metrics(
    self, images: Images, weights: np.ndarray
  ) -> dict[str, np.ndarray]:
    """Sensitivity and specificity at the operating points: f64[R] by name."""
    return {
      f'operating_point={point.name}/{name}': values
      for point in self.points
      for name, values in rates(
        self.scaled >= point.threshold, images.label, weights
      ).items()
    }


def _json(value: Any) -> Any:
  """None for NaN and infinity."""
  value = float(value) if isinstance(value, np.generic | float) else value
  return value if isinstance(value, int) or math.isfinite(value) else None
