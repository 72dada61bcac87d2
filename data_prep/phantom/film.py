"""A phantom's film: what lies behind each other adds up in brightness."""

import functools

import cv2
import numpy as np

from data_prep.phantom import bones, devices
from data_prep.phantom.anatomy import (
  FLOOR,
  HILUM,
  WALL,
  Patient,
  Pose,
  lung,
  mirrored,
)
from data_prep.phantom.canvas import Canvas, spline

_COUNTS = 40000  # of the detector, for brightness 1


def render(
  patient: Patient, pose: Pose, air, random, *, drained: bool | None = None
) -> np.ndarray:
  """The radiograph, uint8[S, S].

  Args:
    patient: Whose chest.
    pose: How the film lies.
    air: The `Pneumothorax` drawn into it, or None.
    random: Generator for what differs from film to film.
    drained: Whether there is a chest drain; by chance if None.
  """
  # The same film with and without air differs by the air alone.
  random, clutter, exposure = random.spawn(3)
  canvas = Canvas(pose.size)
  lungs = [lung(side, patient, pose) for side in (-1, 1)]
  inside = canvas.polygons(lungs)
  lobe = inside if air is None else cv2.subtract(inside, air.mask_u8)
  soft = _soft_tissue(canvas, patient, pose, inside, random)
  film = canvas.enlarge(soft)
  aerated = canvas.blur(inside, 2.2).astype(np.float32)
  aerated *= 0.30 / 255 if not patient.emphysema else 0.34 / 255
  film -= aerated * canvas.enlarge(
    0.72 + 0.28 * canvas.blur(canvas.shrink(inside), 45) / 255
  )
  film += _organs(canvas, patient, pose) * np.float32(0.27 / 255)
  marks = _vessels(canvas, patient, pose, random)
  marks = cv2.bitwise_and(canvas.blur(marks, 1.4), lobe)
  film += marks * np.float32(
    random.uniform(0.06, 0.10) * (0.6 if patient.emphysema else 1) / 255
  )
  film += canvas.enlarge(_haze(canvas, pose, random)) * (
    lobe * np.float32(1 / 255)
  )
  frame = cv2.add(
    bones.ribs(canvas, patient, pose), bones.girdle(canvas, pose, random)
  )
  film += canvas.layer(frame, 1.3, 0.12)
  film += canvas.layer(bones.spine(canvas, pose), 2.5, 0.11)
  if air is not None:
    film -= canvas.blur(air.mask_u8, 1.2) * np.float32(air.contrast / 255)
    film += lobe * np.float32(air.collapse / 255)
    line = canvas.lines(air.pleura, 2.2)
    film += canvas.blur(line, 0.8) * np.float32(air.line / 255)
  film += devices.draw(canvas, pose, air, clutter, drained=drained)
  return _develop(film, pose, exposure)


