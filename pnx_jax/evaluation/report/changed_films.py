"""The films whose Dice changed most between runs, and pictures of them."""

import dataclasses
import pathlib

import numpy as np

from pnx_jax import draw
from pnx_jax.errors import UserError
from pnx_jax.evaluation.comparison import Comparison, Side
from pnx_jax.formats import evaluation_files, letterbox, rle, schema
from pnx_jax.input.pipeline import Dataset
from pnx_jax.training import run_files

_PICTURE_SIZE = 320


@dataclasses.dataclass(frozen=True)
class ChangedFilm:
  """A film on which a side differs from the first one.

  Attributes:
    side: The side.
    index: The film's place among those in common.
    change: Its Dice minus that of the first side.
  """

  side: Side
  index: int
  change: float


def choose(comparison: Comparison, count: int) -> list[ChangedFilm]:
  """The `count` films that changed most, of each side but the first."""
  first, *others = comparison.sides
  chosen = []
  for side in others:
    change = side.dice - first.dice
    order = np.argsort(-np.abs(change), kind='stable')
    chosen += [
      ChangedFilm(side, int(index), float(change[index]))
      for index in order[:count]
      if change[index]
    ]
  return chosen


def pictures(
  comparison: Comparison, films: list[ChangedFilm], *, data_dir: str | None
) -> tuple[list[np.ndarray], str]:
  """Draws the annotation and both predictions side by side.

  Args:
    comparison: Of the runs.
    films: To draw.
    data_dir: The dataset; if None, that of the first run.

  Returns:
    A picture uint8[H, W, 3] of each film, and an empty string; or no picture,
    and the reason why there are none.
  """
  first = comparison.sides[0]
  try:
    masks = {side.name: _masks(side) for side in comparison.sides}
    dataset = _dataset(first, data_dir)
  except UserError as error:
    return [], str(error)
  places = {r.image_id: place for place, r in enumerate(dataset.records)}
  drawn = []
  for film in films:
    image_id = first.films[0].image_id[film.index]
    if image_id not in places:
      return [], f'the dataset of {first.name} does not hold {image_id}'
    place = places[image_id]
    size = min(_PICTURE_SIZE, dataset.stored_size)
    plain = draw.picture(dataset.image(place, size), _PICTURE_SIZE)
    tiles = []
    for name, mask, color in (
      ('annotation', dataset.label(place, size), draw.TRUTH),
      *(
        (
          side.name,
          _square(masks[side.name], dataset.records[place], size),
          draw.PREDICTION,
        )
        for side in (first, film.side)
      ),
    ):
      marked = draw.outline(plain, mask, color=color, fill=0.25)
      tiles.append(draw.caption(marked, [name], colors=[color]))
    drawn.append(np.concatenate(tiles, axis=1))
  return drawn, ''


def _masks(side: Side) -> dict[str, list[str]]:
  """The RLEs of each image, as the first run of a side predicted them."""
  path = side.folders[0] / 'masks.csv'
  if not path.exists():
    raise UserError(f'there is no {path}: evaluate the run again for pictures')
  evaluation_files.verify(path)
  return rle.read_csv(path)


def _square(
  masks: dict[str, list[str]], record: schema.Record, size: int
) -> np.ndarray:
  mask = rle.union(masks.get(record.image_id, []), record.height, record.width)
  return letterbox.letterbox(mask, size, pixel_aspect=record.pixel_aspect)


def _dataset(side: Side, data_dir: str | None) -> Dataset:
  folder = side.folders[0]
  splits = [schema.fold_split(fold) for fold in np.unique(side.films[0].fold)]
  if data_dir is None:
    data_dir = str(run_files.load(folder.parent).data_dir)
    if folder.name != 'eval':  # External validation, on a dataset of that name.
      name = folder.name.removeprefix('eval_')
      data_dir = str(pathlib.Path(data_dir).with_name(name))
  return Dataset(data_dir, splits)
