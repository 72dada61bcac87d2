"""95 % confidence intervals of metrics over new patients, and what they are.

A metric between 0 and 1 has Wilson's score interval (Wilson 1927, Journal of
the American Statistical Association 22, 209-212), which has a width even where
all images are alike. Its number of observations is that of independent ones
with the metric's standard error over patients (Korn and Graubard 1998, Survey
Methodology 24, 193-201); quantiles are those of the t distribution. A metric
that is at least 0, such as a number of findings or a distance, has the score
interval of a Poisson mean likewise. Differences have a t interval. How often
they hold with few patients is in benchmarks/RESULTS.md.
"""

import numpy as np
import scipy.stats

from pnx_jax.metrics.averages import CONFIDENCE
from pnx_jax.metrics.bootstrap import MIN_CLUSTERS, Interval
from pnx_jax.metrics.influence import Influence

WILSON = 'Wilson, clustered by patient'
SCORE = 'Poisson score, clustered by patient'
STUDENT = 't, clustered by patient'
PERCENTILE = 'percentiles of a bootstrap over patients'
MAX_T = 'max-t bootstrap over patients, simultaneous'


def wilson(influence: Influence, patient: np.ndarray) -> Interval:
  """Wilson's interval of a metric between 0 and 1.

  Args:
    influence: On the metric.
    patient: int[N].

  Returns:
    None if the metric is undefined or fewer than 5 patients carry it.
  """
  if (known := _moments(influence, patient)) is None:
    return None
  count, value, variance = known
  spread = value * (1 - value)
  # Where all images are alike, those of a patient may count as one.
  size = spread / variance if variance > 0 and spread > 0 else count
  t = quantile(count - 1)
  middle = (value + t**2 / (2 * size)) / (1 + t**2 / size)
  half = np.sqrt(max(0, spread) / size + (t / (2 * size)) ** 2)
  half *= t / (1 + t**2 / size)
  return float(max(0, middle - half)), float(min(1, middle + half))


def score(influence: Influence, patient: np.ndarray) -> Interval:
  """The score interval of a metric that is at least 0; so are its ends.

  The variance is taken as proportional to the mean, as that of counts is; its
  size is the one over patients.

  Args:
    influence: On the metric.
    patient: int[N].

  Returns:
    None if the metric is undefined or fewer than 5 patients carry it.
  """
  if (known := _moments(influence, patient)) is None:
    return None
  count, value, variance = known
  size = value / variance if variance > 0 else count
  shift = quantile(count - 1) / (2 * np.sqrt(size))
  root = np.hypot(np.sqrt(value), shift)
  return float((root - shift) ** 2), float((root + shift) ** 2)


def student(influence: Influence, patient: np.ndarray) -> Interval:
  """The t interval of a metric or of a difference.

  Args:
    influence: On the metric.
    patient: int[N].

  Returns:
    None if the metric is undefined or fewer than 5 patients carry it.
  """
  if (known := _moments(influence, patient)) is None:
    return None
  count, value, variance = known
  half = quantile(count - 1) * np.sqrt(variance)
  return float(value - half), float(value + half)


def _moments(
  influence: Influence, patient: np.ndarray
) -> tuple[int, float, float] | None:
  """Returns the patients that carry a metric, its value and its variance."""
  count, variance = influence.num_patients(patient), influence.variance(patient)
  if count < MIN_CLUSTERS or np.isnan(variance):
    return None
  return count, influence.value, variance


def quantile(degrees: float) -> float:
  """Half the width of a two-sided 95 % t interval, in standard errors."""
  return float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, degrees))


BY_METHOD = {WILSON: wilson, SCORE: score, STUDENT: student}
