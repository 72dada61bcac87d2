"""What is known of a film: masks of any kind of annotation, boxes, a label."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_prep.entries import Entry
from pnx_jax.formats import letterbox, picture, polygon, refusals, rle, schema

_SLIP = 0.02  # A polygon may lie outside of a film by this share of its side.


class UnusableAnnotation(refusals.UnusableFilm):
  """Annotations that are not masks of their film."""


class Truth(NamedTuple):
  """What is known of a film.

  Attributes:
    kind: One of the kinds of `schema`.
    label: 1, 0 or -1 as in the record.
    masks: One per annotation, bool[H, W], none unless the kind is `mask`.
    boxes: i32[N, 5] as in the record, of the kind `box`.
    scaled: Whether a mask had another size than the film.
  """

  kind: str
  label: int
  masks: list[np.ndarray]
  boxes: np.ndarray
  scaled: bool = False


def of(entry: Entry, height: int, width: int) -> Truth:
  """Returns what an entry says of its film.

  Raises:
    UnusableAnnotation: It does not fit the film, or contradicts itself.
  """
  none = np.zeros((0, 5), np.int32)
  if entry.rles is not None:
    masks = _masks_of(entry, height, width)
    files = [_mask_file(path, height, width) for path in entry.masks]
    masks += [mask for mask, _ in files]
    label = int(any(mask.any() for mask in masks))
    if entry.label is not None and entry.label != label:
      raise UnusableAnnotation(
        'contradiction',
        f'label {entry.label}, but the mask has '
        f'{"some" if label else "no"} pixels',
      )
    scaled = any(scaled for _, scaled in files)
    return Truth(schema.MASK, label, masks, none, scaled)
  if entry.boxes:
    return Truth(schema.BOX, 1, [], _boxes(entry, height, width))
  if entry.label is not None:
    return Truth(schema.LABEL, entry.label, [], none)
  return Truth(schema.NONE, schema.UNLABELED, [], none)


def _masks_of(entry: Entry, height: int, width: int) -> list[np.ndarray]:
  """Returns the annotations in an entry itself, bool[H, W] each."""
  columns, rows = entry.annotation_size or (width, height)
  masks: list[np.ndarray] = []
  try:
    masks += [rle.decode(text, rows, columns) for text in entry.rles or ()]
  except rle.PastTheEnd as error:
    raise UnusableAnnotation('rle_past_end', str(error)) from error
  except ValueError as error:
    raise UnusableAnnotation('malformed_rle', str(error)) from error
  for rings in entry.polygons:
    masks.append(_filled(rings, rows, columns))
  return [letterbox.resized(mask, height, width) for mask in masks]


def _filled(
  rings: Sequence[Sequence[float]], rows: int, columns: int
) -> np.ndarray:
  """Returns a polygon's mask, bool[H, W]."""
  points = [np.reshape(ring, (-1, 2)) for ring in rings]
  # Hands slip over the edge; another size of the film shows as more than that.
  slip = max(1, _SLIP * max(rows, columns))
  for x, y in np.concatenate(points):
    if not (-slip <= x < columns + slip and -slip <= y < rows + slip):
      raise UnusableAnnotation(
        'polygon_outside',
        f'a polygon reaches {x:g}, {y:g}, outside of {columns} x {rows} pixels',
      )
  mask = polygon.mask(points, rows, columns)
  if not mask.any():
    raise UnusableAnnotation('unusable_mask', 'a polygon covers no pixel')
  return mask


def _mask_file(path: str, height: int, width: int) -> tuple[np.ndarray, bool]:
  """Returns a file's mask, bool[H, W], and whether it had another size."""
  try:
    mask = picture.read_mask(path)
  except refusals.UnusableFilm as error:
    raise UnusableAnnotation('unusable_mask', f'{path}: {error}') from error
  if mask.shape == (height, width):
    return mask, False
  larger, smaller = (
    max(mask.shape, (height, width)),
    min(mask.shape, (height, width)),
  )
  factor = larger[0] // smaller[0]
  if larger != (factor * smaller[0], factor * smaller[1]):
    raise UnusableAnnotation(
      'mask_size',
      f'a mask of {mask.shape[0]} x {mask.shape[1]} for a film of '
      f'{height} x {width}',
    )
  return letterbox.resized(mask, height, width), True


def _boxes(entry: Entry, height: int, width: int) -> np.ndarray:
  columns, rows = entry.annotation_size or (width, height)
  boxes: list[tuple[int, ...]] = []
  for left, top, box_width, box_height in entry.boxes:
    right, bottom = left + box_width, top + box_height
    if left < 0 or top < 0 or right > columns or bottom > rows:
      raise UnusableAnnotation(
        'box_outside',
        f'a box of {box_width} x {box_height} at {left}, {top} lies outside of '
        f'{columns} x {rows} pixels',
      )
    x, y = left * width // columns, top * height // rows
    w = -(-right * width // columns) - x
    h = -(-bottom * height // rows) - y
    boxes.append((x, y, w, h, w * h))
  return np.array(boxes, np.int32).reshape(-1, 5)