def _soft_tissue(canvas, patient, pose, inside, random) -> np.ndarray:
  """Body, mediastinum and abdomen without detail, at a quarter of the size."""
  chest = 1.16 + 0.16 * patient.fat
  arm = random.uniform(0.95, 1.5)
  half = [
    (0.0, -0.7), (0.28, -0.7), (0.27, -0.3), (0.30, -0.18), (0.46, -0.11),
    (0.9, -0.075), (1.3, -0.03), (1.7, 0.05), (2.3, 0.3), (2.3, 0.9),
    (arm + 0.6, 0.85), (chest + 0.14, 0.32), (chest, 0.5), (chest, 0.8),
    (chest + 0.02, 1.2), (chest + 0.05, 1.8), (0.0, 1.8),
  ]  # fmt: skip
  body = canvas.coarse([pose(mirrored(spline(half), side)) for side in (-1, 1)])
  tissue = 0.40 * canvas.blur(body, 10) + 0.22 * canvas.blur(body, 60)
  lungs = canvas.shrink(inside)
  domes = [
    pose(
      mirrored([(0, 0.9), *FLOOR[::-1], WALL[-1], (1.1, 1.9), (0, 1.9)], side)
    )
    for side in (-1, 1)
  ]
  abdomen = cv2.subtract(canvas.coarse(domes), lungs)
  tissue += 0.16 * canvas.blur(abdomen, 5)
  for reach in (0.05, 0.028):
    airway = [(-reach, -0.5), (reach, -0.5), (reach, 0.34), (-reach, 0.34)]
    tissue -= 0.045 * canvas.blur(canvas.coarse([pose(airway)]), 4)
  if patient.female:
    drop = random.uniform(0.72, 0.88)
    breasts = [
      pose(canvas.ellipse((side * 0.62, drop), (0.46, 0.2), 0.1 * side))
      for side in (-1, 1)
    ]
    breast = canvas.blur(canvas.coarse(breasts), 4)
    tissue += (0.04 + 0.06 * patient.fat) * breast
  stomach = canvas.ellipse(
    (random.uniform(0.4, 0.6), 0.98), (random.uniform(0.08, 0.26), 0.05), 0
  )
  tissue -= 0.13 * canvas.blur(canvas.coarse([pose(stomach)]), 4)
  bowel = [
    pose(canvas.ellipse(center, radii, 0.0))
    for center, radii in zip(
      random.uniform((-0.8, 1.12), (0.8, 1.45), (5, 2)),
      random.uniform((0.03, 0.015), (0.13, 0.05), (5, 2)),
      strict=True,
    )
  ]
  tissue -= 0.06 * canvas.blur(canvas.coarse(bowel), 9)
  tilt = np.linspace(-1, 1, tissue.shape[0])
  tissue += 255 * (random.normal(0, 0.02) * tilt)
  tissue += 255 * (random.normal(0, 0.025) * tilt[:, None])
  return (tissue / 255).astype(np.float32)


def _organs(canvas, patient, pose) -> np.ndarray:
  """Mediastinum, heart, aortic knob and the roots of the lungs, f32[S, S]."""
  scale = patient.heart * (1.18 if pose.portable else 1.0)
  left = [
    (-0.10, 0.35), (0.16, 0.42), (0.28 * scale, 0.55), (0.42 * scale, 0.70),
    (0.52 * scale, 0.81), (0.46 * scale, 0.86), (0.10, 0.89),
    (-0.22 * scale, 0.87), (-0.30 * scale, 0.78), (-0.28 * scale, 0.66),
    (-0.20, 0.52),
  ]  # fmt: skip
  middle = [
    (-0.1, -0.7), (0.1, -0.7), (0.14, 0.0), (0.19, 0.14), (0.2, 0.3),
    (0.17, 0.36), (0.2, 0.5), (0.14, 0.9), (0.1, 1.9), (-0.1, 1.9),
    (-0.14, 0.9), (-0.19, 0.5), (-0.2, 0.3), (-0.18, 0.14), (-0.14, 0.0),
  ]  # fmt: skip
  middle = canvas.coarse([pose(spline(middle, closed=True))])
  layer = canvas.enlarge(canvas.blur(middle, 8) * np.float32(165 / 255))
  heart = canvas.polygons([pose(spline(left, closed=True))], 215)
  parts = [
    ((0.15, 0.25), (0.11, 0.065), 0.0),
    ((0.21, 0.41), (0.09, 0.05), 0.5),
    ((-0.23, 0.47), (0.07, 0.07), 0.3),
    ((0.24, 0.46), (0.06, 0.06), 0.3),
  ]
  roots = [pose(canvas.ellipse(*part)) for part in parts]
  bright = cv2.max(heart, canvas.polygons(roots, 120))
  return cv2.max(layer, canvas.blur(bright, 4.5).astype(np.float32))


