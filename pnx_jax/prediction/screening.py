"""What is not assessed: films that are no upright frontal chest film.

Only what is clearly none is caught. The pixels are held against a drawing of
a chest at all sizes and places, upright and turned: lungs dark beside a bright
middle, the belly brighter than the shoulders, air beside neck and waist.

The limits were set on 90 real frontal films, children and white lungs among
them: none is refused, and of the same films turned by 90, 180 and 270 degrees
269 of 270 are caught (figures in benchmarks/RESULTS.md).
"""

import functools

import cv2
import numpy as np

from pnx_jax.formats.dicom import Film, Header, UnusableDicom

_LATERAL = ('LL', 'RL')
_OBLIQUE = ('LLO', 'RLO')
# A pixel of a smaller chest film is larger than 3 mm.
_LEAST_SIDE = 100
# Of 255 grey levels the middle 90 % of the pixels of a real film span 85 and
# more, and 151 and more levels hold a ten-thousandth of the pixels each.
_LEAST_SPAN = 10
_LEAST_LEVELS = 16
# Correlation with the drawing: 0.58 to 0.93 (1 % below 0.63); a panorama of
# teeth has 0.50.
_LEAST_FIT = 0.53
# Upright fits better than turned, by 0.04 to 0.84.
_MOST_BETTER_TURNED = 0.05

_SIDE = 48
# A chest fills at least two thirds of its film.
_CHEST_SIDES = (32, 36, 40, 44, 48)


def check(film: Film) -> None:
  """Raises UnusableDicom where a film is not to be assessed.

  Its `reason` is `lateral`, `oblique`, `small`, `blank`, `unlike`, `turned`.
  """
  check_header(film.header)
  check_pixels(film.pixels)


def check_header(header: Header) -> None:
  """See `check`; a side view is told by its name or by where its rows run."""
  view = header.view
  if 'OBL' in view or view in _OBLIQUE:
    raise UnusableDicom('oblique', f'view {view}')
  if 'LAT' in view or view in _LATERAL:
    raise UnusableDicom('lateral', f'view {view}')
  if not view and header.orientation[:1] in ('A', 'P'):
    raise UnusableDicom('lateral', 'rows run between front and back')


def check_pixels(pixels: np.ndarray) -> None:
  """See `check`; takes uint8[H, W]."""
  if min(pixels.shape) < _LEAST_SIDE:
    raise UnusableDicom('small', '{} x {} pixels'.format(*pixels.shape))
  counts = cv2.calcHist([pixels], [0], None, [256], [0, 256]).ravel()
  shares = counts / pixels.size
  low, high = np.searchsorted(np.cumsum(shares), (0.05, 0.95))
  levels = np.count_nonzero(shares > 1e-4)
  if high - low < _LEAST_SPAN or levels < _LEAST_LEVELS:
    raise UnusableDicom('blank', f'{levels} grey levels from {low} to {high}')
  upright, *turned = fits(pixels)
  best = int(np.argmax(turned))
  likeness = f'likeness to a frontal chest film {upright:.2f}'
  if turned[best] > max(upright + _MOST_BETTER_TURNED, _LEAST_FIT):
    turn = f'{turned[best]:.2f} turned by {90 * (best + 1)} degrees'
    raise UnusableDicom('turned', f'{likeness}, {turn}')
  if upright < _LEAST_FIT:
    raise UnusableDicom('unlike', likeness)


def fits(pixels: np.ndarray) -> list[float]:
  """How like a chest a film is: as it is, and turned by 90, 180, 270 degrees.

  Args:
    pixels: uint8[H, W].

  Returns:
    The largest correlation over the sizes and places of the drawing.
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
  """The drawing as a film turned by 0, 90, 180, 270 degrees shows it."""
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
  off = np.abs(x - 0.5)  # from the middle line

  def within(cx, cy, rx, ry):
    return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1

  chest = np.full((side, side), tissue, np.float32)
  chest[(y < 0.14) & (off > 0.16)] = air  # beside the neck
  chest[off > 0.5 - 0.25 * np.clip(y - 0.45, 0, 1)] = air  # and the waist
  for half in (-1, 1):  # narrow at the top and near the spine
    centre = 0.5 + half * (0.126 + 0.16 * y)
    chest[
      (np.abs(x - centre) < 0.11) & within(0.5 + half * 0.2, 0.42, 0.5, 0.3)
    ] = lung
  chest[(off < 0.06 + 0.12 * np.clip(y - 0.35, 0, 1)) & (y < 0.72)] = middle
  chest[within(0.55, 0.58, 0.14, 0.14)] = dense  # the heart
  chest[(y > 0.72) & (chest > air)] = dense  # the belly
  return _ranks(cv2.GaussianBlur(chest, (0, 0), 0.04 * side))


def _ranks(picture: np.ndarray) -> np.ndarray:
  """Each pixel's rank in 0..1, whatever the exposure; equal ones share it."""
  # A tenth of a grey level counts for nothing.
  _, place, counts = np.unique(
    np.round(picture, 1), return_inverse=True, return_counts=True
  )
  ranks = (np.cumsum(counts) - counts / 2) / picture.size
  return ranks[place].reshape(picture.shape).astype(np.float32)
