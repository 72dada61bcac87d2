"""Masks of all films under their rules, and pictures of examples."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures

import numpy as np

from pnx_jax import draw, pool
from pnx_jax.evaluation import kept_masks, lesions, outlines
from pnx_jax.evaluation.cross_validation import HeldOut
from pnx_jax.evaluation.kept_masks import KeptMasks
from pnx_jax.evaluation.lesions import FilmFindings, LesionReport
from pnx_jax.evaluation.results import Results
from pnx_jax.formats import boxes, files, letterbox, rle
from pnx_jax.formats.schema import Record
from pnx_jax.metrics import rules
from pnx_jax.metrics.dice import dice
from pnx_jax.metrics.summary import Images
from pnx_jax.metrics.surface import SurfaceDistances
from pnx_jax.prediction.network import SIZE
from pnx_jax.prediction.postprocess import Postprocess

# Folders of pictures of false positives.
FALSE_POSITIVES = {
  'negative film': 'false_on_negative_film',
  'same side': 'false_on_same_side',
  'other side': 'false_on_other_side',
}
KINDS = ('worst', 'best', 'random', *FALSE_POSITIVES.values())


@dataclasses.dataclass(frozen=True)
class Example:
  """An image whose picture is shown.

  Attributes:
    kind: One of KINDS.
    rank: Its place among those of its kind, from 0.
    index: Of the image.
  """

  kind: str
  rank: int
  index: int


@dataclasses.dataclass
class FilmMasks:
  """What only the masks themselves tell.

  Attributes:
    masks: RLE of the mask of every image that keeps one, by the image's index,
      in pixels of the radiograph.
    outlines: Distances of the outlines of every positive image that keeps a
      mask, by its index and the unit.
    findings: Of every image with a lesion or a candidate mask, by its index.
    boxes: i32[K, 5] of the predicted regions of every image that keeps a mask,
      see `formats.boxes`.
    cleaned_dice: f64[N], Dice of every image after its mask was cleaned.
  """

  masks: dict[int, str]
  outlines: dict[int, dict[str, SurfaceDistances]]
  findings: dict[int, FilmFindings]
  boxes: dict[int, np.ndarray]
  cleaned_dice: np.ndarray

  def rows_of_boxes(
    self, records: Sequence[Record]
  ) -> Iterator[tuple[str | int, ...]]:
    """Yields image id, x, y, width, height and area of every region."""
    for index, record in enumerate(records):
      for box in self.boxes.get(index, ()):
        yield record.image_id, *box.tolist()


def choose(images: Images, count: int, *, seed: int = 0) -> list[Example]:
  """The worst images, the best positive and random ones, `count` of each.

  Of equal Dice, the one with the larger wrong area is worse. Images whose mask
  is not known are left out.
  """
  error = images.truth_area + images.predicted_area - 2 * images.intersection
  order = np.lexsort((-error, images.dice))
  positive = order[images.label[order]]
  random = np.random.default_rng(seed).permutation(len(images))
  chosen = {'worst': order, 'best': positive[::-1], 'random': random}
  known = np.isfinite(images.dice)
  chosen = {kind: rows[known[rows]] for kind, rows in chosen.items()}
  return [
    Example(kind, rank, int(index))
    for kind, indices in chosen.items()
    for rank, index in enumerate(indices[:count])
  ]


def false_positives(report: LesionReport, count: int) -> list[Example]:
  """The `count` most probable false positives of each kind, one per image."""
  chosen = []
  for kind, folder in FALSE_POSITIVES.items():
    images = dict.fromkeys(i for i, each in report.false_images if each == kind)
    chosen += [
      Example(folder, rank, index)
      for rank, index in enumerate(list(images)[:count])
    ]
  return chosen


def masks(
  held_out: HeldOut,
  kept: KeptMasks,
  statistics: Mapping[str, np.ndarray],
  results: Results,
  *,
  min_component: int = 0,
  fill_holes: bool = False,
) -> FilmMasks:
  """The masks of all films, each by its group's rule.

  Args:
    held_out: The images.
    kept: Their candidate masks.
    statistics: Of the network pass.
    results: On them.
    min_component: See `Postprocess`.
    fill_holes: See `Postprocess`.
  """
  images = results.images
  found = FilmMasks({}, {}, {}, {}, images.dice.copy())
  posts = [
    results.postprocess(
      group, min_component=min_component, fill_holes=fill_holes
    )
    for group in range(len(results.search.group_rules))
  ]

  def of_film(index: int) -> None:
    post, record = posts[results.groups[index]], held_out.records[index]
    column = rules.column(post.rule.bottom)
    if images.label[index] or statistics['predicted_area'][index, column]:
      _film(index, post, record, held_out, kept, images, found)

  with futures.ThreadPoolExecutor(pool.num_cores()) as threads:
    list(threads.map(of_film, range(len(images))))
  return found


def _film(
  index: int,
  post: Postprocess,
  record: Record,
  held_out: HeldOut,
  kept: KeptMasks,
  images: Images,
  found: FilmMasks,
) -> None:
  """Adds a film's mask and what follows from it."""
  keeps, bottom = images.predicted[index], kept_masks.level(post.rule.bottom)
  levels = kept.levels(index)
  candidates = levels >= bottom
  truth = held_out.truth(index, SIZE)
  mask = post.cleaned(candidates & keeps, 1.0)
  known = images.mask_known is None or images.mask_known[index]
  if known:
    found.findings[index] = lesions.find(truth, candidates, mask, levels)
  if known and post.cleans:
    areas = map(np.count_nonzero, (mask & truth, mask, truth))
    found.cleaned_dice[index] = dice(*map(np.asarray, areas))
  if not keeps:
    return
  film_levels = kept.film_levels(index)
  inside = letterbox.place(
    *film_levels.shape, SIZE, pixel_aspect=record.pixel_aspect
  )
  film_mask = post.cleaned(
    film_levels >= bottom,
    film_levels.size / (inside.height * inside.width),
  )
  if not film_mask.any():
    return
  found.masks[index] = rle.encode(film_mask)
  found.boxes[index] = boxes.boxes(film_mask)
  if images.marked[index]:
    found.outlines[index] = outlines.measure(
      mask,
      truth,
      film_predicted=film_mask,
      film_truth=rle.decode(record.rle, record.height, record.width),
      record=record,
    )


