"""How much folds leak about their validation images."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from pnx_jax.metrics.curves import curve


class Audit(NamedTuple):
  """How far folds leak; shares are of validation images, over all folds."""

  images: int
  positives: int
  shared: float
  shared_positive: float
  lookup_auc: float


def audit(
  folds: Mapping[str, int],
  labels: Mapping[str, int],
  patients: Mapping[str, str],
) -> Audit:
  """Measures what a table of folds gives away about validation images.

  Args:
    folds: Fold of every image.
    labels: 1 pneumothorax, 0 none.
    patients: True patient of every image.

  Returns:
    The share of images (and of positive ones) whose patient is also in
    training, and the AUC of guessing an image's label from the labels of its
    patient's training images.
  """
  ids = sorted(folds)
  fold = np.array([folds[image_id] for image_id in ids])
  label = np.array([labels[image_id] for image_id in ids], bool)
  _, patient = np.unique([patients[i] for i in ids], return_inverse=True)
  shared = np.zeros(len(ids), bool)
  guess = np.zeros(len(ids))
  for held_out in np.unique(fold):
    inside = fold == held_out
    size = patient.max() + 1
    seen = np.bincount(patient[~inside], minlength=size)
    ill = np.bincount(patient[~inside], label[~inside], minlength=size)
    shared[inside] = seen[patient[inside]] > 0
    # The patient's mean, with the mean of all as one more image.
    mean = label[~inside].mean() if (~inside).any() else 0.0
    guess[inside] = ((ill + mean) / (seen + 1))[patient[inside]]
  return Audit(
    len(ids),
    int(label.sum()),
    float(shared.mean()),
    float(shared[label].mean()) if label.any() else float('nan'),
    float(curve(guess, label).auc),
  )
