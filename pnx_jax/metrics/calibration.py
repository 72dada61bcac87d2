"""Calibration of image probabilities, and operating points on them.

Temperature scaling and the expected calibration error: Guo et al. 2017,
arXiv:1706.04599, here for the one logit of a binary classifier.
"""

import dataclasses

import numpy as np
from scipy import optimize, special

from pnx_jax.metrics.averages import CONFIDENCE, divide
from pnx_jax.metrics.curves import curve

# Sensitivities and specificities for which operating points are chosen.
LEVELS = (0.90, 0.95, 0.98)
_SMALLEST = 1e-7


def scale(probability: np.ndarray, temperature: float) -> np.ndarray:
  """Divides the logit of probabilities f64[N] by a temperature: f64[N]."""
  clipped = np.clip(probability, _SMALLEST, 1 - _SMALLEST)
  return special.expit(special.logit(clipped) / temperature)


def fit_temperature(probability: np.ndarray, label: np.ndarray) -> float:
  """The temperature with the highest likelihood; 1 if a class is missing.

  Args:
    probability: f64[N].
    label: bool[N].
  """
  if label.all() or not label.any():
    return 1.0

  def loss(log_temperature: float) -> float:
    scaled = scale(probability, np.exp(log_temperature))
    scaled = np.clip(scaled, _SMALLEST, 1 - _SMALLEST)
    return -np.mean(np.log(np.where(label, scaled, 1 - scaled)))

  return float(np.exp(optimize.minimize_scalar(loss, bounds=(-3, 3)).x))


def reliability(
  probability: np.ndarray, label: np.ndarray, *, num_bins: int = 10
) -> dict[str, np.ndarray]:
  """A reliability diagram's bins of equal width: f64[num_bins] by name.

  Args:
    probability: f64[N].
    label: bool[N].
    num_bins: Number of bins over 0 to 1.

  Returns:
    `count` of images, mean `probability`, `share` of positives, and `low` and
    `high`, which bound the share (see `wilson`). All but `count` are NaN in
    empty bins.
  """
  bins = _bins(probability, num_bins)

  def sums(values: np.ndarray) -> np.ndarray:
    return np.bincount(bins, values, minlength=num_bins)

  count = sums(np.ones(len(bins)))
  share = divide(sums(label), count)
  low, high = wilson(share, np.maximum(count, 1))
  return {
    'count': count,
    'probability': divide(sums(probability), count),
    'share': share,
    'low': low,
    'high': high,
  }


def wilson(
  share: np.ndarray, count: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """The 95 % score interval of a share among `count` independent images.

  Wilson 1927, Journal of the American Statistical Association 22, 209-212.
  Unlike the normal approximation it has a width where the share is 0 or 1.
  """
  z = special.ndtri((1 + CONFIDENCE) / 2)
  middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
  spread = np.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
  half = z * spread / (1 + z**2 / count)
  return middle - half, middle + half


def expected_calibration_error(
  probability: np.ndarray,
  label: np.ndarray,
  weights: np.ndarray | None = None,
  *,
  num_bins: int = 10,
) -> np.ndarray:
  """Mean over images of |mean probability - share of positives| of their bin.

  Args:
    probability: f64[N].
    label: bool[N].
    weights: f64[R, N]; if None, one row of ones.
    num_bins: Number of bins of equal width.

  Returns:
    f64[R].
  """
  if weights is None:
    weights = np.ones((1, len(label)))
  member = membership(probability, num_bins=num_bins)
  gap = np.abs(weights @ (member * (probability - label)[:, None]))
  return gap.sum(axis=1) / weights.sum(axis=1)


def membership(probability: np.ndarray, *, num_bins: int = 10) -> np.ndarray:
  """In which bin each probability is: bool[N, num_bins]."""
  return _bins(probability, num_bins)[:, None] == np.arange(num_bins)


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
  """A named threshold: images at or above it are called positive.

  Attributes:
    name: The criterion by which it was chosen, such as `specificity 95%`.
    threshold: On the calibrated probability.
    sensitivity: On the images that it was chosen on.
    specificity: On the images that it was chosen on.
  """

  name: str
  threshold: float
  sensitivity: float
  specificity: float


def operating_points(
  probability: np.ndarray, label: np.ndarray
) -> list[OperatingPoint]:
  """The best sensitivity at each specificity of LEVELS, and vice versa.

  Args:
    probability: f64[N], calibrated.
    label: bool[N].

  Returns:
    Two points per level; none if a class is missing.
  """
  if label.all() or not label.any():
    return []
  roc = curve(probability, label)
  # Above the highest probability no image is called positive.
  thresholds = np.append(
    np.nextafter(roc.thresholds[0], np.inf), roc.thresholds
  )
  sensitivity = np.append(0.0, roc.sensitivity)
  specificity = np.append(1.0, roc.specificity)

  def point(name: str, index: int) -> OperatingPoint:
    values = (thresholds, sensitivity, specificity)
    return OperatingPoint(name, *(float(value[index]) for value in values))

  tolerance = 1e-12
  return [
    point(
      f'specificity {level:.0%}',
      np.flatnonzero(specificity >= level - tolerance)[-1],
    )
    for level in LEVELS
  ] + [
    point(
      f'sensitivity {level:.0%}',
      np.flatnonzero(sensitivity >= level - tolerance)[0],
    )
    for level in LEVELS
  ]


def _bins(probability: np.ndarray, num_bins: int) -> np.ndarray:
  """The bin of each probability: int[N]; 1 belongs to the last one."""
  return np.clip((probability * num_bins).astype(int), 0, num_bins - 1)
