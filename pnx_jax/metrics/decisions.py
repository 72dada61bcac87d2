"""What a threshold means for decisions: bounds, predictive values, net benefit.

All of it is about calling an image positive whose probability is at least a
threshold.
"""

import dataclasses

import numpy as np
import scipy.stats
from scipy import special

from pnx_jax.metrics.averages import divide


@dataclasses.dataclass(frozen=True)
class SensitivityBound:
  """A threshold with a lower confidence bound of its sensitivity.

  Attributes:
    sensitivity: The bound, over new patients with a pneumothorax.
    confidence: Of the bound.
    num_patients: Positive patients that it comes from.
    num_missed: How many of them the threshold may miss.
    threshold: None if there are too few positive patients.
  """

  sensitivity: float
  confidence: float
  num_patients: int
  num_missed: int
  threshold: float | None


def sensitivity_bound(
  probability: np.ndarray,
  label: np.ndarray,
  patient: np.ndarray,
  *,
  sensitivity: float = 0.9,
  confidence: float = 0.95,
) -> SensitivityBound:
  """The highest threshold that keeps a sensitivity with confidence.

  The unit is the patient: one counts as found if all of their positive images
  are called positive, so each has the lowest probability of these images. The
  threshold is an order statistic of these values (Wilks 1941, Annals of
  Mathematical Statistics 12, 91-96). It assumes nothing but that new patients
  are drawn like the old ones. For a sensitivity of 0.9 with a confidence of
  0.95, it may miss 7 of 130 patients, and with less than 29 there is none.

  It is a bound only on patients that neither network nor threshold was chosen
  on. For probabilities that were predicted out of fold it is an estimate.

  Args:
    probability: f64[N].
    label: bool[N].
    patient: int[N].
    sensitivity: To be kept.
    confidence: That it is kept.
  """
  _, members = np.unique(patient[label], return_inverse=True)
  lowest = np.full(members.max(initial=-1) + 1, np.inf)
  np.minimum.at(lowest, members, probability[label])
  misses = allowed_misses(
    len(lowest), sensitivity=sensitivity, confidence=confidence
  )
  return SensitivityBound(
    sensitivity,
    confidence,
    len(lowest),
    max(0, misses),
    float(np.sort(lowest)[misses]) if misses >= 0 else None,
  )


@dataclasses.dataclass(frozen=True)
class AbstainBand:
  """Two thresholds between which a probability is indeterminate.

  Attributes:
    low: Below it an image is called negative.
    high: From it on an image is called positive; at least `low`.
    undecided: Share of images in between.
    sensitivity: Of the decided images with a pneumothorax.
    specificity: Of the decided images without one.
  """

  low: float
  high: float
  undecided: float
  sensitivity: float
  specificity: float


def abstain_band(
  probability: np.ndarray,
  label: np.ndarray,
  patient: np.ndarray,
  *,
  rate: float = 0.9,
  confidence: float = 0.95,
) -> AbstainBand | None:
  """The band outside of which errors are bounded; None with too few patients.

  At least a share `rate` of positive patients has no image below it, and of
  negative patients none above it, both with confidence; see
  `sensitivity_bound`.

  Args:
    probability: f64[N].
    label: bool[N].
    patient: int[N].
    rate: Of patients without an error.
    confidence: Of each of the two bounds.
  """
  bounds = {'sensitivity': rate, 'confidence': confidence}
  low = sensitivity_bound(probability, label, patient, **bounds).threshold
  top = sensitivity_bound(-probability, ~label, patient, **bounds).threshold
  if low is None or top is None:
    return None
  high = max(low, float(np.nextafter(-top, np.inf)))
  called, decided = (
    probability >= high,
    (probability < low) | (probability >= high),
  )

  def share(right: np.ndarray, chosen: np.ndarray) -> float:
    return float(divide(np.sum(right & chosen), np.asarray(chosen.sum())))

  return AbstainBand(
    low,
    high,
    float(1 - decided.mean()),
    share(called, decided & label),
    share(~called, decided & ~label),
  )


def allowed_misses(
  num_patients: int, *, sensitivity: float, confidence: float
) -> int:
  """How many of the patients a threshold may miss; -1 if there are too few."""
  misses = np.arange(num_patients)
  chance = scipy.stats.binom.cdf(misses, num_patients, 1 - sensitivity)
  return int(np.sum(chance <= 1 - confidence)) - 1


def predictive_values(
  sensitivity: np.ndarray, specificity: np.ndarray, *, prevalence: float
) -> tuple[np.ndarray, np.ndarray]:
  """Positive and negative predictive value at a prevalence, by Bayes' rule.

  Args:
    sensitivity: f64[...].
    specificity: f64[...].
    prevalence: Share of images with a pneumothorax.

  Returns:
    f64[...] twice; NaN where no image is called positive, or negative.
  """
  true_positive = sensitivity * prevalence
  false_positive = (1 - specificity) * (1 - prevalence)
  true_negative = specificity * (1 - prevalence)
  false_negative = (1 - sensitivity) * prevalence
  return (
    divide(true_positive, true_positive + false_positive),
    divide(true_negative, true_negative + false_negative),
  )


def at_prevalence(
  probability: np.ndarray, *, was: float, prevalence: float
) -> np.ndarray:
  """Calibrated probabilities f64[N] carried to another prevalence.

  The odds change by the ratio of prior odds (Saerens et al. 2002, Neural
  Computation 14, 21-41), if films of a class look alike at both places.
  """
  shift = special.logit(prevalence) - special.logit(was)
  return special.expit(special.logit(probability) + shift)


def net_benefit(
  probability: np.ndarray,
  label: np.ndarray,
  thresholds: np.ndarray,
  *,
  prevalence: float,
) -> np.ndarray:
  """Net benefit of acting at or above thresholds: f64[T].

  True positives minus false positives, these weighted by the odds of the
  threshold, per image (Vickers and Elkin 2006, Medical Decision Making 26,
  565-574). Acting on all images is `net_benefit_of_all`, acting on none 0.

  Args:
    probability: f64[N], calibrated at that prevalence.
    label: bool[N], with both classes.
    thresholds: f64[T], between 0 and 1.
    prevalence: Share of images with a pneumothorax.
  """
  called = probability >= thresholds[:, None]
  sensitivity = called[:, label].mean(axis=1)
  false_alarms = called[:, ~label].mean(axis=1)
  weight = thresholds / (1 - thresholds)
  return sensitivity * prevalence - false_alarms * (1 - prevalence) * weight


def net_benefit_of_all(
  thresholds: np.ndarray, *, prevalence: float
) -> np.ndarray:
  """Net benefit of acting on every image: f64[T]."""
  weight = thresholds / (1 - thresholds)
  return prevalence - (1 - prevalence) * weight
