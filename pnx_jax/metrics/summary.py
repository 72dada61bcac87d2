"""All metrics that are reported on this data, from one table of images."""

import dataclasses
import functools

import numpy as np

from pnx_jax.metrics.averages import divide, weighted_mean
from pnx_jax.metrics.curves import curve

# A bootstrap computes as many replicates at a time as this many weights allow.
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
  'brier_calibrated': 'Brier score after calibration',
  'ece': 'calibration error (ECE) of the probability',
  'ece_calibrated': 'calibration error after calibration',
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
  """N images after a post-processing rule was applied to them.

  Areas are in pixels at 1024 x 1024.

  Attributes:
    label: bool[N], the image has a pneumothorax.
    probability: f64[N], the predicted probability that it has one.
    dice: f64[N], the competition's Dice.
    predicted: bool[N], the image keeps a mask under the rule.
    truth_area: int[N], area of the annotated mask.
    predicted_area: int[N], area of the predicted mask.
    intersection: int[N], area of both.
    patient: int[N].
    mask_known: bool[N], of the others Dice, areas of truth and intersection
      mean nothing; None where every mask is known.
  """

  label: np.ndarray
  probability: np.ndarray
  dice: np.ndarray
  predicted: np.ndarray
  truth_area: np.ndarray
  predicted_area: np.ndarray
  intersection: np.ndarray
  patient: np.ndarray
  mask_known: np.ndarray | None = None

  @property
  def marked(self) -> np.ndarray:
    """bool[N], the image has a pneumothorax whose mask is known."""
    if self.mask_known is None:
      return self.label
    return self.label & self.mask_known

  def __len__(self) -> int:
    return len(self.label)

  def __getitem__(self, chosen: np.ndarray | slice) -> 'Images':
    """The images that a mask, a slice or indices choose."""
    columns = (getattr(self, x.name) for x in dataclasses.fields(self))
    return Images(*(None if x is None else x[chosen] for x in columns))


def compute(
  images: Images, weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
  """All metrics under each of R weightings: f64[R] by name.

  `dice`, `iou`: means over images (both masks empty: 1). `dice_positive`,
  `iou_positive`: means over images with a pneumothorax. `dice_pooled`: Dice of
  all pixels taken as one image. `sensitivity`, `specificity`: of calling an
  image positive if it keeps a mask. `auc`, `average_precision`, `brier`: of
  the probabilities. `all_empty_dice`: Dice of predicting no mask at all;
  `dice_gain`: `dice` minus that. Undefined metrics are NaN. Those of the masks
  are over the images whose mask is known.

  Args:
    images: N images.
    weights: f64[R, N]; if None, one row of ones.
  """
  if weights is None:
    weights = np.ones((1, len(images)))
  rows = max(1, _WEIGHTED_IMAGES // max(1, len(images)))
  parts = [
    _compute(images, weights[start : start + rows])
    for start in range(0, len(weights), rows)
  ]
  return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def _compute(images: Images, weights: np.ndarray) -> dict[str, np.ndarray]:
  label, known = images.label, images.mask_known
  iou = divide(
    images.intersection,
    images.predicted_area + images.truth_area - images.intersection,
    undefined=1.0,
  )
  mean = functools.partial(weighted_mean, weights=weights)

  def total(values: np.ndarray) -> np.ndarray:
    if known is not None:
      values = np.where(known, values, 0)
    return weights @ values.astype(np.float64)

  dice = mean(images.dice, chosen=known)
  all_empty = mean(~label, chosen=known)
  ranking = curve(images.probability, label, weights)
  return {
    'dice': dice,
    'dice_positive': mean(images.dice, chosen=images.marked),
    'all_empty_dice': all_empty,
    'dice_gain': dice - all_empty,
    'dice_pooled': divide(
      2 * total(images.intersection),
      total(images.predicted_area) + total(images.truth_area),
    ),
    'iou': mean(iou, chosen=known),
    'iou_positive': mean(iou, chosen=images.marked),
    **rates(images.predicted, label, weights),
    'auc': ranking.auc,
    'average_precision': ranking.average_precision,
    'brier': mean((images.probability - label) ** 2),
  }


def rates(
  called: np.ndarray, label: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
  """`sensitivity` and `specificity` of calling images positive: f64[R].

  Args:
    called: bool[N].
    label: bool[N].
    weights: f64[R, N].
  """
  return {
    'sensitivity': weighted_mean(called, weights, label),
    'specificity': weighted_mean(~called, weights, ~label),
  }
