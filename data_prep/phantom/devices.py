"""What else is on a film: drains, catheters, electrodes, folds, markers."""

import numpy as np

from data_prep.phantom.canvas import spline

# Share of films with a drain: with a pneumothorax, and without.
DRAIN_WITH_AIR, DRAIN_WITHOUT_AIR = 0.3, 0.06


def draw(canvas, pose, air, random, *, drained: bool | None) -> np.ndarray:
  """Brightness to add, f32[S, S].

  Args:
    canvas: The film.
    pose: How the film lies.
    air: The `Pneumothorax` drawn into it, or None.
    random: Generator.
    drained: Whether there is a drain; by chance if None.
  """
  layer = canvas.blank()
  sick = pose.portable
  chance = random.random()
  if drained is None:
    drained = chance < (DRAIN_WITH_AIR if air else DRAIN_WITHOUT_AIR)
  if drained:
    side = air.sides[0] if air else random.choice((-1, 1))
    _drain(canvas, pose, side, layer, random)
  if random.random() < (0.35 if sick else 0.05):
    _catheter(canvas, pose, layer, random)
  if random.random() < (0.25 if sick else 0.02):
    _tube(canvas, pose, layer, random)
  if random.random() < (0.5 if sick else 0.08):
    _electrodes(canvas, pose, layer, random)
  bright = canvas.layer(layer, 0.8, 0.32)
  if random.random() < 0.15:
    bright += _fold(canvas, pose, random)
  return bright + _marker(canvas, pose, random)


def _drain(canvas, pose, side, layer, random):
  """A chest tube from the lateral wall up to the apex."""
  entry = random.uniform(0.45, 0.85)
  tip = (random.uniform(0.3, 0.6), random.uniform(0.06, 0.3))
  path = spline([
    (1.5, entry + 0.25), (1.12, entry + 0.06), (0.88, entry - 0.06),
    (random.uniform(0.6, 0.85), (entry + tip[1]) / 2), tip,
  ])  # fmt: skip
  path[:, 0] *= side
  for shift in (-0.013, 0.013):
    canvas.lines([pose(path + np.array([shift, 0]))], 2.5, 150, layer)
  canvas.lines([pose(path)], 2, 255, layer)


def _catheter(canvas, pose, layer, random):
  """A central line from the neck or the arm to the superior vena cava."""
  side = random.choice((-1, 1))
  end = (-0.13, random.uniform(0.35, 0.5))
  if random.random() < 0.5:
    path = [(side * 0.2, -0.35), (side * 0.16, -0.05), (-0.1, 0.15), end]
  else:
    path = [(side * 1.5, 0.25), (side * 0.9, 0.07), (side * 0.35, 0.12),
            (-0.1, 0.2), end]  # fmt: skip
  canvas.lines([pose(spline(path))], 2.5, 190, layer)


def _tube(canvas, pose, layer, random):
  """An endotracheal tube, sometimes with a gastric tube beside it."""
  end = random.uniform(0.12, 0.26)
  for shift in (-0.022, 0.022):
    path = [(shift, -0.6), (shift + 0.01, -0.1), (shift, end)]
    canvas.lines([pose(spline(path))], 2, 150, layer)
  if random.random() < 0.6:
    path = [(0.03, -0.6), (0.05, 0.2), (0.04, 0.7), (0.2, 1.0), (0.45, 1.1)]
    canvas.lines([pose(spline(path))], 3, 170, layer)


def _electrodes(canvas, pose, layer, random):
  """Patches of the electrocardiogram and their cables."""
  for side in (-1, 1):
    place = (side * random.uniform(0.5, 1.0), random.uniform(0.05, 0.7))
    disc = canvas.ellipse(place, (0.035, 0.021), random.uniform(0, 3))
    canvas.polygons([pose(disc)], 150, layer)
    end = np.array([side * random.uniform(0.7, 1.6), 1.6])
    middle = (place + end) / 2 + random.normal(0, 0.15, 2)
    canvas.lines([pose(spline([place, middle, end]))], 2, 130, layer)


def _fold(canvas, pose, random) -> np.ndarray:
  """A fold of skin: a dark edge like a pleural line, with vessels beyond."""
  side = random.choice((-1, 1))
  u = random.uniform(0.5, 0.95)
  top = random.uniform(-0.05, 0.3)
  edge = spline([
    (side * (u - 0.12), top), (side * u, top + 0.3),
    (side * (u + random.uniform(-0.05, 0.1)), top + 0.65),
  ])  # fmt: skip
  inner = edge - (side * 0.12, 0)
  band = canvas.polygons([pose(np.concatenate([edge, inner[::-1]]))])
  ramp = canvas.blur(band, 14) * (band / np.float32(255))
  return ramp * np.float32(0.05 / 255)


def _marker(canvas, pose, random) -> np.ndarray:
  """The lead letter on the patient's left, and the word on portable films."""
  layer = canvas.blank()
  size = canvas.size
  x, y = random.uniform(0.86, 0.95), random.uniform(0.03, 0.2)
  high, wide = 0.035, 0.02
  strokes = [np.array([(x, y), (x, y + high), (x + wide, y + high)]) * size]
  canvas.lines(strokes, 6, 255, layer)
  if pose.portable and random.random() < 0.7:
    mark = np.array([(0.72, 0.02), (0.70, 0.045), (0.74, 0.045)]) * size
    canvas.polygons([mark], 240, layer)
    stem = np.array([(0.72, 0.045), (0.72, 0.07)]) * size
    canvas.lines([stem], 9, 240, layer)
  return canvas.layer(layer, 0.7, 0.8)
