"""All figures of an evaluation, with intervals, overall and by group."""

import dataclasses
import math

import numpy as np

from pnx_jax.formats import schema
from pnx_jax.metrics import bootstrap, calibration
from pnx_jax.metrics.calibration import OperatingPoint
from pnx_jax.metrics.curves import curve
from pnx_jax.metrics.summary import Images, figures, rates

AGE_BANDS = ((0, 17), (18, 39), (40, 59), (60, 79), (80, 120))
# What the tables by view, sex, ... show.
TABLE_FIGURES = ('dice', 'dice_positive', 'sensitivity', 'specificity', 'auc')

Interval = tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class Scores:
  """Figures by name; NaN where undefined, None for an unknown interval."""

  values: dict[str, float]
  intervals: dict[str, Interval]

  def flat(self) -> dict:
    """Scalars by name and `intervals`, ready for JSON: undefined is None."""
    return {
      **{name: _json(value) for name, value in self.values.items()},
      'intervals': {
        name: None if pair is None else list(pair)
        for name, pair in self.intervals.items()
      },
    }


def images_table(records, statistics, outcome) -> Images:
  """What the figures need to know of each image."""
  return Images(
    label=np.array([r.label == schema.POSITIVE for r in records], bool),
    probability=np.asarray(statistics['probability'], np.float64),
    dice=outcome.dice,
    predicted=outcome.predicted,
    truth_area=np.asarray(statistics['truth_area']),
    predicted_area=outcome.predicted_area,
    intersection=outcome.intersection,
    patient=np.array([record.patient for record in records], np.int64),
  )


def with_intervals(
  images: Images, *, replicates: int, names=None, more=None
) -> Scores:
  """Figures of some images, drawn by patient for their intervals.

  Args:
    images: N images.
    replicates: R of the bootstrap.
    names: only these figures.
    more: from weights f64[R, N] to further figures f64[R] by name.
  """

  def chosen(weights):
    values = figures(images, weights)
    values = {name: values[name] for name in names or values}
    return values | (more(weights) if more else {})

  values = chosen(np.ones((1, len(images))))
  return Scores(
    {name: float(value[0]) for name, value in values.items()},
    bootstrap.cluster_bootstrap(chosen, images.patient, replicates=replicates),
  )


def means(columns: dict[str, np.ndarray], weights) -> dict[str, np.ndarray]:
  """Means of columns f64[N] under each of R weightings: f64[R] by name."""
  return {
    name: weights @ column / weights.sum(axis=1)
    for name, column in columns.items()
  }


def size_quartiles(truth_area, label) -> np.ndarray:
  """1 (smallest) to 4 for images with a pneumothorax, 0 for the others."""
  if not label.any():
    return np.zeros(len(label), int)
  edges = np.quantile(truth_area[label], [0.25, 0.5, 0.75])
  return np.where(label, 1 + np.searchsorted(edges, truth_area), 0)


def strata(records, images: Images) -> dict[str, dict[str, np.ndarray]]:
  """Groups of images that are looked at apart: bool[N] by table and row."""
  quartile = size_quartiles(images.truth_area, images.label)
  age = np.array([record.age for record in records])
  names = {
    'view': np.array([record.view or 'unknown' for record in records]),
    'sex': np.array([record.sex or 'unknown' for record in records]),
  }
  return {
    'size_quartile': {
      str(number): rows
      for number in range(1, 5)
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
  """How far image probabilities can be trusted, before and after scaling.

  `scaled` f64[N] holds out-of-fold values: each group of images is scaled by
  the temperature that the others gave. `temperature` is that of all.
  """

  temperature: float
  scaled: np.ndarray
  points: tuple[OperatingPoint, ...]

  @classmethod
  def fit(cls, probability, label, groups) -> 'Calibration':
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

  def reached(self, images: Images, weights) -> dict[str, np.ndarray]:
    """What each operating point does to these images: f64[R] by name."""
    return {
      f'operating_point={point.name}/{name}': values
      for point in self.points
      for name, values in rates(
        self.scaled >= point.threshold, images.label, weights
      ).items()
    }

  def figures(self, images: Images, weights) -> dict[str, np.ndarray]:
    """Calibration and operating points under each weighting: f64[R]."""
    label, error = images.label, calibration.expected_calibration_error
    squares = (self.scaled - label) ** 2
    ranking = curve(images.probability, label, weights)
    return {
      'brier_calibrated': weights @ squares / weights.sum(1),
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


def _json(value):
  """None for what is not a number."""
  value = float(value) if isinstance(value, np.generic | float) else value
  return value if isinstance(value, int) or math.isfinite(value) else None
