"""How far several annotations of one radiograph agree."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from pnx_jax.formats.schema import Record
from pnx_jax.metrics import influence, intervals
from pnx_jax.metrics.bootstrap import Interval


@dataclasses.dataclass(frozen=True)
class Agreement:
  """Of the radiographs that have several annotations.

  It is not the agreement of readers: an annotation does not tell who made it,
  and several may outline different regions on purpose.

  Attributes:
    num_images: How many these are.
    num_apart: Of them, those on which no two annotations overlap.
    dice: Mean over them of the mean Dice of two annotations.
    interval: Of that mean.
  """

  num_images: int
  num_apart: int
  dice: float
  interval: Interval


def summarize(records: Sequence[Record], patient: np.ndarray) -> Agreement:
  """The agreement on the evaluated images.

  Args:
    records: N images.
    patient: int[N].
  """
  dice = np.array([record.agreement for record in records], float)
  several = dice >= 0
  mean = influence.mean(dice, several)
  return Agreement(
    int(several.sum()),
    int((dice == 0).sum()),
    mean.value,
    intervals.wilson(mean, patient),
  )
