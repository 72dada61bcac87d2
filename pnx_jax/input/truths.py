"""What the losses may use of each image, where not every mask is known.

The weights say which images have the truth of a loss, and are so scaled that
the mean over an update of weight times loss is the mean over these images,
whatever the number of devices, processes and accumulated batches: the schedule
is a pure function, so every process knows all images of an update.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from pnx_jax.formats import schema


@dataclasses.dataclass(frozen=True, eq=False)
class TruthFields:
  """Makes the fields of an example that tell what is known of it.

  Attributes:
    mask: bool[N], the records of which some pixels' truth is known.
    presence: bool[N], the records that train the presence head.
    label: f32[N], 1 where the record has a pneumothorax; None where that is to
      be read off the label.
    record: Returns the record at a position of the sequence.
    images_per_update: Positions over which the losses are averaged.
  """

  mask: np.ndarray
  presence: np.ndarray
  label: np.ndarray | None
  record: Callable[[int], int]
  images_per_update: int

  def __call__(self, position: int) -> dict[str, np.ndarray]:
    """Returns `mask_weight`, `presence_weight` and perhaps `presence`: f32[].

    Args:
      position: In the sequence.
    """
    mask_scale, presence_scale = self._scales(
      position // self.images_per_update
    )
    index = self.record(position)
    fields = {
      'mask_weight': np.float32(mask_scale * self.mask[index]),
      'presence_weight': np.float32(presence_scale * self.presence[index]),
    }
    if self.label is not None:
      fields['presence'] = self.label[index]
    return fields

  @functools.lru_cache(maxsize=64)  # noqa: B019 (as long-lived as a run)
  def _scales(self, update: int) -> tuple[float, float]:
    """Returns images over images with the truth, of mask and presence."""
    size = self.images_per_update
    records = [
      self.record(position)
      for position in range(update * size, (update + 1) * size)
    ]
    return (
      size / max(1, np.count_nonzero(self.mask[records])),
      size / max(1, np.count_nonzero(self.presence[records])),
    )


def mask_known(truth: np.ndarray, label: np.ndarray) -> np.ndarray:
  """Returns bool[N]: whether every pixel's truth is known.

  Without a pneumothorax it is.
  """
  return (truth == schema.MASK) | (label == schema.NEGATIVE)


def partly_known(truth: np.ndarray, boxes_exhaustive: np.ndarray) -> np.ndarray:
  """Returns bool[N]: whether all pixels outside of boxes are known to be empty.

  Args:
    truth: [N], the field of the records.
    boxes_exhaustive: i32[N]
  """
  return (truth == schema.BOX) & (boxes_exhaustive == 1)
