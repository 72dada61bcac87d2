"""Every figure that people report on this data, from one table of images."""

import dataclasses
import functools

import numpy as np

from pnx_jax.metrics.curves import curve

# Replicates of a bootstrap that are held in memory at a time.
_WEIGHTED_IMAGES = 2_000_000

# What each metric is called in reports.
TITLES = {
  'dice': 'Dice, as in the competition',
  'all_empty_dice': 'Dice of an all-empty submission',
  'dice_gain': 'gain over all-empty',
  'dice_positive': 'Dice on positives',
  'dice_pooled': 'Dice of all pixels pooled',
  'iou': 'IoU (both empty: 1)',
  'iou_positive': 'IoU on positives',
  'sensitivity': 'sensitivity of the masks',
  'specificity': 'specificity of the masks',
  'auc': 'ROC-AUC of the probability',
  'average_precision': 'PR-AUC of the probability',
  'brier': 'Brier score of the probability',
  'brier_calibrated': 'the same, calibrated',
  'ece': 'calibration error (ECE) of the probability',
  'ece_calibrated': 'the same, calibrated',
}
SHORT_TITLES = {
  'dice': 'Dice',
  'dice_positive': 'on positives',
  'sensitivity': 'sensitivity',
  'specificity': 'specificity',
  'auc': 'AUC',
}


@dataclasses.dataclass(frozen=True)
class Images:
  """What is known of N images once a rule has been chosen.

  Attributes:
    label: bool[N], the image has a pneumothorax.
    probability: f64[N], that it has one.
    dice: f64[N], by the competition's rule.
    predicted: bool[N], the rule leaves a mask.
    truth_area: int[N], in pixels at 1024 x 1024, like the next two.
    predicted_area: int[N], of the mask that the rule leaves.
    intersection: int[N], of both.
    patient: int[N].
  """

  label: np.ndarray
  probability: np.ndarray
  dice: np.ndarray
  predicted: np.ndarray
  truth_area: np.ndarray
  predicted_area: np.ndarray
  intersection: np.ndarray
  patient: np.ndarray

  def __len__(self):
    return len(self.label)

  def __getitem__(self, chosen) -> 'Images':
    """The images that a mask, a slice or indices choose."""
    columns = dataclasses.fields(self)
    return Images(*(getattr(self, column.name)[chosen] for column in columns))


def figures(images: Images, weights=None) -> dict[str, np.ndarray]:
  """Every figure under each of R weightings: f64[R]; NaN where undefined.

  `dice`, `iou`: means over images (both empty: 1). `dice_positive`,
  `iou_positive`: over those with a pneumothorax. `dice_pooled`: of all pixels
  as one image. `sensitivity`, `specificity`: of the masks the rule leaves.
  `auc`, `average_precision`, `brier`: of the probabilities. `all_empty_dice`:
  what no mask at all would score; `dice_gain`: how much more `dice` is.

  Args:
    images: N images.
    weights: f64[R, N]; one row of ones where left out.
  """
  if weights is None:
    weights = np.ones((1, len(images)))
  rows = max(1, _WEIGHTED_IMAGES // max(1, len(images)))
  parts = [
    _figures(images, weights[start : start + rows])
    for start in range(0, len(weights), rows)
  ]
  return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def _figures(images, weights):
  label = images.label
  iou = _divide(
    images.intersection,
    images.predicted_area + images.truth_area - images.intersection,
    undefined=1.0,
  )

  mean = functools.partial(_mean, weights)

  def total(values):
    return weights @ values.astype(np.float64)

  dice, all_empty = mean(images.dice), mean(~label)
  ranking = curve(images.probability, label, weights)
  return {
    'dice': dice,
    'dice_positive': mean(images.dice, label),
    'all_empty_dice': all_empty,
    'dice_gain': dice - all_empty,
    'dice_pooled': _divide(
      2 * total(images.intersection),
      total(images.predicted_area) + total(images.truth_area),
    ),
    'iou': mean(iou),
    'iou_positive': mean(iou, label),
    **rates(images.predicted, label, weights),
    'auc': ranking.auc,
    'average_precision': ranking.average_precision,
    'brier': mean((images.probability - label) ** 2),
  }


def rates(called, label, weights) -> dict[str, np.ndarray]:
  """Sensitivity and specificity of calling images positive: f64[R].

  Args:
    called: bool[N].
    label: bool[N].
    weights: f64[R, N].
  """
  return {
    'sensitivity': _mean(weights, called, label),
    'specificity': _mean(weights, ~called, ~label),
  }


def _mean(weights, values, chosen=slice(None)):
  chosen_weights = weights[:, chosen]
  total = chosen_weights @ values[chosen].astype(np.float64)
  return _divide(total, chosen_weights.sum(1))


def _divide(part, whole, *, undefined=np.nan):
  ratio = np.full(np.shape(part), undefined)
  return np.divide(part, whole, out=ratio, where=whole > 0)
