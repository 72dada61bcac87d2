"""The table of a run: what is counted of every held-out film.

Areas over all thresholds (see `pnx_jax.metrics.dice`) let every rule be scored
later without the network; no picture is needed again.
"""

import csv
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np

from pnx_jax.formats import files, schema
from pnx_jax.metrics import dice

_FIELDS = (
  'image_id',
  'patient',
  'fold',
  'view',
  'probability',
  'maximum',
  'truth_area',
)
_PREDICTED = tuple(f'area_{level:g}' for level in dice.THRESHOLDS)
_BOTH = tuple(f'both_{level:g}' for level in dice.THRESHOLDS)


@dataclasses.dataclass(frozen=True)
class Films:
  """N films that one recipe with one seed has predicted out of fold.

  Attributes:
    image_id: str[N].
    patient: int[N].
    fold: int[N].
    view: str[N], '' where unknown.
    probability: f64[N], of the presence head.
    maximum: f64[N], the largest probability of a pixel.
    truth_area: i64[N], in pixels at 1024 x 1024, like the next two.
    predicted_area: i64[N, T], over `dice.THRESHOLDS`.
    intersection: i64[N, T].
  """

  image_id: np.ndarray
  patient: np.ndarray
  fold: np.ndarray
  view: np.ndarray
  probability: np.ndarray
  maximum: np.ndarray
  truth_area: np.ndarray
  predicted_area: np.ndarray
  intersection: np.ndarray

  def __len__(self) -> int:
    return len(self.image_id)

  def __getitem__(self, chosen: np.ndarray) -> 'Films':
    """The films that a mask or indices choose."""
    return Films(
      *(getattr(self, each.name)[chosen] for each in dataclasses.fields(self))
    )

  def of(self, image_ids: Iterable[str]) -> 'Films':
    """The films of these ids that are there."""
    return self[np.isin(self.image_id, [*image_ids])]

  @property
  def label(self) -> np.ndarray:
    """bool[N], whether a film shows a pneumothorax."""
    return self.truth_area > 0

  @property
  def mean_probability(self) -> np.ndarray:
    """f64[N], mean of presence head and largest pixel.

    That of `eval.image_probability='mean'`; of several networks it has the
    largest pixel of the averaged map, where an evaluation averages the largest
    pixels of each.
    """
    return (self.probability + self.maximum) / 2

  @property
  def has_presence_head(self) -> bool:
    """Whether `probability` is not that of the largest pixel itself."""
    return float(np.abs(self.probability - self.maximum).mean()) > 0.01

  def statistics(self) -> dict[str, np.ndarray]:
    """What `pnx_jax.metrics.rules` scores."""
    return {
      'truth_area': self.truth_area,
      'predicted_area': self.predicted_area,
      'intersection': self.intersection,
      'probability': self.probability,
    }


def count(
  records: Sequence[schema.Record],
  predictions: Iterable[tuple[np.ndarray, float]],
  truth: Callable[[int], np.ndarray],
  *,
  fold: int,
) -> Films:
  """Counts what a run predicts of the films of a fold.

  Args:
    records: of the films.
    predictions: of each film `probs` f32[1024, 1024] and the probability.
    truth: from the number of a film to its mask, bool[1024, 1024].
    fold: that these films are.
  """
  areas = jax.jit(dice.threshold_areas)
  rows = []
  for index, (probs, probability) in enumerate(predictions):
    found = jax.device_get(areas(probs[None], truth(index)[None]))
    rows.append(
      (
        records[index].image_id,
        records[index].patient,
        fold,
        records[index].view,
        probability,
        float(probs.max()),
        *(found[name][0].astype(np.int64) for name in _COUNTS),
      )
    )
  return Films(*map(np.array, zip(*rows, strict=True)))


_COUNTS = ('truth_area', 'predicted_area', 'intersection')


def write(path: str | os.PathLike, films: Films) -> None:
  """Writes one row per film."""
  rows = (
    (
      *(getattr(films, name)[row] for name in _FIELDS[:4]),
      *(f'{getattr(films, name)[row]:.6g}' for name in _FIELDS[4:6]),
      films.truth_area[row],
      *films.predicted_area[row],
      *films.intersection[row],
    )
    for row in range(len(films))
  )
  files.write_csv(path, (*_FIELDS, *_PREDICTED, *_BOTH), rows)


def read(path: str | os.PathLike) -> Films:
  """Reads what `write` wrote."""
  with pathlib.Path(path).open(encoding='utf-8', newline='') as file:
    rows = list(csv.DictReader(file))

  def column(name, kind):
    return np.array([kind(row[name]) for row in rows])

  def table(names):
    return np.array([[int(row[name]) for name in names] for row in rows])

  return Films(
    image_id=column('image_id', str),
    patient=column('patient', int),
    fold=column('fold', int),
    view=column('view', str),
    probability=column('probability', float),
    maximum=column('maximum', float),
    truth_area=column('truth_area', int),
    predicted_area=table(_PREDICTED),
    intersection=table(_BOTH),
  )


def joined(parts: Sequence[Films]) -> Films:
  """The films of several folds, sorted by id."""
  columns = (
    np.concatenate([getattr(part, each.name) for part in parts])
    for each in dataclasses.fields(Films)
  )
  films = Films(*columns)
  if len(set(films.image_id)) != len(films):
    raise ValueError('A film stands in two tables of one recipe and seed.')
  return films[np.argsort(films.image_id)]
