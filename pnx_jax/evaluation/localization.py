"""Predicted regions against annotated boxes, of films without a known mask.

As in Wang et al., ChestX-ray8, 2017 (arXiv:1705.02315): the intersection over
the detected box (IoBB) is the part of a predicted region's box that lies inside
of an annotated one. Annotated boxes are larger than the pneumothorax in them,
so the intersection over the union would punish an exact mask.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from pnx_jax.evaluation.tables import Metrics
from pnx_jax.formats import schema
from pnx_jax.formats.schema import Record
from pnx_jax.metrics import bootstrap
from pnx_jax.metrics.averages import divide

# A box is hit from these intersections over the detected box on.
LEVELS = (0.1, 0.25, 0.5)
TITLES = {
  **{
    f'box_hit_rate_{100 * level:.0f}': (
      f'hit rate of annotated boxes, IoBB of {level:g} or more'
    )
    for level in LEVELS
  },
  'box_iobb': 'IoBB of the best detected box, mean over annotated ones',
  'box_false_positives': 'detected boxes that hit none, per film',
}


def summarize(
  records: Sequence[Record],
  detected: Iterable[tuple[str | int, ...]],
  *,
  replicates: int,
) -> Metrics | None:
  """Scores the films whose truth is boxes.

  Args:
    records: N records.
    detected: Image id, x, y, width, height and area of every predicted region,
      in pixels of the film.
    replicates: Of the bootstrap over patients.

  Returns:
    The metrics in `TITLES`, over annotated boxes but for the last one, with
    `num_box_images` and `num_boxes`; None where no film has this truth.
  """
  boxed = [record for record in records if record.truth == schema.BOX]
  if not boxed:
    return None
  found: dict[str, list[tuple[int, ...]]] = {}
  for image_id, *box in detected:
    found.setdefault(str(image_id), []).append(tuple(map(int, box)))
  none: list[tuple[int, ...]] = []
  tables = [
    _overlaps(record.boxes, np.array(found.get(record.image_id, none)))
    for record in boxed
  ]
  # Of each annotated box the best detected one; 0 where nothing is detected.
  best = [table.max(axis=1, initial=0) for table in tables]
  count = np.array([len(record.boxes) for record in boxed], np.float64)
  sums = {
    f'box_hit_rate_{100 * level:.0f}': [(x >= level).sum() for x in best]
    for level in LEVELS
  }
  sums['box_iobb'] = [x.sum() for x in best]
  false = np.array(
    [(x.max(axis=0, initial=0) < LEVELS[0]).sum() for x in tables], np.float64
  )

  def metrics(weights: np.ndarray) -> dict[str, np.ndarray]:
    boxes, films = weights @ count, weights.sum(axis=1)
    ratios = {
      name: divide(weights @ np.array(values, np.float64), boxes)
      for name, values in sums.items()
    }
    return {**ratios, 'box_false_positives': divide(weights @ false, films)}

  values = metrics(np.ones((1, len(boxed))))
  return Metrics(
    {
      **{name: float(value[0]) for name, value in values.items()},
      'num_box_images': len(boxed),
      'num_boxes': int(count.sum()),
    },
    bootstrap.cluster_bootstrap(
      metrics,
      np.array([record.patient for record in boxed]),
      replicates=replicates,
    ),
  )


def _overlaps(annotated: np.ndarray, detected: np.ndarray) -> np.ndarray:
  """Returns the part of each detected box inside of each annotated one.

  Args:
    annotated: int[A, 5], x, y, width and height first.
    detected: int[D, 5], likewise, or of any shape without content.

  Returns:
    f64[A, D].
  """
  if not detected.size:
    return np.zeros((len(annotated), 0))
  inside = np.ones((len(annotated), len(detected)))
  for axis in (0, 1):
    start = np.maximum.outer(annotated[:, axis], detected[:, axis])
    stop = np.minimum.outer(
      annotated[:, axis] + annotated[:, axis + 2],
      detected[:, axis] + detected[:, axis + 2],
    )
    inside *= np.maximum(stop - start, 0)
  return inside / (detected[:, 2] * detected[:, 3])
