"""Cross-validation folds that no patient straddles, and an audit of others.

  python -m data_prep.folds --audit=folds.csv --rle_csv=train-rle.csv \\
      --patient_map=nih_id.csv

says how far a table of folds (`image_id,fold`) leaks patients from training
into validation.
"""

import csv
import gzip
import hashlib
import os
import re
import sys
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import app, flags

from pnx_jax.errors import UserError
from pnx_jax.formats import rle

_AREA_QUARTILES = 4
_NIH_FILE = re.compile(r'(\d{8})_\d{3}(\.png)?')


class Image(NamedTuple):
  """What the folds are balanced by: `area` is 0 without a pneumothorax."""

  image_id: str
  group: Hashable
  area: float


def assign(
  images: Sequence[Image], num_folds: int, *, seed: int = 0
) -> dict[str, int]:
  """Returns the fold of every image; images of one group share one.

  Folds are alike in size, in their share of positives and in the quartiles of
  mask area. The result does not depend on the order of the images.
  """
  images = sorted(images, key=lambda image: image.image_id)
  groups: dict[Hashable, list[int]] = {}
  for index, image in enumerate(images):
    groups.setdefault(image.group, []).append(index)
  if len(groups) < num_folds:
    raise UserError(
      f'{num_folds} folds need as many patients, there are {len(groups)}: '
      'lower --num_folds'
    )
  strata = _strata(np.array([image.area for image in images]))
  members = sorted(
    groups.values(),
    key=lambda group: (
      -strata[group, 1:].sum(),
      -len(group),
      _shuffled(seed, images[group[0]].image_id),
    ),
  )
  # Columns: the strata (negative, quartiles of area), positives, all.
  targets = _totals(strata) / num_folds
  weights = 1 / np.maximum(targets, 1)
  folds = np.zeros((num_folds, targets.size))
  result = {}
  for group in members:
    counts = _totals(strata[group])
    # The growth of the weighted squared distance from the target.
    cost = (counts * (2 * (folds - targets) + counts)) @ weights
    fold = int(np.argmin(cost))
    folds[fold] += counts
    result.update((images[index].image_id, fold) for index in group)
  return result


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
    _auc(guess, label),
  )


def read_patient_map(path: str | os.PathLike) -> dict[str, str]:
  """Reads `image id, patient` rows (a header and .gz are fine).

  Names of NIH ChestX-ray14 files (`00002563_000.png`) become the patient they
  start with.
  """
  patients = {}
  for number, row in _rows(path):
    if len(row) < 2 or not row[0] or not row[1]:
      raise ValueError(
        f'{path}, line {number}: expected "image id,patient", got {row}'
      )
    if number == 1 and row[0].lower().endswith('id'):
      continue
    nih = _NIH_FILE.fullmatch(row[1])
    patients[row[0]] = nih[1] if nih else row[1]
  return patients


def read_folds(path: str | os.PathLike) -> dict[str, int]:
  """Reads `image_id,fold` rows (a header and .gz are fine)."""
  folds = {}
  for number, row in _rows(path):
    if number == 1 and len(row) == 2 and not row[1].isdecimal():
      continue
    if len(row) != 2 or not row[1].isdecimal():
      raise ValueError(
        f'{path}, line {number}: expected "image_id,fold", got {row}'
      )
    folds[row[0]] = int(row[1])
  return folds


def _rows(path: str | os.PathLike):
  opener = gzip.open if str(path).endswith('.gz') else open
  with opener(path, 'rt', encoding='utf-8-sig', newline='') as file:
    for number, row in enumerate(csv.reader(file), 1):
      if row:
        yield number, [cell.strip() for cell in row]


def _strata(area: np.ndarray) -> np.ndarray:
  """Returns one-hot rows: negative, then the quartiles of positive area."""
  positive = area > 0
  strata = np.zeros(area.size, int)
  if positive.any():
    steps = np.linspace(0, 1, _AREA_QUARTILES + 1)[1:-1]
    edges = np.quantile(area[positive], steps)
    strata[positive] = 1 + np.searchsorted(edges, area[positive])
  return np.eye(_AREA_QUARTILES + 1)[strata]


def _totals(strata: np.ndarray) -> np.ndarray:
  counts = strata.sum(axis=0)
  return np.array([*counts, counts[1:].sum(), counts.sum()])


def _shuffled(seed: int, image_id: str) -> bytes:
  return hashlib.sha256(f'{seed} {image_id}'.encode()).digest()


def _auc(score: np.ndarray, label: np.ndarray) -> float:
  """Returns the area under the ROC curve; ties count half."""
  if not 0 < label.sum() < label.size:
    return float('nan')
  _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
  ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
  positives = label.sum()
  above = ranks[label].sum() - positives * (positives + 1) / 2
  return float(above / (positives * (label.size - positives)))


def main(argv: Sequence[str]) -> None:
  del argv
  try:
    folds = read_folds(_AUDIT.value)
    annotations = rle.read_csv(_RLE_CSV.value)
    patients = read_patient_map(_PATIENT_MAP.value)
  except (OSError, ValueError) as error:
    sys.exit(f'data_prep.folds: {error}')
  known = {
    image_id: fold
    for image_id, fold in folds.items()
    if image_id in annotations and image_id in patients
  }
  if not known:
    sys.exit(
      f'data_prep.folds: no image of {_AUDIT.value} is in both '
      f'{_RLE_CSV.value} and {_PATIENT_MAP.value}'
    )
  result = audit(known, {i: int(bool(annotations[i])) for i in known}, patients)
  print(
    f'{result.images} images ({result.positives} positive) in '
    f'{len(set(known.values()))} folds; {len(folds) - len(known)} left out, '
    'their label or patient is not known'
  )
  print(f'patient also in training: {result.shared:.1%} of images')
  print(f'                          {result.shared_positive:.1%} of positives')
  print(f"AUC of the patient's other labels: {result.lookup_auc:.3f}")
  if result.shared:
    print('These folds are NOT patient-safe.')
  else:
    print('No patient is in two folds.')


if __name__ == '__main__':
  _AUDIT = flags.DEFINE_string('audit', None, 'Table `image_id,fold`.')
  _RLE_CSV = flags.DEFINE_string('rle_csv', None, 'The annotations.')
  _PATIENT_MAP = flags.DEFINE_string('patient_map', None, 'Id and patient.')
  flags.mark_flags_as_required(['audit', 'rle_csv', 'patient_map'])
  app.run(main)
