"""The held-out images of all folds, seen by networks not trained on them."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pnx_jax.errors import UserError
from pnx_jax.formats import schema
from pnx_jax.input import pipeline
from pnx_jax.prediction.ensemble import Ensemble, Subset
from pnx_jax.training import run_files as workdirs

_logger = logging.getLogger(__name__)


class HeldOut:
  """The labelled images of some folds, counted through.

  Args:
    data_dir: the dataset.
    ensembles: of each fold, networks that were trained without it.

  Attributes:
    records: of all images.
    fold: int[N], of each image.
    label: bool[N], the image has a pneumothorax.

  Raises:
    UserError: a fold has no labelled image.
  """

  def __init__(self, data_dir: str, ensembles: Mapping[int, Ensemble]):
    self._ensembles = ensembles
    self._datasets = {
      fold: pipeline.Dataset(data_dir, [schema.fold_split(fold)])
      for fold in ensembles
    }
    for fold, dataset in self._datasets.items():
      if not len(dataset):
        raise UserError(
          f'{data_dir} has no labelled image in fold {fold}: there is nothing '
          'to evaluate; build it with fewer --num_folds'
        )
    sizes = [len(dataset) for dataset in self._datasets.values()]
    self._first = dict(zip(ensembles, np.cumsum([0, *sizes]), strict=False))
    self.fold = np.repeat(list(ensembles), sizes)
    self.records = [r for d in self._datasets.values() for r in d.records]
    labels = [record.label for record in self.records]
    self.label = np.array(labels) == schema.POSITIVE

  def __len__(self) -> int:
    return len(self.records)

  def image(self, index: int, size: int) -> np.ndarray:
    """The radiograph as uint8[size, size]."""
    dataset, place = self._find(index)
    return dataset.image(place, size)

  def truth(self, index: int, size: int) -> np.ndarray:
    """The annotated mask as bool[size, size]."""
    dataset, place = self._find(index)
    return dataset.label(place, size)

  def statistics(self) -> dict[str, np.ndarray]:
    """Areas and probability of every image, see `Ensemble.statistics`."""
    parts = []
    for fold, dataset in self._datasets.items():
      start = time.monotonic()
      parts.append(self._ensembles[fold].statistics(dataset))
      seconds = time.monotonic() - start
      _logger.info('Fold %d: %d images in %.1f s.', fold, len(dataset), seconds)
    return {
      name: np.concatenate([part[name] for part in parts]) for name in parts[0]
    }

  def probabilities(
    self, indices: Sequence[int]
  ) -> Iterator[tuple[int, np.ndarray, float]]:
    """Index, `probs` f32[SIZE, SIZE] and `probability` of some images."""
    for fold, ensemble in self._ensembles.items():
      chosen = [index for index in indices if self.fold[index] == fold]
      if chosen:
        places = [self._find(index)[1] for index in chosen]
        subset = Subset(self._datasets[fold], places)
        answers = ensemble.probabilities(subset)
        for index, (probs, probability) in zip(chosen, answers, strict=True):
          yield index, probs, probability

  def check_unseen(self) -> None:
    """Raises UserError where a network has seen images it is to be scored on.

    That happens where runs were trained on builds with different folds.
    """
    for ensemble in dict.fromkeys(self._ensembles.values()):
      ids = {
        record.image_id
        for fold, dataset in self._datasets.items()
        if self._ensembles[fold] is ensemble
        for record in dataset.records
      }
      trained = {(member.workdir, member.fold) for member in ensemble.members}
      for run, left_out in sorted(trained):
        seen = workdirs.trained_on(run, left_out)
        if not seen:
          _logger.warning(
            'Fold %d of %s has no trained_on.json: that it has not seen these '
            'images cannot be checked.',
            left_out,
            run,
          )
        if both := seen.intersection(ids):
          raise UserError(
            f'fold {left_out} of {run} was trained with {min(both)}, which is '
            f'held out in this build: it has seen images it would be scored '
            'on; use runs of one build, and --config.data_dir of that build'
          )

  def _find(self, index):
    """The dataset of an image and its place there."""
    fold = self.fold[index]
    return self._datasets[fold], index - int(self._first[fold])
