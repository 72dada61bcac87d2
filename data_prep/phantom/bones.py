"""The bones of a phantom, each kind a layer uint8[S, S]."""

import cv2
import numpy as np

from data_prep.phantom.anatomy import WALL, mirrored
from data_prep.phantom.canvas import spline

NUM_RIBS = 10


def ribs(canvas, patient, pose) -> np.ndarray:
  """Posterior and (fainter) anterior arcs with dense rims, uint8[S, S]."""
  layer = canvas.blank()
  number = np.arange(NUM_RIBS)[:, None]
  top = 0.005 + 0.096 * number + 0.0006 * number**2
  wall = np.array(WALL)
  across = np.linspace(0, 1, 15)
  half = 0.017 + 0.0008 * number
  for gray, front in ((70, True), (125, False)):
    fill, rims = canvas.blank(), canvas.blank()
    for side in (-1, 1):
      drop = patient.rib_slope * (0.5 + 0.05 * number)
      turn = top + drop + 0.075
      reach = np.interp(turn, wall[:, 1], wall[:, 0]) + 0.035
      if front:
        u = reach - (reach - 0.38) * across
        v = turn + (0.17 + 0.004 * number) * across**0.8
      else:
        u = 0.10 + (reach - 0.10) * np.sin(across * np.pi / 2) ** 0.9
        v = top - 0.025 * np.sin(across * np.pi) + (drop + 0.075) * across**2.2
      # Narrower where it bends away from the beam.
      edge = half * (0.8 + 0.2 * np.cos(across * np.pi / 2))
      upper = pose(mirrored(np.stack([u, v - edge], -1), side))
      lower = pose(mirrored(np.stack([u, v + edge], -1), side))
      if front:  # The lowest ones end in gristle, which casts no shadow.
        upper, lower = upper[:6], lower[:6]
      bands = np.concatenate([upper, lower[:, ::-1]], axis=1)
      canvas.polygons(bands, gray, fill)
      canvas.lines(lower, 3, gray * 0.5, rims)
      canvas.lines(upper, 2, gray * 0.3, rims)
    layer = cv2.add(layer, cv2.add(fill, rims))
  for side in (-1, 1):
    cage = spline(wall[1:] * (1.035, 1.0) + (0, -0.012))
    canvas.lines([pose(mirrored(cage, side))], 5, 190, layer)
  return layer


def girdle(canvas, pose, random) -> np.ndarray:
  """Clavicles, shoulder blades and upper arms, uint8[S, S]."""
  layer = canvas.blank()
  rise = random.uniform(-0.08, 0.05)
  blade = random.uniform(0.86, 1.08)
  for side in (-1, 1):
    upper = [(0.12, 0.135), (0.35, 0.105), (0.62, 0.06 + rise / 2),
             (0.9, 0.02 + rise), (1.42, -0.01 + rise)]  # fmt: skip
    lower = [(u, v + 0.05 - 0.012 * u) for u, v in upper]
    bone = np.concatenate([spline(upper), spline(lower)[::-1]])
    canvas.polygons([pose(mirrored(bone, side))], 120, layer)
    canvas.lines([pose(mirrored(spline(lower), side))], 3, 170, layer)
    scapula = [(blade, 0.13), (blade + 0.06, 0.4), (blade + 0.14, 0.62),
               (blade + 0.26, 0.4), (blade + 0.4, 0.12)]  # fmt: skip
    plate = canvas.polygons([pose(mirrored(scapula, side))], 45)
    canvas.lines([pose(mirrored(scapula[1:], side))], 7, 90, plate)
    canvas.lines([pose(mirrored(scapula[:3], side))], 3, 70, plate)
    head = canvas.ellipse((1.5, 0.10), (0.17, 0.1), 0.0)
    shaft = [(1.45, 0.1), (1.68, 0.1), (1.95, 0.8), (1.78, 0.8)]
    arm = canvas.polygons(
      [pose(mirrored(head, side)), pose(mirrored(shaft, side))], 110
    )
    layer = cv2.add(layer, cv2.max(plate, arm))
  return layer


def spine(canvas, pose) -> np.ndarray:
  """Vertebrae with discs between them and their pedicles, uint8[S, S]."""
  layer = canvas.blank()
  middles = np.arange(-0.35, 1.7, 0.083)
  reach = 0.085 + 0.03 * np.clip(middles, 0, 1)
  for middle, half in zip(middles, reach, strict=True):
    body = [(-half, middle - 0.032), (half, middle - 0.032),
            (half * 0.92, middle), (half, middle + 0.032),
            (-half, middle + 0.032), (-half * 0.92, middle)]  # fmt: skip
    canvas.polygons([pose(body)], 150, layer)
    canvas.lines([pose(body[:2]), pose(body[3:5])], 3, 230, layer)
    pedicles = [
      pose(canvas.ellipse((side * half * 0.6, middle), (0.02, 0.013), 0))
      for side in (-1, 1)
    ]
    canvas.polygons(pedicles, 215, layer)
  return layer
