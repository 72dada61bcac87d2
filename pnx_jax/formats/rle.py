"""The competition's run-length encoding of masks.

A mask is written as pairs `gap length`, counted in pixels down the columns
(column-major). Each gap starts where the last run ended; the first one starts
at pixel 0. A mask without any pixel is written `-1`.
"""

import itertools
import os
import re
from collections.abc import Iterable

import numpy as np

from pnx_jax.errors import UserError
from pnx_jax.formats import files

HEADER = ('ImageId', 'EncodedPixels')
EMPTY = '-1'
# How tables in circulation write a mask without any pixel.
_EMPTY = re.compile(
  r'|nan|none|null|n/?a|<na>|(-1|[-+]?0)(\.0*)?', re.IGNORECASE
)
_DIGITS = re.compile(r'[\d\s]*', re.ASCII)


class PastTheEnd(UserError):
  """An encoding of a larger mask."""


def decode(rle: str, height: int, width: int) -> np.ndarray:
  """Returns the mask as bool[H, W], in column-major memory order.

  Raises:
    PastTheEnd: The encoding is one of a larger mask.
    UserError: The string does not encode a mask.
  """
  flat = np.zeros(height * width, bool)
  if not is_empty(rle):
    starts, stops = _runs(rle, flat.size)
    pixels = memoryview(flat.view(np.uint8))  # Sliced faster than an array.
    for start, stop in zip(starts, stops, strict=True):
      pixels[start:stop] = b'\1' * (stop - start)
  return flat.reshape(width, height).T


def encode(mask: np.ndarray) -> str:
  """Returns the encoding of a mask, bool[H, W]; `-1` for an empty one."""
  mask = np.asarray(mask, bool)
  height, _ = mask.shape
  rows = np.flatnonzero(mask.any(axis=1))
  if not rows.size:
    return EMPTY
  top, bottom = rows[0], rows[-1] + 1
  # One blank row keeps the runs of neighboring columns apart.
  if bottom < height:
    bottom += 1
  elif top > 0:
    top -= 1
  columns = np.flatnonzero(mask[top:bottom].any(axis=0))
  left, right = columns[0], columns[-1] + 1
  edges = _edges(mask[top:bottom, left:right])
  edges[1::2] -= 1  # the last pixel of a run: one past it is another column
  column, row = np.divmod(edges, bottom - top)
  positions = (left + column) * height + top + row
  positions[1::2] += 1
  return ' '.join(map(str, np.diff(positions, prepend=0).tolist()))


def union(rles: Iterable[str], height: int, width: int) -> np.ndarray:
  """Returns the union of several encodings as bool[H, W]."""
  mask = np.zeros((width, height), bool).T
  for rle in rles:
    mask |= decode(rle, height, width)
  return mask


def is_empty(rle: str) -> bool:
  """Whether the string stands for a mask without any pixel."""
  return bool(_EMPTY.fullmatch(rle.strip()))


def read_csv(path: str | os.PathLike[str]) -> dict[str, list[str]]:
  """Reads `ImageId,EncodedPixels`: every image and its annotations.

  An image without a pneumothorax has an empty list. The file may lack the
  header; see `files.csv_rows` for what else it may be like.

  Raises:
    UserError: The file is not a csv, or a row has more or less than two cells.
  """
  annotations: dict[str, list[str]] = {}
  for number, row in files.csv_rows(path):
    if len(row) != 2 or not row[0]:
      raise UserError(
        f'{path}, line {number}: expected "ImageId,EncodedPixels", '
        f'got {",".join(row)[:60]!r}'
      )
    image_id, rle = row
    if not annotations and rle.lower() == 'encodedpixels':
      continue
    rows = annotations.setdefault(image_id, [])
    if not is_empty(rle):
      rows.append(rle)
  return annotations


def write_csv(
  path: str | os.PathLike[str], masks: Iterable[tuple[str, str]]
) -> None:
  """Writes `ImageId,EncodedPixels`; the RLE of an empty mask is `-1`."""
  files.write_csv(path, HEADER, masks, escape=False)


def _runs(rle: str, size: int) -> tuple[list[int], list[int]]:
  """Returns where the runs start and stop, checked against the mask's size."""
  words = rle.split()
  if not _DIGITS.fullmatch(rle):  # Much faster than each word for itself.
    for index, word in enumerate(words, 1):
      if not _DIGITS.fullmatch(word):
        raise UserError(
          f'RLE number {index} is {word[:20]!r}: expected an integer >= 0'
        )
  if len(words) % 2:
    raise UserError(
      f'RLE has {len(words)} numbers: expected pairs of gap and length'
    )
  edges = list(itertools.accumulate(map(int, words)))
  if edges[-1] > size:
    index = next(i for i, edge in enumerate(edges) if edge > size)
    raise PastTheEnd(
      f'RLE number {index + 1} ({words[index][:20]}) reaches past the end of '
      f'the mask of {size} pixels'
    )
  return edges[::2], edges[1::2]


def _edges(mask: np.ndarray) -> np.ndarray:
  """Returns the column-major positions at which runs start and stop."""
  flat = np.zeros(mask.size + 2, bool)
  flat[1:-1].reshape(mask.shape[1], mask.shape[0])[...] = mask.T
  return np.flatnonzero(flat[1:] != flat[:-1])
