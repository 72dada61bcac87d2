"""Screening: refuses films that are not upright frontal chest radiographs.

Only films that are clearly something else are refused. The pixels are
correlated with a drawing of a chest at several sizes and all places, upright
and rotated: dark lungs beside a bright middle, the abdomen brighter than the
shoulders, air beside neck and waist.

The limits were set on 90 real frontal films, children and white lungs among
them: none is refused, and of the same films rotated by 90, 180 and 270 degrees
269 of 270 are (benchmarks/RESULTS.md).
"""

import functools

import cv2
import numpy as np

from pnx_jax.formats.dicom import Film, Header, UnusableDicom
from pnx_jax.formats.dicom_header import shortened

_LATERAL = ('LL', 'RL')
_OBLIQUE = ('LLO', 'RLO')
# A pixel of a smaller chest film is larger than 3 mm.
_LEAST_SIDE = 100
# In real films the middle 90 % of the pixels span at least 85 of 255 gray
# levels, and at least 151 levels hold a ten-thousandth of the pixels each.
_LEAST_SPAN = 10
_LEAST_LEVELS = 16
# Of real films the correlation with the drawing is 0.58 to 0.93 (1 % below
# 0.63); that of a panoramic radiograph of teeth is 0.50.
_LEAST_FIT = 0.53
# Real films correlate better upright than rotated, by 0.04 to 0.84.
_MOST_BETTER_TURNED = 0.05

_SIDE = 48
# A chest fills at least two thirds of its film.
_CHEST_SIDES = (32, 36, 40, 44, 48)


def check(film: Film) -> None:
  """Checks header and pixels.

  Raises:
    UnusableDicom: the film should not be assessed; its `reason` is `lateral`,
      `oblique`, `small`, `blank`, `unlike` (a chest) or `turned`.
  """
  check_header(film.header)
  check_pixels(film.pixels)


def check_header(header: Header) -> None:
  """Checks the header alone; see `check`.

  A lateral view has its name, or rows that run between front and back.
  """
  view, shown = header.view, shortened(header).view
  if 'OBL' in view or view in _OBLIQUE:
    raise UnusableDicom('oblique', f'view {shown}')
  if 'LAT' in view or view in _LATERAL:
    raise UnusableDicom('lateral', f'view {shown}')
  if not view and header.orientation[:1] in ('A', 'P'):
    raise UnusableDicom('lateral', 'rows run between front and back')


def check_pixels(pixels: np.ndarray) -> None:
  """Checks the pixels uint8[H, W] alone; see `check`."""
  if min(pixels.shape) < _LEAST_SIDE:
    raise UnusableDicom('small', '{} x {} pixels'.format(*pixels.shape))
  counts = cv2.calcHist([pixels], [0], None, [256], [0, 256]).ravel()
  shares = counts / pixels.size
  low, high = np.searchsorted(np.cumsum(shares), (0.05, 0.95))
  levels = np.count_nonzero(shares > 1e-4)
  if high - low < _LEAST_SPAN or levels < _LEAST_LEVELS:
    raise UnusableDicom('blank', f'{levels} gray levels from {low} to {high}')
  upright, *turned = fits(pixels)
  best = int(np.argmax(turned))
  likeness = f'likeness to a frontal chest film {upright:.2f}'
  if turned[best] > max(upright + _MOST_BETTER_TURNED, _LEAST_FIT):
    turn = f'{turned[best]:.2f} turned by {90 * (best + 1)} degrees'
    raise UnusableDicom('turned', f'{likeness}, {turn}')
  if upright < _LEAST_FIT:
    raise UnusableDicom('unlike', likeness)


def fits(pixels: np.ndarray) -> list[float]:
  """How much a film looks like a chest, in four orientations.

  Args:
    pixels: uint8[H, W].

  Returns:
    The largest correlation with the drawing over its sizes and places, for a
    film that is upright and one rotated by 90, 180 and 270 degrees.
  """
  height, width = pixels.shape
  scale = _SIDE / min(height, width)
  shape = max(_SIDE, round(width * scale)), max(_SIDE, round(height * scale))
  small = cv2.resize(pixels, shape, interpolation=cv2.INTER_AREA)
  film = _ranks(cv2.GaussianBlur(small.astype(np.float32), (0, 0), 1.4))
  return [
    max(
      float(cv2.matchTemplate(film, chest, cv2.TM_CCOEFF_NORMED).max())
      for chest in chests
    )
    for chests in _chests()
  ]


@functools.cache
def _chests() -> list[list[np.ndarray]]:
  """The drawing rotated by 0, 90, 180 and 270 degrees, at all sizes."""
  upright = _chest(64)
  return [
    [
      cv2.resize(
        np.ascontiguousarray(np.rot90(upright, turns)),
        (side, side),
        interpolation=cv2.INTER_AREA,
      )
      for side in _CHEST_SIDES
    ]
    for turns in range(4)
  ]


def _chest(side: int) -> np.ndarray:
  """A frontal chest in six strokes, f32[side, side]."""
  air, lung, tissue, middle, dense = 25, 90, 150, 215, 255
  y, x = (np.mgrid[:side, :side] + 0.5) / side
  off = np.abs(x - 0.5)  # distance from the midline

  def within(cx, cy, rx, ry):
    return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1

  chest = np.full((side, side), tissue, np.float32)
  chest[(y < 0.14) & (off > 0.16)] = air  # beside the neck
  chest[off > 0.5 - 0.25 * np.clip(y - 0.45, 0, 1)] = air  # and the waist
  for half in (-1, 1):  # narrow at the top and near the spine
    center = 0.5 + half * (0.126 + 0.16 * y)
    chest[
      (np.abs(x - center) < 0.11) & within(0.5 + half * 0.2, 0.42, 0.5, 0.3)
    ] = lung
  chest[(off < 0.06 + 0.12 * np.clip(y - 0.35, 0, 1)) & (y < 0.72)] = middle
  chest[within(0.55, 0.58, 0.14, 0.14)] = dense  # the heart
  chest[(y > 0.72) & (chest > air)] = dense  # the abdomen
  return _ranks(cv2.GaussianBlur(chest, (0, 0), 0.04 * side))


def _ranks(picture: np.ndarray) -> np.ndarray:
  """The rank of each pixel in 0..1; equal pixels share their mean rank.

  Ranks do not depend on the exposure.
  """
  # Differences below a tenth of a gray level are rounding.
  _, place, counts = np.unique(
    np.round(picture, 1), return_inverse=True, return_counts=True
  )
  ranks = (np.cumsum(counts) - counts / 2) / picture.size
  return ranks[place].reshape(picture.shape).astype(np.float32)
