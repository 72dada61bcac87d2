"""ROC and precision-recall curves of image-level probabilities, weighted.

Weights let one sorting serve every replicate of a bootstrap. Images of equal
probability enter a curve together, so their order never matters.
"""

import dataclasses

import numpy as np

_ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True)
class Curve:
  """Counts of images called positive at falling thresholds.

  Attributes:
    thresholds: f64[K]; an image is called positive at `>=` a threshold.
    true_positives: f64[..., K].
    false_positives: f64[..., K].
  """

  thresholds: np.ndarray
  true_positives: np.ndarray
  false_positives: np.ndarray

  @property
  def sensitivity(self) -> np.ndarray:
    return _ratio(self.true_positives, self.true_positives[..., -1:])

  @property
  def specificity(self) -> np.ndarray:
    return 1 - _ratio(self.false_positives, self.false_positives[..., -1:])

  @property
  def precision(self) -> np.ndarray:
    called = self.true_positives + self.false_positives
    return _ratio(self.true_positives, called, undefined=1.0)

  @property
  def auc(self) -> np.ndarray:
    """Area under the ROC curve; NaN without both classes."""
    x, y = (
      np.concatenate([np.zeros_like(rate[..., :1]), rate], axis=-1)
      for rate in (1 - self.specificity, self.sensitivity)
    )
    return np.trapezoid(y, x, axis=-1)

  @property
  def average_precision(self) -> np.ndarray:
    """Precision averaged over the gains in recall; NaN without positives."""
    gain = np.diff(self.sensitivity, axis=-1, prepend=0)
    return (gain * self.precision).sum(axis=-1)

  def sensitivity_at(self, specificity: float) -> np.ndarray:
    """The highest one at no less than a specificity; NaN without both."""
    allowed = self.specificity >= specificity - _ROUNDING
    best = np.where(allowed, self.sensitivity, 0).max(axis=-1)
    return np.where(self._defined, best, np.nan)

  def specificity_at(self, sensitivity: float) -> np.ndarray:
    """The highest one at no less than a sensitivity; NaN without both."""
    allowed = self.sensitivity >= sensitivity - _ROUNDING
    best = np.where(allowed, self.specificity, 0).max(axis=-1)
    return np.where(self._defined, best, np.nan)

  @property
  def _defined(self):
    return (self.true_positives[..., -1] > 0) & (
      self.false_positives[..., -1] > 0
    )


def curve(probability, label, weights=None) -> Curve:
  """The curve of N images under one or many weightings.

  Args:
    probability: f64[N].
    label: bool[N].
    weights: f64[..., N]; every image once where left out.
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


def _ratio(part, whole, *, undefined=np.nan):
  whole = np.broadcast_to(whole, part.shape)
  ratio = np.full(part.shape, undefined)
  return np.divide(part, whole, out=ratio, where=whole > 0)
