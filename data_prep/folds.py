"""Cross-validation folds that keep patients apart, and an audit of other folds.

  python -m data_prep.folds --audit=folds.csv --rle_csv=train-rle.csv \\
      --patient_map=nih_id.csv

says how far a table of folds (`image_id,fold`) leaks patients from training
into validation.
"""

import hashlib
import os
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from absl import app, flags

from data_prep import fold_audit
from pnx_jax.cli import one_line, parse_flags
from pnx_jax.errors import UserError
from pnx_jax.formats import files, rle
from pnx_jax.formats.patient_map import read_patient_map
from pnx_jax.metrics.averages import NUM_QUARTILES, quartiles


class Image(NamedTuple):
  """What the folds are balanced by.

  Attributes:
    image_id: Its id.
    group: Images of one group share a fold.
    area: Share of the film that the mask covers, 0 without a pneumothorax.
    kind: Images of each kind are balanced for themselves.
  """

  image_id: str
  group: Hashable
  area: float
  kind: tuple[str, ...] = ()


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
  strata = _strata(
    np.array([image.area for image in images]), [image.kind for image in images]
  )
  positive = np.array([image.area > 0 for image in images], float)
  members = sorted(
    groups.values(),
    key=lambda group: (
      -positive[group].sum(),
      -len(group),
      _shuffled(seed, images[group[0]].image_id),
    ),
  )
  # Columns: the strata (of each kind negative, quartiles of area), positives,
  # all.
  columns = np.column_stack([strata, positive, np.ones(len(images))])
  targets = columns.sum(axis=0) / num_folds
  weights = 1 / np.maximum(targets, 1)
  folds = np.zeros((num_folds, targets.size))
  result = {}
  for group in members:
    counts = columns[group].sum(axis=0)
    # The growth of the weighted squared distance from the target.
    cost = (counts * (2 * (folds - targets) + counts)) @ weights
    fold = int(np.argmin(cost))
    folds[fold] += counts
    result.update((images[index].image_id, fold) for index in group)
  return result


def read_folds(path: str | os.PathLike[str]) -> dict[str, int]:
  """Reads `image_id,fold` rows (a header and .gz are fine)."""
  folds = {}
  for number, row in files.csv_rows(path):
    if number == 1 and len(row) == 2 and not row[1].isdecimal():
      continue
    if len(row) != 2 or not row[1].isdecimal():
      raise UserError(
        f'{path}, line {number}: expected "image_id,fold", got {row}'
      )
    folds[row[0]] = int(row[1])
  return folds


def _strata(area: np.ndarray, kinds: Sequence[tuple[str, ...]]) -> np.ndarray:
  """Returns one-hot rows: of each kind negative, quartiles of positive area."""
  known = sorted(set(kinds))
  kind = np.array([known.index(each) for each in kinds])
  level = quartiles(area, area > 0)
  return np.eye(len(known) * (1 + NUM_QUARTILES))[
    kind * (1 + NUM_QUARTILES) + level
  ]


def _shuffled(seed: int, image_id: str) -> bytes:
  return hashlib.sha256(f'{seed} {image_id}'.encode()).digest()


def main(argv: Sequence[str]) -> None:
  del argv
  with one_line():
    folds = read_folds(_AUDIT.value)
    annotations = rle.read_csv(_RLE_CSV.value)
    patients = read_patient_map(_PATIENT_MAP.value)
    known = {
      image_id: fold
      for image_id, fold in folds.items()
      if image_id in annotations and image_id in patients
    }
    if not known:
      raise UserError(
        f'no image of {_AUDIT.value} is in both {_RLE_CSV.value} and '
        f'{_PATIENT_MAP.value}'
      )
  result = fold_audit.audit(
    known, {i: int(bool(annotations[i])) for i in known}, patients
  )
  print(
    f'{result.images} images ({result.positives} positive) in '
    f'{len(set(known.values()))} folds; {len(folds) - len(known)} left out, '
    'their label or patient is not known'
  )
  print(f'patient also in training: {result.shared:.1%} of images')
  print(f'                          {result.shared_positive:.1%} of positives')
  print(f"AUC of the patient's other labels: {result.lookup_auc:.3f}")
  if result.shared:
    print('These folds do NOT keep patients apart.')
  else:
    print('No patient is in two folds.')


if __name__ == '__main__':
  _AUDIT = flags.DEFINE_string('audit', None, 'Csv of folds: image_id,fold.')
  _RLE_CSV = flags.DEFINE_string(
    'rle_csv', None, 'Csv of the masks: ImageId,EncodedPixels.'
  )
  _PATIENT_MAP = flags.DEFINE_string(
    'patient_map', None, 'Csv of image id and patient.'
  )
  flags.mark_flags_as_required(['audit', 'rle_csv', 'patient_map'])
  app.run(main, flags_parser=parse_flags)
