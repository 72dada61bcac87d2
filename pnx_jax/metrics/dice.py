"""The competition's Dice, from areas that are counted on the device.

An image whose truth is empty scores 1 if the prediction is empty too, else 0;
every other image scores 2 |A and B| / (|A| + |B|). The score is the mean over
images. Areas are counted at many thresholds in one pass, so that every
post-processing rule can be scored later without the network (see rules.py).
"""

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import clu.metrics
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

_Array = TypeVar('_Array', jax.Array, np.ndarray)

# The thresholds at which areas are counted: `probs > threshold`.
THRESHOLDS = (
  *(0.001, 0.003, 0.01, 0.02, 0.03),
  *(percent / 100 for percent in range(5, 75, 5)),
  *(0.72, 0.75, 0.8, 0.85, 0.9, 0.95),
  *(0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995),
)


def threshold_areas(probs: jax.Array, label: jax.Array) -> dict[str, jax.Array]:
  """Areas in pixels of truth, prediction and intersection at THRESHOLDS.

  A histogram: each pixel is counted once, in the bin between two thresholds,
  and the bins are summed from above. Counters are kept per row, which spares
  an accelerator from adding a whole image into one address.

  Args:
    probs: f32[B, H, W].
    label: bool[B, H, W].

  Returns:
    `truth_area` i32[B], `predicted_area` i32[B, T], `intersection` i32[B, T].

  Raises:
    ValueError: The shapes differ or are not [B, H, W].
  """
  if probs.ndim != 3 or probs.shape != label.shape:
    raise ValueError(f'Shapes differ: {probs.shape} and {label.shape}.')
  probs = probs.astype(jnp.float32)
  bins = sum((probs > level).astype(jnp.int32) for level in THRESHOLDS)
  num_bins = len(THRESHOLDS) + 1
  height = probs.shape[1]

  def histogram(bins: jax.Array, label: jax.Array) -> jax.Array:
    row = jnp.arange(height)[:, None]
    address = (row * 2 + label) * num_bins + bins
    counts = jnp.zeros(height * 2 * num_bins, jnp.int32)
    counts = counts.at[address.ravel()].add(1, mode='promise_in_bounds')
    return counts.reshape(height, 2, num_bins).sum(0)

  counts = jax.vmap(histogram)(bins, label)
  above = jnp.cumsum(counts[..., :0:-1], axis=-1)[..., ::-1]
  return {
    'truth_area': counts[:, 1].sum(-1),
    'predicted_area': above.sum(1),
    'intersection': above[:, 1],
  }


def dice(
  intersection: _Array, predicted_area: _Array, truth_area: _Array
) -> _Array:
  """The competition's Dice of each image, from areas [...] of one shape.

  Returns:
    jax.Array f32[...] for JAX arrays, np.ndarray f64[...] for numpy's.
  """
  is_jax = isinstance(intersection, jax.Array)
  xp, dtype = (jnp, jnp.float32) if is_jax else (np, np.float64)
  total = xp.asarray(predicted_area + truth_area)
  both = xp.asarray(intersection).astype(dtype)
  return xp.where(total == 0, 1, 2 * both / xp.where(total == 0, 1, total))


@flax.struct.dataclass
class MeanDice(clu.metrics.Average):
  """Mean Dice of all images."""

  @classmethod
  def from_model_output(
    cls,
    *,
    dice: jax.Array,
    mask: jax.Array | None = None,
    known: Mapping[str, jax.Array] | None = None,
    **_: Any,
  ) -> 'MeanDice':
    """From f32[B] and bool[B], see `SegmentationMetrics`."""
    mask = _counting('dice', mask, known)
    return super().from_model_output(dice, mask=mask)


@flax.struct.dataclass
class PositiveDice(clu.metrics.Average):
  """Mean Dice of the images that have a pneumothorax; NaN without any."""

  @classmethod
  def from_model_output(
    cls,
    *,
    dice: jax.Array,
    label: jax.Array,
    mask: jax.Array | None = None,
    known: Mapping[str, jax.Array] | None = None,
    **_: Any,
  ) -> 'PositiveDice':
    """From f32[B], bool[B] and bool[B], see `SegmentationMetrics`."""
    mask = _counting('dice', mask, known)
    positive = label if mask is None else label & mask
    return super().from_model_output(dice, mask=positive)


def _counting(
  name: str,
  mask: jax.Array | None,
  known: Mapping[str, jax.Array] | None,
) -> jax.Array | None:
  """Returns which images count for a metric, bool[B]; None for all."""
  if not known or name not in known:
    return mask
  return known[name] if mask is None else mask & known[name]


def _mean_of(name: str) -> type[clu.metrics.Average]:
  """Returns the mean of a loss over the images that count for it."""

  @flax.struct.dataclass
  class Mean(clu.metrics.Average):
    """Mean of the output of that name."""

    @classmethod
    def from_model_output(
      cls,
      *,
      mask: jax.Array | None = None,
      known: Mapping[str, jax.Array] | None = None,
      **outputs: jax.Array,
    ) -> 'Mean':
      """From f32[B] and bool[B], see `SegmentationMetrics`."""
      return super().from_model_output(
        jnp.array(outputs[name]), mask=_counting(name, mask, known)
      )

  return Mean


@flax.struct.dataclass
class SegmentationMetrics(clu.metrics.Collection):
  """Means over real images.

  `single_from_model_output` takes the keyword arguments `dice` f32[B], `label`
  bool[B] (the image has a pneumothorax), `mask` bool[B] (the image is real and
  not padding), f32[B] for each name given to `with_losses`, and `known`, which
  has bool[B] for 'dice' and losses that do not count all real images.
  """

  dice: MeanDice
  dice_positive: PositiveDice

  @classmethod
  def with_losses(cls, names: Collection[str]) -> type[clu.metrics.Collection]:
    """The collection with the mean of each loss in `names` added.

    Raises:
      ValueError: A loss has the name of a metric.
    """
    taken = sorted(set(names) & set(cls.__annotations__))
    if taken:
      raise ValueError(f'The loss {taken[0]!r} has the name of a metric.')
    losses = {name: _mean_of(name) for name in names}
    return cls.create(**cls.__annotations__, **losses)
