"""Distances between the outlines of two masks, exact in two dimensions.

The outline of a mask are its pixels with a neighbor above, below, left or right
that is not in it; beyond the border of the image nothing is. Distances run
between the centers of pixels. These are the conventions of MONAI's
`compute_hausdorff_distance`, `compute_average_surface_distance` and
`compute_surface_dice`.
"""

import dataclasses

import numpy as np
from scipy import spatial

_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class SurfaceDistances:
  """How far two outlines are from each other, in the unit of the spacing.

  Attributes:
    hausdorff_95: The larger of the 95th percentiles of the distances from each
      outline to the other; NaN if a mask is empty.
    mean: Mean distance of the pixels of both outlines to the other outline
      (average symmetric surface distance); NaN if a mask is empty.
    surface_dice: Share of the pixels of both outlines that lie within the
      tolerance of the other one (Nikolov et al. 2021, JMIR 23(7):e26151, there
      with sub-pixel outlines); 0 if one mask is empty, NaN if both are.
  """

  hausdorff_95: float
  mean: float
  surface_dice: float


def surface_distances(
  first: np.ndarray,
  second: np.ndarray,
  *,
  tolerance: float,
  spacing: tuple[float, float] = (1.0, 1.0),
) -> SurfaceDistances:
  """Compares two masks bool[H, W].

  Args:
    first: One mask.
    second: The other one.
    tolerance: Of the surface Dice, in the unit of the spacing.
    spacing: Distance between rows and between columns.

  Raises:
    ValueError: The masks differ in shape.
  """
  if first.shape != second.shape:
    raise ValueError(f'Shapes differ: {first.shape} and {second.shape}.')
  points = [outline(mask) * np.asarray(spacing) for mask in (first, second)]
  if not all(map(len, points)):
    dice = 0.0 if any(map(len, points)) else float('nan')
    return SurfaceDistances(float('nan'), float('nan'), dice)
  one, other = points
  to_other, _ = spatial.cKDTree(other).query(one)
  to_one, _ = spatial.cKDTree(one).query(other)
  both = np.concatenate([to_other, to_one])
  return SurfaceDistances(
    float(max(np.percentile(to_other, 95), np.percentile(to_one, 95))),
    float(both.mean()),
    float(np.mean(both <= tolerance + _ROUNDING)),
  )


def outline(mask: np.ndarray) -> np.ndarray:
  """Row and column of the pixels of a mask's outline: int[K, 2]."""
  rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
  if not len(rows):
    return np.zeros((0, 2), int)
  corner = rows[0], columns[0]
  part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
  around = np.pad(part, 1)
  inside = (
    around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
  )
  return np.argwhere(part & ~inside) + corner
