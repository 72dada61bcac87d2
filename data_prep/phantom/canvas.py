"""Layers of a phantom: polygons, strokes and blurs in pixels of the film."""

import cv2
import numpy as np

_SHIFT = 4  # binary digits of a pixel's fraction in OpenCV's coordinates


class Canvas:
  """Makes uint8 layers of one size; widths are in pixels at 1024."""

  def __init__(self, size: int):
    self.size = size
    self._scale = size / 1024

  def blank(self) -> np.ndarray:
    return np.zeros((self.size, self.size), np.uint8)

  def polygons(self, outlines, gray: float = 255, layer=None) -> np.ndarray:
    """Fills outlines, f64[N, 2] each, with soft edges."""
    layer = self.blank() if layer is None else layer
    for outline in outlines:
      cv2.fillPoly(layer, [_fixed(outline)], int(gray), cv2.LINE_AA, _SHIFT)
    return layer

  def lines(self, paths, width: float, gray: float = 255, layer=None):
    """Draws open paths, f64[N, 2] each; thin ones fade, none vanishes."""
    layer = self.blank() if layer is None else layer
    width *= self._scale
    cv2.polylines(
      layer,
      [_fixed(path) for path in paths]
      if isinstance(paths, list)
      else list(_fixed(paths)),
      False,
      int(gray * min(1, width)),
      max(1, round(width)),
      cv2.LINE_AA,
      _SHIFT,
    )
    return layer

  def coarse(self, outlines) -> np.ndarray:
    """Fills outlines on a layer of a quarter of the size: f32."""
    layer = np.zeros((self.size // 4, self.size // 4), np.uint8)
    for outline in outlines:
      cv2.fillPoly(
        layer, [_fixed(np.asarray(outline) / 4)], 255, cv2.LINE_AA, _SHIFT
      )
    return layer

  def blur(self, layer: np.ndarray, sigma: float) -> np.ndarray:
    """Blurs by `sigma` pixels at 1024, whatever the size of the layer."""
    sigma = sigma * layer.shape[0] / 1024
    if sigma < 0.3:
      return layer
    if layer.dtype == np.uint8 and layer.shape[0] < self.size:
      layer = layer.astype(np.float32)
    return cv2.GaussianBlur(layer, (0, 0), sigma)

  def layer(self, layer: np.ndarray, sigma: float, strength: float):
    """A blurred uint8 layer as f32 brightness of at most `strength`."""
    return self.blur(layer, sigma) * np.float32(strength / 255)

  def shrink(self, layer: np.ndarray) -> np.ndarray:
    side = self.size // 4
    return cv2.resize(layer, (side, side), interpolation=cv2.INTER_AREA)

  def enlarge(self, layer: np.ndarray) -> np.ndarray:
    return cv2.resize(
      layer, (self.size, self.size), interpolation=cv2.INTER_LINEAR
    )

  @staticmethod
  def ellipse(center, radii, angle: float) -> np.ndarray:
    """Outline of an ellipse, f64[32, 2]."""
    turn = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    x, y = radii[0] * np.cos(turn), radii[1] * np.sin(turn)
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.stack(
      [center[0] + cosine * x - sine * y, center[1] + sine * x + cosine * y],
      axis=-1,
    )


def spline(points, *, closed: bool = False, samples: int = 16) -> np.ndarray:
  """A smooth curve through points (Catmull-Rom), `samples` a stretch."""
  points = np.asarray(points, float)
  if closed:
    knots = np.concatenate([points[-1:], points, points[:2]])
  else:
    knots = np.concatenate([
      2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1],
    ])  # fmt: skip
  a, b, c, d = (knots[k : len(knots) - 3 + k, None] for k in range(4))
  t = np.linspace(0, 1, samples, endpoint=False)[:, None]
  curve = 0.5 * (
    2 * b
    + (c - a) * t
    + (2 * a - 5 * b + 4 * c - d) * t**2
    + (3 * b - a - 3 * c + d) * t**3
  )
  curve = curve.reshape(-1, 2)
  return curve if closed else np.concatenate([curve, points[-1:]])


def _fixed(points) -> np.ndarray:
  return np.round(np.asarray(points) * (1 << _SHIFT)).astype(np.int32)
