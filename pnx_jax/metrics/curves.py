"""ROC and precision-recall curves of image probabilities, with weights.

With weights, one sort serves all replicates of a bootstrap. Images of equal
probability enter a curve together, so the order of images does not matter.
"""

import dataclasses

import numpy as np

from pnx_jax.metrics.averages import divide

_ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True)
class Curve:
  """Weighted counts of images called positive, at descending thresholds.

  Attributes:
    thresholds: f64[K]; an image is called positive if its probability is at
      least the threshold.
    true_positives: f64[..., K].
    false_positives: f64[..., K].
  """

  thresholds: np.ndarray
  true_positives: np.ndarray
  false_positives: np.ndarray

  @property
  def sensitivity(self) -> np.ndarray:
    """True positive rate f64[..., K]; NaN without positives."""
    return divide(self.true_positives, self.true_positives[..., -1:])

  @property
  def specificity(self) -> np.ndarray:
    """True negative rate f64[..., K]; NaN without negatives."""
    return 1 - divide(self.false_positives, self.false_positives[..., -1:])

  @property
  def precision(self) -> np.ndarray:
    """Positive predictive value f64[..., K]; 1 if none is called positive."""
    called = self.true_positives + self.false_positives
    return divide(self.true_positives, called, undefined=1.0)

  @property
  def auc(self) -> np.ndarray:
    """Area under the ROC curve f64[...]; NaN if a class is missing."""
    x, y = (
      np.concatenate([np.zeros_like(rate[..., :1]), rate], axis=-1)
      for rate in (1 - self.specificity, self.sensitivity)
    )
    return np.trapezoid(y, x, axis=-1)

  @property
  def average_precision(self) -> np.ndarray:
    """Precision averaged over gains in recall f64[...]; NaN if no positives."""
    gain = np.diff(self.sensitivity, axis=-1, prepend=0)
    return (gain * self.precision).sum(axis=-1)

  def sensitivity_at(self, specificity: float) -> np.ndarray:
    """The highest sensitivity at no less than a specificity: f64[...].

    NaN if a class is missing.
    """
    allowed = self.specificity >= specificity - _ROUNDING
    best = np.where(allowed, self.sensitivity, 0).max(axis=-1)
    return np.where(self._defined, best, np.nan)

  def specificity_at(self, sensitivity: float) -> np.ndarray:
    """The highest specificity at no less than a sensitivity: f64[...].

    NaN if a class is missing.
    """
    allowed = self.sensitivity >= sensitivity - _ROUNDING
    best = np.where(allowed, self.specificity, 0).max(axis=-1)
    return np.where(self._defined, best, np.nan)

  @property
  def _defined(self) -> np.ndarray:
    return (self.true_positives[..., -1] > 0) & (
      self.false_positives[..., -1] > 0
    )


def curve(
  probability: np.ndarray, label: np.ndarray, weights: np.ndarray | None = None
) -> Curve:
  """The curve of N images under one or many weightings.

  Args:
    probability: f64[N].
    label: bool[N].
    weights: f64[..., N]; if None, every image counts once.
  """
  order = np.argsort(-probability, kind='stable')
  probability, label = probability[order], label[order]
  weights = np.ones(len(order)) if weights is None else weights[..., order]
  last_of_ties = np.append(np.diff(probability) != 0, True)[: len(order)]
  return Curve(
    probability[last_of_ties],
    np.cumsum(weights * label, axis=-1)[..., last_of_ties],
    np.cumsum(weights * ~label, axis=-1)[..., last_of_ties],
  )
