"""The pneumothorax of a phantom: air between the lung and the chest wall."""

import dataclasses

import numpy as np

from data_prep.phantom import anatomy
from data_prep.phantom.canvas import Canvas

# Percentiles of the area of real masks, in pixels at 1024 x 1024 (12,047
# annotated radiographs of the SIIM-ACR challenge).
AREA_PERCENTILES = (
  (0, 400), (1, 567), (5, 1364), (25, 4059), (50, 8630), (75, 18388),
  (95, 45772), (99, 80416), (100, 100000),
)  # fmt: skip
_BASAL = 0.2  # share of masks that lie in the lower half of the film
_BILATERAL = 0.06
_SEVERAL_ROWS = 0.18  # of the others; 23 % of real positives have several
_OVERLAPPING = 0.45
_THINNEST = 8 / 1024  # mean width of a crescent, in film widths


@dataclasses.dataclass(frozen=True)
class Pneumothorax:
  """What to draw, and the annotations that describe it.

  Attributes:
    rows: bool[S, S] per annotation; their union is the pneumothorax.
    mask_u8: The union as uint8[S, S], 0 or 255.
    pleura: Outlines of the lungs' edges, f64[N, 2] in pixels.
    sides: -1 (the film's left) or 1 for each of them.
    contrast: Brightness that the air takes away.
    collapse: Brightness that the denser lung gains.
    line: Brightness of the visceral pleura.
  """

  rows: list[np.ndarray]
  mask_u8: np.ndarray
  pleura: list[np.ndarray]
  sides: list[int]
  contrast: float
  collapse: float
  line: float


def draw(
  patient: anatomy.Patient, pose: anatomy.Pose, rank: float, random
) -> Pneumothorax:
  """Draws a pneumothorax whose size is at `rank` (0 to 1) of real ones."""
  percentiles, areas = zip(*AREA_PERCENTILES, strict=True)
  area = np.exp(np.interp(100 * rank, percentiles, np.log(areas)))
  area *= (pose.size / 1024) ** 2
  sides = [int(random.choice((-1, 1)))]
  shares = [1.0]
  if random.random() < _BILATERAL:
    share = random.uniform(0.5, 0.85)
    sides, shares = [sides[0], -sides[0]], [share, 1 - share]
  canvas = Canvas(pose.size)
  rows, pleura = [], []
  middle = -1
  basal = random.random() < _BASAL
  for side, share in zip(sides, shares, strict=True):
    wall, edge = _crescent(patient, pose, side, area * share, basal, random)
    pleura.append(edge)
    cuts = [(0, len(wall))]
    if len(sides) == 1 and random.random() < _SEVERAL_ROWS:
      middle = int(len(wall) * random.uniform(0.35, 0.65))
      lap = random.integers(3, 20) if random.random() < _OVERLAPPING else 0
      cuts = [(0, middle + lap + 1), (max(middle - lap, 0), len(wall))]
    for start, stop in cuts:
      outline = np.concatenate([wall[start:stop], edge[start:stop][::-1]])
      row = canvas.polygons([outline]) > 127
      rows.append(row & ~rows[-1] if rows and start == middle else row)
  rows = [row for row in rows if row.any()]
  return Pneumothorax(
    rows=rows,
    mask_u8=np.any(rows, axis=0).astype(np.uint8) * 255,
    pleura=pleura,
    sides=sides,
    contrast=random.uniform(0.045, 0.09),
    collapse=random.uniform(0.0, 0.02) + 0.06 * rank**3,
    line=random.uniform(0.05, 0.12),
  )


def _crescent(patient, pose, side, area, basal, random):
  """Chest wall and lung edge, f64[N, 2] each, with `area` between them."""
  wall = anatomy.lung(side, patient, pose)[: anatomy.wall_points()]
  wall = _resample(wall, 400)
  hilum = pose(anatomy.mirrored(anatomy.HILUM, side))
  fraction = area / (0.14 * pose.size**2)  # of a lung
  length = np.clip(random.uniform(0.3, 0.5) + 1.3 * fraction, 0, 0.98)
  # Even a small one has a width that can be seen.
  length = min(length, area / (_THINNEST * pose.size * _length(wall)))
  if basal:
    start = 1 - length - random.uniform(0, 0.04)
  else:
    start = random.uniform(0, 0.25) * (1 - length)
  position = np.linspace(0, 1, len(wall))
  ripple = 1 + random.uniform(0, 0.12) * np.sin(
    2 * np.pi * (random.uniform(1, 3) * position + random.random())
  )
  peak = random.uniform(0.6, 1.6)
  while True:
    along = (position - start) / length
    seen = (along >= 0) & (along <= 1)
    shape = ripple[seen] * np.abs(np.sin(np.pi * along[seen] ** peak)) ** 0.75
    part = wall[seen]
    if (
      length >= 1.5 or _between(part, _towards(hilum, part, 0.8 * shape)) > area
    ):
      break
    length *= 1.15
    start = 1.02 - length if basal else max(start - 0.05, -0.2)
  low, high = 0.0, 0.8
  for _ in range(20):
    middle = (low + high) / 2
    small = _between(part, _towards(hilum, part, middle * shape)) < area
    low, high = (middle, high) if small else (low, middle)
  return part, _towards(hilum, part, high * shape)


def _towards(hilum, wall, share) -> np.ndarray:
  """Points that lie `share` of the way from the wall to the hilum."""
  return wall + (hilum - wall) * share[:, None]


def _between(wall, edge) -> float:
  """Pixels between two curves: OpenCV fills half a pixel beyond an outline."""
  outline = np.concatenate([wall, edge[::-1]])
  x, y = outline.T
  area = 0.5 * abs(x @ np.roll(y, 1) - y @ np.roll(x, 1))
  return area + 0.5 * _length(outline)


def _length(path) -> float:
  return np.hypot(*np.diff(path, axis=0).T).sum()


def _resample(path, count: int) -> np.ndarray:
  """`count` points at equal distances along a path."""
  steps = np.hypot(*np.diff(path, axis=0).T)
  distance = np.concatenate([[0], steps.cumsum()])
  at = np.linspace(0, distance[-1], count)
  return np.stack([np.interp(at, distance, axis) for axis in path.T], axis=-1)
