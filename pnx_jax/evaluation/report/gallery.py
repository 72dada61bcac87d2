"""A second look: pictures of some cases, boxes of every mask, cleaned masks."""

import dataclasses
import pathlib
import re

import numpy as np

from pnx_jax import draw
from pnx_jax.evaluation.results import Verdict
from pnx_jax.formats import boxes, files, letterbox
from pnx_jax.metrics.dice import dice
from pnx_jax.metrics.summary import Images
from pnx_jax.prediction.network import SIZE


@dataclasses.dataclass(frozen=True)
class Case:
  """One to look at; `kind` is worst, best or random, `rank` is from 0."""

  kind: str
  rank: int
  index: int


@dataclasses.dataclass
class Findings:
  """What the second look found.

  Attributes:
    pictures: uint8[H, W, 3] of each case.
    boxes: image id, x, y, width, height, area of each region, in pixels of
      the film.
    cleaned: f64[N], Dice of every image after cleaning its mask.
  """

  pictures: dict[Case, np.ndarray]
  boxes: list[tuple]
  cleaned: np.ndarray


def choose(images: Images, count: int, *, seed: int = 0) -> list[Case]:
  """The worst, the best positive and some random cases, `count` of each.

  Of equal Dice, the larger wrong area is the worse.
  """
  error = images.truth_area + images.predicted_area - 2 * images.intersection
  order = np.lexsort((-error, images.dice))
  positive = order[images.label[order]]
  random = np.random.default_rng(seed).permutation(len(images))
  chosen = {'worst': order, 'best': positive[::-1], 'random': random}
  return [
    Case(kind, rank, int(index))
    for kind, indices in chosen.items()
    for rank, index in enumerate(indices[:count])
  ]


def look(
  held_out, verdict: Verdict, cases, *, image_size: int, **cleaning
) -> Findings:
  """Predicts again what is worth it: cases, and images with a mask.

  Args:
    held_out: the images.
    verdict: on them; each is treated as it was scored, by its group's rule.
    cases: to draw.
    image_size: of the radiographs that are drawn.
    **cleaning: `min_component`, `fill_holes` of `Postprocess`.
  """
  images = verdict.images
  cases_of = {}
  for case in cases:
    cases_of.setdefault(case.index, []).append(case)
  findings = Findings({}, [], images.dice.copy())
  looked_at = sorted({*np.flatnonzero(images.predicted).tolist(), *cases_of})
  for index, probs, probability in held_out.probabilities(looked_at):
    record = held_out.records[index]
    post = verdict.postprocess(int(verdict.groups[index]), **cleaning)
    for box in boxes.boxes(post.film_mask(probs, probability, record)):
      findings.boxes.append((record.image_id, *box.tolist()))
    probs = letterbox.blanked(
      probs, record.height, record.width, pixel_aspect=record.pixel_aspect
    )
    mask = post.mask(probs, probability)
    if post.cleans:
      truth = held_out.truth(index, SIZE)
      findings.cleaned[index] = dice(
        np.count_nonzero(mask & truth),
        np.count_nonzero(mask),
        np.count_nonzero(truth),
      )
    for case in cases_of.get(index, ()):
      findings.pictures[case] = _picture(
        held_out, images, index, mask, image_size
      )
  return findings


def _picture(held_out, images, index, mask, image_size):
  record = held_out.records[index]
  facts = [f'Dice {images.dice[index]:.3f}']
  facts.append(f'probability {images.probability[index]:.3f}')
  facts += [record.view, record.sex]
  facts.append(f'{record.age} years' if record.age >= 0 else '')
  return draw.panel(
    held_out.image(index, image_size),
    held_out.truth(index, SIZE),
    mask,
    text='\n'.join([record.image_id, ', '.join(filter(None, facts))]),
  )


def save(picture: np.ndarray, case: Case, record, folder) -> pathlib.Path:
  """Writes one picture as <folder>/<kind>/<rank>_<image id>.png."""
  name = re.sub(r'[^\w.-]', '_', record.image_id)[-80:]
  path = pathlib.Path(folder) / case.kind / f'{case.rank:02d}_{name}.png'
  files.write(path, draw.encoded(picture))
  return path
