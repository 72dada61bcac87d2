"""The held-out images of all folds, predicted by networks without them."""

import logging
import time
from collections.abc import Mapping

import numpy as np

from pnx_jax.errors import UserError
from pnx_jax.evaluation.dataset_predictor import DatasetPredictor
from pnx_jax.evaluation.kept_masks import KeptMasks
from pnx_jax.evaluation.stored_predictions import StoredPredictions
from pnx_jax.formats import schema
from pnx_jax.input import pipeline
from pnx_jax.training import seen_films
from pnx_jax.training.seen_films import SeenFilm

_logger = logging.getLogger(__name__)


class HeldOut:
  """The labeled images of some folds, numbered from 0 over all folds.

  Args:
    data_dir: the dataset.
    predictors: of each fold, with networks that were trained without it.

  Attributes:
    records: of all images.
    fold: int[N], of each image.
    label: bool[N], whether the image shows a pneumothorax.
    mask_known: bool[N], whether its mask is known.

  Raises:
    UserError: a fold has no labeled image, or no mask of any image is known.
  """

  def __init__(
    self,
    data_dir: str,
    predictors: Mapping[int, DatasetPredictor | StoredPredictions],
  ):
    self._predictors = predictors
    self._datasets = {
      fold: pipeline.Dataset(data_dir, [schema.fold_split(fold)])
      for fold in predictors
    }
    for fold, dataset in self._datasets.items():
      if not len(dataset):
        raise UserError(
          f'{data_dir} has no labeled image in fold {fold}: there is nothing '
          'to evaluate; build it with fewer --num_folds'
        )
    sizes = [len(dataset) for dataset in self._datasets.values()]
    self._first = dict(zip(predictors, np.cumsum([0, *sizes]), strict=False))
    self.fold: np.ndarray = np.repeat(list(predictors), sizes)
    self.records: list[schema.Record] = [
      record
      for dataset in self._datasets.values()
      for record in dataset.records
    ]
    labels = [record.label for record in self.records]
    self.label: np.ndarray = np.array(labels) == schema.POSITIVE
    self.mask_known: np.ndarray = np.concatenate(
      [dataset.mask_known for dataset in self._datasets.values()]
    )
    if not self.mask_known.any():
      raise UserError(
        f'no mask is known of any film of {data_dir}: its films have a '
        'pneumothorax and only a label or boxes; build it with some that have '
        'a mask or no pneumothorax'
      )

  def __len__(self) -> int:
    return len(self.records)

  @property
  def stored_size(self) -> int:
    """Side of the stored images."""
    return next(iter(self._datasets.values())).stored_size

  def image(self, index: int, size: int) -> np.ndarray:
    """The radiograph as uint8[size, size]."""
    dataset, place = self._find(index)
    return dataset.image(place, size)

  def truth(self, index: int, size: int) -> np.ndarray:
    """The annotated mask as bool[size, size]."""
    dataset, place = self._find(index)
    return dataset.label(place, size)

  def statistics(
    self, *, kept: KeptMasks | None = None
  ) -> dict[str, np.ndarray]:
    """Areas and probability of every image; see `DatasetPredictor`.

    Where not every mask is known, also `mask_known` bool[N]: the other images
    have no areas of truth and intersection.

    Args:
      kept: Takes the candidate masks too, numbered like the images.
    """
    parts = []
    for fold, dataset in self._datasets.items():
      start = time.monotonic()
      parts.append(self._predictors[fold].statistics(dataset, kept=kept))
      seconds = time.monotonic() - start
      _logger.info('Fold %d: %d images in %.1f s.', fold, len(dataset), seconds)
    found = {
      name: np.concatenate([part[name] for part in parts]) for name in parts[0]
    }
    if not self.mask_known.all():
      found['mask_known'] = self.mask_known
    return found

  def films(self, fold: int) -> list[SeenFilm]:
    """The films of a fold."""
    return seen_films.of(self._datasets[fold].records)

  def _find(self, index):
    """The dataset of an image and its place there."""
    fold = self.fold[index]
    return self._datasets[fold], index - int(self._first[fold])
