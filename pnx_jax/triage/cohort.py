"""The films of an evaluation, from which a simulated clinic draws."""

import dataclasses
import os

import numpy as np

from pnx_jax.errors import UserError
from pnx_jax.formats import evaluation_files
from pnx_jax.metrics import bootstrap
from pnx_jax.prediction.postprocess import Postprocess


@dataclasses.dataclass(frozen=True)
class Cohort:
  """The images of an evaluation.

  Attributes:
    patient: int[N].
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
      UserError: The csv is damaged or incomplete, or lacks a class.
    """
    table = evaluation_files.read_per_image(path)
    positive = int(table.label.sum())
    if not 0 < positive < len(table):
      raise UserError(
        f'{path} has {positive} films with and {len(table) - positive} without '
        'a pneumothorax; both are needed'
      )
    return cls(table.patient, table.label, post.calibrated(table.probability))

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
