"""Polygons as masks."""

from collections.abc import Sequence

import numpy as np

_NEAR = 1e-9


def mask(rings: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
  """Returns the mask of a polygon, bool[H, W].

  A pixel belongs to it if its center lies inside, by the even-odd rule, or on
  an outline; pixel centers have whole coordinates. A ring within another one
  is a hole, and its outline belongs to the mask.

  Args:
    rings: Outlines f[N, 2] of x and y, closed without repeating a point.
    height: Rows of the film.
    width: Columns.

  Raises:
    ValueError: A ring has fewer than three points, or one that is not finite.
  """
  edges = []
  for ring in rings:
    points = np.asarray(ring, float)
    if points.ndim != 2 or len(points) < 3 or not np.isfinite(points).all():
      raise ValueError('a polygon has at least three points of two numbers')
    edges.append(np.stack([points, np.roll(points, -1, axis=0)], axis=1))
  start, stop = np.concatenate(edges).swapaxes(0, 1)
  result = np.zeros((height, width), bool)
  low, high = (
    np.minimum(start[:, 1], stop[:, 1]),
    np.maximum(start[:, 1], stop[:, 1]),
  )
  for row in range(
    max(0, int(np.ceil(low.min()))), min(height, int(high.max()) + 1)
  ):
    near = (low <= row) & (high >= row)
    (x1, y1), (x2, y2) = start[near].T, stop[near].T
    crosses = (y1 <= row) != (y2 <= row)
    share = (row - y1[crosses]) / (y2[crosses] - y1[crosses])
    places = np.sort(x1[crosses] + share * (x2[crosses] - x1[crosses]))
    spans = [*zip(places[::2], places[1::2], strict=True)]
    flat = (y1 == row) & (y2 == row)
    spans += zip(x1[flat], x2[flat], strict=True)
    # Corners that touch the row without crossing it.
    spans += ((x, x) for x in np.concatenate([x1[y1 == row], x2[y2 == row]]))
    for one, other in spans:
      first = max(0, int(np.ceil(min(one, other) - _NEAR)))
      last = min(width - 1, int(np.floor(max(one, other) + _NEAR)))
      result[row, first : max(last + 1, 0)] = True
  return result
