"""Whether the spread over networks predicts which images are wrong."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from pnx_jax.formats import files
from pnx_jax.formats.schema import Record
from pnx_jax.metrics import influence, intervals
from pnx_jax.metrics.bootstrap import Interval
from pnx_jax.metrics.summary import Images

NUM_QUINTILES = 5
COLUMNS = ('image_id', 'probability', 'spread', 'quintile', 'wrong')


@dataclasses.dataclass(frozen=True)
class Quintile:
  """Images of similar spread.

  Attributes:
    low: Smallest spread.
    high: Largest spread.
    num_images: How many.
    num_wrong: Whose mask is empty and should not be, or the reverse.
    error_rate: Share of them.
    interval: Of the share.
  """

  low: float
  high: float
  num_images: int
  num_wrong: int
  error_rate: float
  interval: Interval


@dataclasses.dataclass(frozen=True)
class Uncertainty:
  """The spread of every image and the errors by it.

  Attributes:
    spread: f64[N], standard deviation over networks of the probability.
    quintile: int[N], from 1, the smallest.
    quintiles: By their number.
  """

  spread: np.ndarray
  quintile: np.ndarray
  quintiles: dict[int, Quintile]


def summarize(spread: np.ndarray, images: Images) -> Uncertainty:
  """Errors by quintile of spread f64[N]; equal values share a quintile."""
  shares = np.linspace(0, 1, NUM_QUINTILES + 1)[1:-1]
  quintile = 1 + np.searchsorted(np.quantile(spread, shares), spread)
  wrong = images.predicted != images.label
  found = {}
  for number in np.unique(quintile).tolist():
    chosen = quintile == number
    share = influence.mean(wrong, chosen)
    found[number] = Quintile(
      float(spread[chosen].min()),
      float(spread[chosen].max()),
      int(chosen.sum()),
      int(wrong[chosen].sum()),
      share.value,
      intervals.wilson(share, images.patient),
    )
  return Uncertainty(spread, quintile, found)


def write(
  path: str | os.PathLike[str],
  found: Uncertainty,
  records: Sequence[Record],
  images: Images,
) -> None:
  """Writes uncertainty.csv, one row per image.

  Raises:
    UserError: The file cannot be written.
  """
  rows = (
    (
      record.image_id,
      repr(float(images.probability[row])),
      repr(float(found.spread[row])),
      found.quintile[row],
      int(images.predicted[row] != images.label[row]),
    )
    for row, record in enumerate(records)
  )
  files.write_csv(path, COLUMNS, rows)
