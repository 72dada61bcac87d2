"""Metrics of an evaluation with their intervals, overall and by subgroup."""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from pnx_jax.evaluation.rule_search import Outcome
from pnx_jax.formats import schema
from pnx_jax.formats.schema import Record
from pnx_jax.metrics import (
  averages,
  bootstrap,
  calibration,
  influence,
  intervals,
)
from pnx_jax.metrics.averages import quartiles
from pnx_jax.metrics.bootstrap import Interval
from pnx_jax.metrics.calibration import OperatingPoint
from pnx_jax.metrics.curves import curve
from pnx_jax.metrics.influence import Influence
from pnx_jax.metrics.summary import Images

AGE_BANDS = ((0, 17), (18, 39), (40, 59), (60, 79), (80, 120))
# Columns of the tables by view, sex, age and size of the mask.
TABLE_METRICS = ('dice', 'dice_positive', 'sensitivity', 'specificity', 'auc')
CALLS_AT = 'specificity 95%'  # The operating point of calls.
UNBOUNDED = frozenset({'dice_gain', 'optimism'})  # They may be below 0.


@dataclasses.dataclass(frozen=True)
class Metrics:
  """Metrics by name with their intervals.

  Attributes:
    values: NaN where undefined.
    intervals: None where too few patients carry the metric.
    methods: What kind of interval each is.
  """

  values: dict[str, float]
  intervals: dict[str, Interval]
  methods: dict[str, str] = dataclasses.field(default_factory=dict)

  def __or__(self, other: 'Metrics') -> 'Metrics':
    """Both together."""
    return Metrics(
      self.values | other.values,
      self.intervals | other.intervals,
      self.methods | other.methods,
    )

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
  names: Collection[str] | None = None,
  further: Mapping[str, Influence] | None = None,
) -> Metrics:
  """Metrics of images, with their intervals over new patients.

  Args:
    images: N images.
    names: Those of `influence.of_metrics` to keep; all of them if None.
    further: Other metrics, as influences of the N images.
  """
  known = influence.of_metrics(images)
  found = {name: known[name]() for name in names or known} | (further or {})
  return from_influences(found, images.patient)


def from_influences(
  found: Mapping[str, Influence],
  patient: np.ndarray,
  *,
  counts: Collection[str] = (),
) -> Metrics:
  """Metrics and intervals from the influence of every image.

  Args:
    found: By name.
    patient: int[N].
    counts: Names of those that are at least 0 but may exceed 1.
  """
  methods = dict.fromkeys(found, intervals.WILSON)
  methods |= dict.fromkeys(counts, intervals.SCORE)
  methods |= dict.fromkeys(found.keys() & UNBOUNDED, intervals.STUDENT)
  return Metrics(
    {name: each.value for name, each in found.items()},
    {
      name: intervals.BY_METHOD[methods[name]](each, patient)
      for name, each in found.items()
    },
    methods,
  )


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

  def called(self, name: str) -> np.ndarray | None:
    """Calls bool[N] at the operating point of a name; None if it is missing."""
    for point in self.points:
      if point.name == name:
        return self.scaled >= point.threshold
    return None

  def influences(self, images: Images) -> dict[str, Influence]:
    """Of calibration errors, by metric."""
    label = images.label
    return {
      'brier_calibrated': influence.mean((self.scaled - label) ** 2),
      'ece_calibrated': influence.calibration_error(self.scaled, label),
    }

  def points_of_roc(self, images: Images, *, replicates: int) -> Metrics:
    """Sensitivity at levels of specificity and vice versa.

    They move in steps with the images, so a bootstrap gives the intervals.
    """

    def compute(weights: np.ndarray) -> dict[str, np.ndarray]:
      ranking = curve(images.probability, images.label, weights)
      return {
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

    once = compute(np.ones((1, len(images))))
    return Metrics(
      {name: float(value[0]) for name, value in once.items()},
      bootstrap.cluster_bootstrap(
        compute, images.patient, replicates=replicates
      ),
      dict.fromkeys(once, intervals.PERCENTILE),
    )

  def operating_point_influences(self, images: Images) -> dict[str, Influence]:
    """Of sensitivity and specificity at the operating points, by name."""
    found = {}
    for point in self.points:
      called, label = self.scaled >= point.threshold, images.label
      prefix = f'operating_point={point.name}'
      found[f'{prefix}/sensitivity'] = influence.mean(called, label)
      found[f'{prefix}/specificity'] = influence.mean(~called, ~label)
    return found


def _json(value: Any) -> Any:
  """None for NaN and infinity."""
  value = float(value) if isinstance(value, np.generic | float) else value
  return value if isinstance(value, int) or math.isfinite(value) else None