def _haze(canvas, pose, random) -> np.ndarray:
  """The lung's grain and cloudy opacities, f32 at a quarter of the size."""
  side = canvas.size // 4
  grain = random.standard_normal((side, side), np.float32)
  cloud = random.standard_normal((side // 8, side // 8), np.float32)
  haze = 0.011 * cv2.GaussianBlur(grain, (0, 0), 0.7)
  haze += cv2.resize(cloud, (side, side), interpolation=cv2.INTER_CUBIC) * (
    0.018 if pose.portable else 0.008
  )
  for _ in range(random.poisson(1.2 if pose.portable else 0.25)):
    center = (random.choice((-1, 1)) * random.uniform(0.3, 0.8),
              random.uniform(0.3, 0.95))  # fmt: skip
    spot = canvas.ellipse(center, random.uniform(0.06, 0.28, 2), 0.0)
    blurred = canvas.blur(canvas.coarse([pose(spot)]), 30)
    haze += np.float32(random.uniform(0.05, 0.18) / 255) * blurred
  return haze


def _vessels(canvas, patient, pose, random) -> np.ndarray:
  """Vessels that leave the hila and divide, thinning out, uint8[S, S]."""
  layer = canvas.blank()
  fine = np.random.default_rng((*patient.seed, 7))
  drawn = []
  for side in (-1, 1):
    heading = np.linspace(-1.35, 1.35, 13) + fine.normal(0, 0.1, 13)
    start = np.tile(HILUM, (13, 1)) + fine.normal(0, 0.03, (13, 2))
    length = fine.uniform(0.28, 0.5, 13)
    for thickness, gray in ((7, 190), (4.4, 165), (2.8, 140), (1.8, 120)):
      turns = fine.normal(0, 0.16, (6, heading.size)).cumsum(0) + heading
      step = np.stack([np.cos(turns), np.sin(turns) * 0.62], -1)
      path = start + (step * length[:, None] / 6).cumsum(0)
      path = np.concatenate([start[None], path]).swapaxes(0, 1)
      drawn.append((thickness, gray, pose(mirrored(path, side))))
      child = np.repeat(np.arange(heading.size), 3)
      knot = fine.integers(2, 7, child.size)
      start = path[child, knot]
      turn = fine.uniform(0.3, 0.85, child.size)
      sign = np.where(fine.random(child.size) < 0.5, -1, 1)
      heading = turns[knot - 1, child] + sign * turn
      length = length[child] * fine.uniform(0.4, 0.7, child.size)
  for thickness, gray, paths in sorted(drawn, key=lambda item: item[0]):
    canvas.lines(paths, thickness * 0.65, gray, layer)
    canvas.lines(paths[:, :4], thickness, gray, layer)
  return layer


def _develop(film, pose, random) -> np.ndarray:
  """Noise, exposure and the display curve: f32[S, S] to uint8[S, S]."""
  shape = (2, pose.size, pose.size)
  dice = np.frombuffer(random.bytes(np.prod(shape)), np.uint8).reshape(shape)
  noise = cv2.addWeighted(dice[0], 0.5, dice[1], 0.5, -127.5, dtype=cv2.CV_32F)
  film += noise * np.float32(random.uniform(0.004, 0.011) / 52)
  if pose.portable:
    gain, base = random.uniform(0.85, 1.1), random.uniform(0.02, 0.12)
  else:
    gain, base = random.uniform(1.1, 1.4), random.uniform(-0.12, 0.02)
  counts = cv2.addWeighted(
    film, gain * _COUNTS, film, 0, base * _COUNTS, dtype=cv2.CV_16U
  )
  return _curve()[counts]


@functools.cache
def _curve() -> np.ndarray:
  """Gray level of every count, uint8[65536]: linear with a shoulder.

  The shoulder keeps dense parts below white, and their detail.
  """
  dose = np.arange(1 << 16) / _COUNTS
  over = np.maximum(dose - 0.6, 0)
  return (255 * (dose - over + 0.38 * (1 - np.exp(-2.2 * over)))).astype(
    np.uint8
  )
