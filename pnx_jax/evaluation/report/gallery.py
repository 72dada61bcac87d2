"""The second network pass: pictures of examples, boxes, cleaned masks."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from pnx_jax import draw
from pnx_jax.evaluation import outlines
from pnx_jax.evaluation.cross_validation import HeldOut
from pnx_jax.evaluation.results import Results
from pnx_jax.formats import boxes, files, letterbox, rle
from pnx_jax.formats.schema import Record
from pnx_jax.metrics.dice import dice
from pnx_jax.metrics.summary import Images
from pnx_jax.metrics.surface import SurfaceDistances
from pnx_jax.prediction.network import SIZE


@dataclasses.dataclass(frozen=True)
class Example:
  """An image whose picture is shown.

  Attributes:
    kind: `worst`, `best` or `random`.
    rank: Its place among those of its kind, from 0.
    index: Of the image.
  """

  kind: str
  rank: int
  index: int


@dataclasses.dataclass
class SecondPass:
  """What only the masks themselves tell.

  Attributes:
    pictures: uint8[H, W, 3] of each example.
    masks: RLE of the mask of every image that keeps one, by the image's index,
      in pixels of the radiograph.
    outlines: Distances of the outlines of every positive image that keeps a
      mask, by its index and the unit.
    boxes: Image id, x, y, width, height and area of every predicted region, in
      pixels of the radiograph.
    cleaned_dice: f64[N], Dice of every image after its mask was cleaned.
  """

  pictures: dict[Example, np.ndarray]
  masks: dict[int, str]
  outlines: dict[int, dict[str, SurfaceDistances]]
  boxes: list[tuple[str | int, ...]]
  cleaned_dice: np.ndarray


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


def second_pass(
  held_out: HeldOut,
  results: Results,
  examples: Sequence[Example],
  *,
  image_size: int,
  min_component: int = 0,
  fill_holes: bool = False,
) -> SecondPass:
  """Predicts examples and images with a mask once more, for their masks.

  Args:
    held_out: The images.
    results: On them; each is treated as it was scored, by its group's rule.
    examples: To draw.
    image_size: Side of the radiographs that are drawn.
    min_component: See `Postprocess`.
    fill_holes: See `Postprocess`.
  """
  images = results.images
  examples_of: dict[int, list[Example]] = {}
  for example in examples:
    examples_of.setdefault(example.index, []).append(example)
  second = SecondPass({}, {}, {}, [], images.dice.copy())
  chosen = sorted({*np.flatnonzero(images.predicted).tolist(), *examples_of})
  for index, probs, probability in held_out.probabilities(chosen):
    record = held_out.records[index]
    post = results.postprocess(
      int(results.groups[index]),
      min_component=min_component,
      fill_holes=fill_holes,
    )
    film_mask = post.film_mask(probs, probability, record)
    if film_mask.any():
      second.masks[index] = rle.encode(film_mask)
    for box in boxes.boxes(film_mask):
      second.boxes.append((record.image_id, *box.tolist()))
    probs = letterbox.blanked(
      probs, record.height, record.width, pixel_aspect=record.pixel_aspect
    )
    mask = post.mask(probs, probability)
    truth = held_out.truth(index, SIZE)
    if images.marked[index] and film_mask.any():
      second.outlines[index] = outlines.measure(
        mask,
        truth,
        film_predicted=film_mask,
        film_truth=rle.decode(record.rle, record.height, record.width),
        record=record,
      )
    if post.cleans and record.mask_is_known:
      areas = map(np.count_nonzero, (mask & truth, mask, truth))
      second.cleaned_dice[index] = dice(*map(np.asarray, areas))
    for example in examples_of.get(index, ()):
      second.pictures[example] = _picture(
        held_out, images, index, mask, truth, image_size
      )
  return second


def _picture(
  held_out: HeldOut,
  images: Images,
  index: int,
  mask: np.ndarray,
  truth: np.ndarray,
  image_size: int,
) -> np.ndarray:
  record = held_out.records[index]
  facts = [f'Dice {images.dice[index]:.3f}']
  facts.append(f'probability {images.probability[index]:.3f}')
  facts += [record.view, record.sex]
  facts.append(f'{record.age} years' if record.age >= 0 else '')
  return draw.panel(
    held_out.image(index, image_size),
    truth,
    mask,
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
