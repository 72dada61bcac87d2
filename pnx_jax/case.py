"""A film with its mask, described in words and drawn as an overlay."""

import dataclasses
import functools

import numpy as np

from pnx_jax import draw
from pnx_jax.formats.boxes import boxes
from pnx_jax.formats.spacing import IMPLAUSIBLE

_SEXES = {'F': 'female', 'M': 'male', 'O': 'other'}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """A film, its mask, and what is known of it.

  Attributes:
    image: uint8[h, w]; may be smaller than the film.
    mask: bool[H, W] in the film's own pixels; None if it is not labeled.
    image_id: Identifies the film.
    view: See `schema.Record`.
    sex: See `schema.Record`.
    age: See `schema.Record`.
    pixel_spacing: See `schema.Record`.
    spacing_plane: See `schema.Record`.
    mirrored: See `dicom.Header`.
    probability: Of a pneumothorax if the mask is a prediction, else None.
    positive: Whether there is a pneumothorax, where that is known without a
      mask, else None.
    boxes: i32[N, 4 or more], x, y, width and height in pixels of `image`, where
      they are known without a mask.
  """

  image: np.ndarray
  mask: np.ndarray | None
  image_id: str
  view: str
  sex: str
  age: int
  pixel_spacing: tuple[float, float]
  spacing_plane: str
  mirrored: bool = False
  probability: float | None = None
  positive: bool | None = None
  boxes: np.ndarray | None = None

  @functools.cached_property
  def regions(self) -> np.ndarray:
    """Boxes of the mask's regions, see `formats.boxes`."""
    return boxes(self.mask)

  @property
  def sides(self) -> list[str]:
    """The patient's sides with regions of the mask; none if not frontal.

    The patient faces the reader: the film's left half is the patient's right,
    unless the film is stored mirrored.
    """
    if self.view and not self.view.startswith(('AP', 'PA')):
      return []
    middle = self.regions[:, 0] + self.regions[:, 2] / 2
    right = (middle < self.mask.shape[1] / 2) != self.mirrored
    return ['right'] * bool(right.any()) + ['left'] * bool((~right).any())


def square_millimeters(area: int, pixel_spacing: tuple[float, float]) -> float:
  """An area in pixels as mm2; -1 if the spacing is unknown."""
  row, column = pixel_spacing
  return area * row * column if min(pixel_spacing) > 0 else -1.0


def describe(case: Case) -> list[str]:
  """The lines of text below the overlay."""
  person = [case.view, _SEXES.get(case.sex, '')]
  person += [f'{case.age} years'] if case.age >= 0 else []
  lines = [
    case.image_id,
    ', '.join(filter(None, person)) or 'view, sex and age unknown',
  ]
  if case.mask is None:
    return [*lines, _without_mask(case)]
  area = int(np.count_nonzero(case.mask))
  no, yes = 'pneumothorax: no', 'pneumothorax: yes'
  if case.probability is not None:
    given = f'probability of a pneumothorax {case.probability:.2f}'
    no, yes = f'{given}, nothing marked', f'{given}, marked'
  if not area:
    return [*lines, no]
  where = ' and '.join(case.sides)
  size = f'{area:,} px'
  if min(case.pixel_spacing) > 0:
    size += f', {square_millimeters(area, case.pixel_spacing):,.0f} mm2'
    size += ' (detector plane)' if case.spacing_plane == 'detector' else ''
  elif case.spacing_plane == IMPLAUSIBLE:
    size += ', mm2 unknown: the pixel spacing is implausible'
  return [*lines, f'{yes}{where and ", " + where}', size]


def _without_mask(case: Case) -> str:
  if case.boxes is not None and len(case.boxes):
    number = len(case.boxes)
    return f'pneumothorax: yes, in {number} box{"es" if number > 1 else ""}'
  if case.positive is None:
    return 'not labeled'
  return f'pneumothorax: {"yes, not outlined" if case.positive else "no"}'


def overlay(case: Case, size: int) -> np.ndarray:
  """The film with outline, boxes and label text: uint8[h, w, 3]."""
  result = draw.picture(case.image, size)
  letters = max(9, size // 30)
  if case.boxes is not None:
    scale = result.shape[1] / case.image.shape[1]
    result = draw.box(result, case.boxes, scale=scale)
  if case.mask is not None:
    predicted = case.probability is not None
    color = draw.PREDICTION if predicted else draw.TRUTH
    result = draw.outline(result, case.mask, color=color)
    scale = result.shape[1] / case.mask.shape[1]
    regions = case.regions
    result = draw.box(result, regions, scale=scale)
    # Small regions get no text; that of the largest region is drawn last.
    large = regions[regions[:, 4] > 0.01 * regions[:, 4].sum()]
    if len(large) > 1:
      for x, y, _, height, area in large[::-1].tolist():
        corner = round(x * scale), round((y + height) * scale) + letters
        result = draw.text(result, f'{area:,} px', at=corner, size=letters)
  return draw.caption(result, describe(case), size=letters)
