"""Probabilities that another program has predicted out of fold.

They lie in a folder: for every film `<image_id>.png`, 16 bit gray, where 65535
means probability 1, a square of any side that shows the same as the images of
the dataset; and a csv file (or several, one a fold, say) with the columns
`image_id` and `probability`, that of the film.
"""

import os
import pathlib
from collections.abc import Iterator

import cv2
import jax
import numpy as np

from pnx_jax.errors import UserError
from pnx_jax.evaluation.dataset_predictor import Subset
from pnx_jax.evaluation.kept_masks import KeptMasks
from pnx_jax.formats import files, letterbox, schema
from pnx_jax.input import pipeline
from pnx_jax.metrics import dice
from pnx_jax.prediction.network import SIZE

_CERTAIN = 65535


class StoredPredictions:
  """Predicts like a `DatasetPredictor`, from files.

  Args:
    folder: with pictures and tables.

  Raises:
    UserError: there is no table, or it cannot be read.
  """

  def __init__(self, folder: str | os.PathLike[str]):
    self._folder = pathlib.Path(folder)
    self._probability: dict[str, float] = {}
    paths = sorted(self._folder.glob('*.csv'))
    if not paths:
      raise UserError(
        f'{folder} holds no predictions: expected a csv with the columns '
        'image_id and probability, and a 16-bit <image_id>.png for every film'
      )
    for path in paths:
      for image_id, probability in _table(path):
        if self._probability.setdefault(image_id, probability) != probability:
          raise UserError(
            f'{path} gives {image_id} another probability than an earlier row'
          )

  def statistics(
    self, dataset: pipeline.Dataset, *, kept: KeptMasks | None = None
  ) -> dict[str, np.ndarray]:
    """What is counted of every image, see `DatasetPredictor.statistics`."""
    areas = jax.jit(dice.threshold_areas)
    rows = []
    for index, (probs, probability) in enumerate(self.probabilities(dataset)):
      if kept is not None:
        kept.add([dataset.records[index]], probs[None])
      truth = dataset.label(index, SIZE)
      counts = jax.device_get(areas(probs[None], truth[None]))
      rows.append({name: x[0] for name, x in counts.items()})
      rows[-1]['probability'] = np.float32(probability)
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

  def probabilities(
    self, dataset: pipeline.Dataset | Subset
  ) -> Iterator[tuple[np.ndarray, float]]:
    """Yields `probs` f32[SIZE, SIZE] and `probability` of every image.

    Raises:
      UserError: an image was not predicted, or its picture cannot be read.
    """
    for record in dataset.records:
      if record.image_id not in self._probability:
        raise UserError(
          f'{self._folder}: no table has a row for {record.image_id}, which '
          'the dataset holds out; predict every film of its folds'
        )
      yield self._probs(record), self._probability[record.image_id]

  def _probs(self, record: schema.Record) -> np.ndarray:
    name = f'{record.image_id}.png'
    if os.path.basename(name) != name:
      raise UserError(
        f'{self._folder}: the image id {record.image_id} cannot be the name of '
        'a png file; build the dataset again with ids without /'
      )
    path = self._folder / name
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if (
      image is None
      or image.dtype != np.uint16
      or image.ndim != 2
      or image.shape[0] != image.shape[1]
    ):
      found = 'missing' if image is None else f'{image.dtype}{[*image.shape]}'
      raise UserError(
        f'{path} is {found}; expected a square 16-bit gray png of probabilities'
      )
    probs = image.astype(np.float32) / _CERTAIN
    # What is predicted beside the film does not count.
    return letterbox.blanked(
      letterbox.letterbox(probs, SIZE),
      record.height,
      record.width,
      pixel_aspect=record.pixel_aspect,
    )


def _table(path: pathlib.Path) -> Iterator[tuple[str, float]]:
  """Yields image ids and probabilities of a csv file."""
  rows = files.csv_rows(path)
  _, header = next(rows, (1, []))
  for line, cells in rows:
    row = dict(zip(header, cells, strict=False))
    try:
      image_id, probability = row['image_id'], float(row['probability'])
    except (KeyError, ValueError):
      raise UserError(
        f'{path}, line {line}: expected the columns image_id and '
        'probability, a number'
      ) from None
    if not 0 <= probability <= 1:
      raise UserError(
        f'{path}, line {line}: the probability of {image_id} is '
        f'{probability}, not between 0 and 1'
      )
    yield image_id, probability
