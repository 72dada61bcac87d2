"""The build of a synthetic chest and how it lies on a film.

Everything is drawn in the thorax's own coordinates: `u` runs across in half
widths of the chest from the midline (positive: the patient's left, the film's
right), `v` runs down from the apex of the lungs (0) to their base (1).
"""

import dataclasses

import numpy as np

from data_prep.phantom.canvas import spline

# The lung's outline, from its medial apex along the chest wall to the
# costophrenic angle, over the diaphragm and back along the mediastinum.
WALL = (
  (0.20, 0.06), (0.27, 0.01), (0.40, -0.01), (0.55, 0.025), (0.69, 0.11),
  (0.81, 0.26), (0.90, 0.47), (0.96, 0.67), (0.985, 0.84), (0.985, 0.98),
)  # fmt: skip
FLOOR = ((0.90, 0.93), (0.74, 0.865), (0.56, 0.84), (0.38, 0.85), (0.24, 0.875))
MEDIAL = ((0.18, 0.80), (0.17, 0.55), (0.16, 0.35), (0.16, 0.18))
HILUM = (0.22, 0.46)


@dataclasses.dataclass(frozen=True)
class Patient:
  """A build that all radiographs of one person share."""

  seed: tuple[int, ...]
  female: bool
  age: int
  width: float  # half the chest, in film widths
  height: float  # apex to base, in film heights
  heart: float
  rib_slope: float
  fat: float
  emphysema: bool

  @classmethod
  def draw(cls, seed: tuple[int, ...]) -> 'Patient':
    random = np.random.default_rng(seed)
    female = bool(random.random() < 0.44)
    return cls(
      seed=seed,
      female=female,
      age=int(np.clip(random.normal(48, 17), 2, 92)),
      width=random.uniform(0.315, 0.38) - 0.01 * female,
      height=random.uniform(0.58, 0.70) - 0.02 * female,
      heart=random.uniform(0.85, 1.2),
      rib_slope=random.uniform(0.15, 0.30),
      fat=float(random.beta(2, 3)),
      emphysema=bool(random.random() < 0.12),
    )


@dataclasses.dataclass(frozen=True)
class Pose:
  """How one film was taken; maps the thorax onto its pixels."""

  size: int
  portable: bool  # AP, lying: larger heart, lower lungs, less contrast
  matrix: np.ndarray  # f64[2, 3]

  @classmethod
  def draw(cls, patient: Patient, size: int, random) -> 'Pose':
    portable = bool(random.random() < 0.4)
    width = patient.width * random.uniform(0.96, 1.04)
    height = patient.height * random.uniform(0.96, 1.04)
    height *= 0.88 if portable else 1.0
    angle = random.normal(0, 0.035 if portable else 0.015)
    across, down = np.cos(angle), np.sin(angle)
    shift = random.normal(0, 0.02 if portable else 0.01)
    top = random.uniform(0.07, 0.13) + 0.04 * portable
    matrix = size * np.array(
      [
        [across * width, -down * height, 0.5 + shift + down * height / 2],
        [down * width, across * height, top],
      ]
    )
    return cls(size, portable, matrix)

  def __call__(self, points) -> np.ndarray:
    """Pixels f64[..., 2] of points (u, v)."""
    return np.asarray(points) @ self.matrix[:, :2].T + self.matrix[:, 2]


def mirrored(points, side: int) -> np.ndarray:
  """Points of one side of the body; `side` is -1 for the film's left."""
  return np.asarray(points) * (side, 1)


def lung(side: int, patient: Patient, pose: Pose) -> np.ndarray:
  """Outline of a lung in pixels; its first `wall_points()` are the wall."""
  outline = np.array(WALL + FLOOR + MEDIAL)
  random = np.random.default_rng((*patient.seed, 2 + side))
  outline += random.normal(0, 0.008, outline.shape)
  floor = slice(len(WALL), len(WALL) + len(FLOOR))
  # The liver lifts the right dome; a deep breath lowers both.
  outline[floor, 1] += random.uniform(-0.03, 0.03) - 0.02 * (side < 0)
  return pose(mirrored(spline(outline, closed=True), side))


def wall_points() -> int:
  return (len(WALL) - 1) * 16 + 1
