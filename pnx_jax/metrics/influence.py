"""How much every image moves a metric, from which its standard error follows.

The influence of an image is the derivative of the metric by the image's weight
(the infinitesimal jackknife; Efron 1982, The Jackknife, the Bootstrap and Other
Resampling Plans, chapter 6). Summed over a patient's images, squared and added
up, influences give the variance over patients. For AUC this is the method of
DeLong for clustered data (Obuchowski 1997, Biometrics 53, 567-578).
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import scipy.stats

from pnx_jax.metrics import calibration
from pnx_jax.metrics.averages import divide
from pnx_jax.metrics.summary import Images


@dataclasses.dataclass(frozen=True)
class Influence:
  """A metric and how much each of N images moves it.

  Attributes:
    value: Of the metric; NaN if it is undefined.
    of_image: f64[N], the derivative of the metric by the image's weight.
    carriers: bool[N] each; the images that the metric is about. Where there
      are several, such as positive and negative images, it needs all of them.
  """

  value: float
  of_image: np.ndarray
  carriers: tuple[np.ndarray, ...]

  def num_patients(self, patient: np.ndarray) -> int:
    """Patients that carry the metric; of several kinds the fewest."""
    return min(len(np.unique(patient[chosen])) for chosen in self.carriers)

  def variance(self, patient: np.ndarray) -> float:
    """Of the metric over samples of patients; NaN with fewer than 2.

    Args:
      patient: int[N].
    """
    count = self.num_patients(patient)
    if count < 2 or np.isnan(self.value):
      return float('nan')
    _, members = np.unique(patient, return_inverse=True)
    sums = np.bincount(members, self.of_image)
    return float(sums @ sums * count / (count - 1))


def mean(values: np.ndarray, chosen: np.ndarray | None = None) -> Influence:
  """The mean of values f64[N], or of those that bool[N] chooses."""
  if chosen is None:
    chosen = np.ones(len(values), bool)
  return ratio(np.where(chosen, values, 0), chosen, chosen)


def ratio(part: np.ndarray, whole: np.ndarray, chosen: np.ndarray) -> Influence:
  """The sum of `part` f64[N] over that of `whole` f64[N].

  Args:
    part: The numerators.
    whole: The denominators, not negative.
    chosen: bool[N], the images that the ratio is about.
  """
  part, whole = (np.asarray(x, np.float64) for x in (part, whole))
  total = whole.sum()
  if not total:
    return _undefined(len(part), chosen)
  value = part.sum() / total
  return Influence(float(value), (part - value * whole) / total, (chosen,))


def auc(probability: np.ndarray, label: np.ndarray) -> Influence:
  """The area under the ROC curve of probabilities f64[N]."""
  positive, negative = label.sum(), (~label).sum()
  if not positive or not negative:
    return _undefined(len(label), label, ~label)
  rank = scipy.stats.rankdata(probability)
  placed = np.empty(len(label))
  for own, count in ((label, negative), (~label, positive)):
    # Images of the other class that have a lower probability, ties by half.
    placed[own] = (rank[own] - scipy.stats.rankdata(probability[own])) / count
  placed[~label] = 1 - placed[~label]
  value = placed[label].mean()
  shares = np.where(label, positive, negative)
  return Influence(float(value), (placed - value) / shares, (label, ~label))


def average_precision(probability: np.ndarray, label: np.ndarray) -> Influence:
  """The average precision of probabilities f64[N]."""
  positive = label.sum()
  if not positive:
    return _undefined(len(label), label)
  order = np.argsort(-probability, kind='stable')
  sorted_label = label[order].astype(np.float64)
  _, group = np.unique(-probability[order], return_inverse=True)
  positives = np.cumsum(np.bincount(group, sorted_label))
  called = np.cumsum(np.bincount(group))
  gain = np.diff(positives, prepend=0)
  precision = positives / called
  value = (gain @ precision) / positive
  # A change of an image's weight changes precision at and below its place.
  below = [
    np.cumsum((gain * counts / called**2)[::-1])[::-1]
    for counts in (called - positives, positives)
  ]
  moved = np.where(
    sorted_label > 0,
    precision[group] - value + below[0][group],
    -below[1][group],
  )
  of_image = np.empty(len(label))
  of_image[order] = moved / positive
  return Influence(float(value), of_image, (label,))


def calibration_error(probability: np.ndarray, label: np.ndarray) -> Influence:
  """The expected calibration error of probabilities f64[N]."""
  gaps = calibration.membership(probability) * (probability - label)[:, None]
  towards = gaps @ np.sign(gaps.sum(axis=0))
  return mean(towards)


def of_metrics(images: Images) -> dict[str, Callable[[], Influence]]:
  """What computes the influences on each metric of `summary.compute` and `ece`.

  Args:
    images: N images. Metrics of masks are over those whose mask is known.
  """
  label, area = images.label, images.predicted_area + images.truth_area
  known = np.ones(len(images), bool)
  if images.mask_known is not None:
    known = images.mask_known
  iou = divide(images.intersection, area - images.intersection, undefined=1.0)
  return {
    'dice': lambda: mean(images.dice, known),
    'dice_positive': lambda: mean(images.dice, images.marked),
    'all_empty_dice': lambda: mean(~label, known),
    'dice_gain': lambda: mean(images.dice - ~label, known),
    'dice_pooled': lambda: ratio(
      np.where(known, 2 * images.intersection, 0),
      np.where(known, area, 0),
      known,
    ),
    'iou': lambda: mean(iou, known),
    'iou_positive': lambda: mean(iou, images.marked),
    'sensitivity': lambda: mean(images.predicted, label),
    'specificity': lambda: mean(~images.predicted, ~label),
    'auc': lambda: auc(images.probability, label),
    'average_precision': lambda: average_precision(images.probability, label),
    'brier': lambda: mean((images.probability - label) ** 2),
    'ece': lambda: calibration_error(images.probability, label),
  }


def _undefined(size: int, *carriers: np.ndarray) -> Influence:
  return Influence(float('nan'), np.zeros(size), carriers)
