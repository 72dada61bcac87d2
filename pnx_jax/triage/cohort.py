"""The films of an evaluation, from which a simulated clinic draws."""

import csv
import dataclasses
import os

import numpy as np

from pnx_jax.errors import UserError
from pnx_jax.metrics import bootstrap
from pnx_jax.prediction.postprocess import Postprocess

_COLUMNS = ('patient', 'label', 'probability')


@dataclasses.dataclass(frozen=True)
class Cohort:
  """The images of an evaluation.

  Attributes:
    patient: str[N].
    label: bool[N], the image has a pneumothorax.
    probability: f64[N], calibrated.
  """

  patient: np.ndarray
  label: np.ndarray
  probability: np.ndarray

  @classmethod
  def load(cls, path: str | os.PathLike[str], post: Postprocess) -> 'Cohort':
    """Reads a per_image.csv.

    Args:
      path: Of the csv.
      post: Calibrates the probabilities.

    Raises:
      UserError: The csv is not what an evaluation writes, or lacks a class.
    """
    try:
      with open(path, newline='', encoding='utf-8') as file:
        table = csv.DictReader(file)
        for name in _COLUMNS:
          if name not in (table.fieldnames or ()):
            raise UserError(f'{path} has no column {name!r}')
        rows = [_row(row, f'{path}, line {table.line_num}') for row in table]
    except (UnicodeDecodeError, csv.Error) as error:
      raise UserError(f'{path} is not a csv file: {error}') from None
    positive = sum(label for _, label, _ in rows)
    if not 0 < positive < len(rows):
      raise UserError(
        f'{path} has {positive} films with and {len(rows) - positive} without '
        'a pneumothorax; both are needed'
      )
    patient, label, probability = map(np.array, zip(*rows, strict=True))
    return cls(patient, label, post.calibrated(probability))

  def draw(self, positive: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws films of given labels from resampled patients: int[R, N].

    Args:
      positive: bool[R, N], the labels.
      rng: Random generator.

    Returns:
      Indices of images. Patients are resampled in each of the R rows.
    """
    weights = bootstrap.cluster_weights(
      self.patient, replicates=len(positive), seed=rng.integers(2**32)
    )
    kinds = (self.label, ~self.label)
    both = np.logical_and(*(weights @ kind > 0 for kind in kinds))
    weights = np.resize(weights[both], weights.shape)
    drawn = np.empty(positive.shape, np.int64)
    for row, places in enumerate(positive):
      for kind, place in zip(kinds, (places, ~places), strict=True):
        chances = weights[row] * kind
        drawn[row, place] = rng.choice(
          len(kind), place.sum(), p=chances / chances.sum()
        )
    return drawn


def _row(row: dict[str, str], where: str) -> tuple[str, bool, float]:
  try:
    label, probability = float(row['label']), float(row['probability'])
  except (TypeError, ValueError):
    label = probability = -1
  if label not in (0, 1) or not 0 <= probability <= 1:
    raise UserError(
      f'{where}: expected a label of 0 or 1 and a probability from 0 to 1, '
      f'not {row["label"]!r} and {row["probability"]!r}'
    )
  return row['patient'], bool(label), probability
