"""Do probabilities mean what they say, and where to call an image positive.

Temperature scaling: Guo et al. 2017, arXiv:1706.04599, for one logit.
"""

import dataclasses

import numpy as np
from scipy import optimize, special

from pnx_jax.metrics.curves import curve

LEVELS = (0.90, 0.95, 0.98)
_SMALLEST = 1e-7


def scale(probability, temperature):
  """The probability whose logit is divided by the temperature: f64[N]."""
  clipped = np.clip(probability, _SMALLEST, 1 - _SMALLEST)
  return special.expit(special.logit(clipped) / temperature)


def fit_temperature(probability, label) -> float:
  """The temperature of the highest likelihood; 1 without both classes."""
  if label.all() or not label.any():
    return 1.0

  def loss(log_temperature):
    scaled = scale(probability, np.exp(log_temperature))
    scaled = np.clip(scaled, _SMALLEST, 1 - _SMALLEST)
    return -np.mean(np.log(np.where(label, scaled, 1 - scaled)))

  return float(np.exp(optimize.minimize_scalar(loss, bounds=(-3, 3)).x))


def reliability(probability, label, *, num_bins=10) -> dict[str, np.ndarray]:
  """Equal-width bins: `count`, mean `probability`, `share` of positives.

  `low` and `high` bound the share, see `wilson`. All but `count` are NaN where
  no image is.
  """
  bins = np.clip((probability * num_bins).astype(int), 0, num_bins - 1)

  def sums(values):
    return np.bincount(bins, values, minlength=num_bins)

  count = sums(np.ones(len(bins)))
  known = np.maximum(count, 1)
  mean = np.where(count > 0, sums(probability) / known, np.nan)
  share = np.where(count > 0, sums(label) / known, np.nan)
  low, high = wilson(share, known)
  return {
    'count': count,
    'probability': mean,
    'share': share,
    'low': low,
    'high': high,
  }


def wilson(share, count):
  """The 95 % interval of a share among `count` independent images.

  Wilson 1927; it is not empty where the share is 0 or 1.
  """
  z = special.ndtri(0.975)
  middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
  spread = np.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
  half = z * spread / (1 + z**2 / count)
  return middle - half, middle + half


def expected_calibration_error(
  probability, label, weights=None, *, num_bins=10
):
  """Mean over images of the gap between a bin's probability and its share.

  Args:
    probability: f64[N].
    label: bool[N].
    weights: f64[R, N] for f64[R]; one row of ones where left out.
    num_bins: of equal width.
  """
  if weights is None:
    weights = np.ones((1, len(label)))
  bins = np.clip((probability * num_bins).astype(int), 0, num_bins - 1)
  member = bins[:, None] == np.arange(num_bins)
  gap = np.abs(weights @ (member * (probability - label)[:, None]))
  return gap.sum(axis=1) / weights.sum(axis=1)


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
  """Images at or above `threshold` are called positive."""

  name: str
  threshold: float
  sensitivity: float
  specificity: float


def operating_points(probability, label) -> list[OperatingPoint]:
  """The best sensitivity at each specificity of LEVELS, and the reverse.

  Empty without both classes.
  """
  if label.all() or not label.any():
    return []
  roc = curve(probability, label)
  # Calling nothing positive is always possible.
  thresholds = np.append(
    np.nextafter(roc.thresholds[0], np.inf), roc.thresholds
  )
  sensitivity = np.append(0.0, roc.sensitivity)
  specificity = np.append(1.0, roc.specificity)

  def point(name, index):
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