def pictures(
  held_out: HeldOut,
  found: FilmMasks,
  images: Images,
  examples: Sequence[Example],
  *,
  image_size: int,
) -> dict[Example, np.ndarray]:
  """Draws examples, uint8[H, W, 3] each.

  Args:
    held_out: The images.
    found: Their masks.
    images: Their results.
    examples: To draw.
    image_size: Side of the radiographs that are drawn.
  """
  return {
    each: _picture(held_out, found.masks, images, each.index, image_size)
    for each in examples
  }


def _picture(
  held_out: HeldOut,
  masks: Mapping[int, str],
  images: Images,
  index: int,
  image_size: int,
) -> np.ndarray:
  record = held_out.records[index]
  facts = [f'Dice {images.dice[index]:.3f}']
  facts.append(f'probability {images.probability[index]:.3f}')
  facts += [record.view, record.sex]
  facts.append(f'{record.age} years' if record.age >= 0 else '')
  mask = rle.decode(masks.get(index, rle.EMPTY), record.height, record.width)
  return draw.panel(
    held_out.image(index, image_size),
    held_out.truth(index, SIZE),
    letterbox.letterbox(mask, SIZE, pixel_aspect=record.pixel_aspect),
    text='\n'.join([record.image_id, ', '.join(filter(None, facts))]),
  )


def save(
  picture: np.ndarray,
  example: Example,
  record: Record,
  folder: str | os.PathLike[str],
) -> pathlib.Path:
  """Writes one picture as <folder>/<kind>/<rank>_<image id>.png.

  Raises:
    UserError: The file cannot be written.
  """
  name = re.sub(r'[^\w.-]', '_', record.image_id)[-80:]
  path = pathlib.Path(folder) / example.kind / f'{example.rank:02d}_{name}.png'
  files.write(path, draw.encoded(picture))
  return path
