"""An ensemble over the images of a dataset, in bounded memory."""

import dataclasses
import functools
import itertools
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pnx_jax.evaluation.kept_masks import KeptMasks
from pnx_jax.formats import schema
from pnx_jax.input import pipeline
from pnx_jax.metrics.dice import threshold_areas
from pnx_jax.prediction.ensemble import Ensemble
from pnx_jax.prediction.network import SIZE
from pnx_jax.training import sharding
from pnx_jax.training.progress import Progress

_logger = logging.getLogger(__name__)

# Images whose sums of probabilities are kept at a time: 4 MiB each.
_CHUNK = 128
_LOG_SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class Subset:
  """Some images of a dataset, as a dataset."""

  dataset: pipeline.Dataset
  indices: Sequence[int]

  def __len__(self) -> int:
    return len(self.indices)

  @functools.cached_property
  def records(self) -> list[schema.Record]:
    """The fields of every record, read once: every image asks for its own."""
    return [self.dataset.records[index] for index in self.indices]

  def read_ahead(self, indices: Iterable[int]) -> None:
    """See `Dataset`."""
    self.dataset.read_ahead(self.indices[index] for index in indices)

  def image(self, index: int, size: int) -> np.ndarray:
    """The radiograph as uint8[size, size]."""
    return self.dataset.image(self.indices[index], size)

  def label(self, index: int, size: int) -> np.ndarray:
    """The annotated mask as bool[size, size]."""
    return self.dataset.label(self.indices[index], size)


@dataclasses.dataclass(frozen=True)
class DatasetPredictor:
  """Predicts all images of a dataset.

  Attributes:
    ensemble: which; on a mesh.
    loader: batch size and threads.
  """

  ensemble: Ensemble
  loader: pipeline.Loader

  def statistics(
    self, dataset: pipeline.Dataset | Subset, *, kept: KeptMasks | None = None
  ) -> dict[str, np.ndarray]:
    """What is counted of every image, in order.

    Args:
      dataset: The images.
      kept: Takes their candidate masks too.

    Returns:
      Arrays of N rows: the areas over all thresholds by name, see
      `metrics.dice.threshold_areas`, `probability`, and `spread` of several
      networks.
    """
    parts, records = [], iter(dataset.records)
    for batch, mean in self._means(dataset, truth_size=SIZE):
      parts.append(jax.device_get(_areas(self.ensemble.mesh)(mean, batch)))
      if kept is not None:
        probs, _, valid = jax.device_get(
          _everywhere(self.ensemble.mesh)(mean, batch)
        )
        kept.add(
          list(itertools.islice(records, int(valid.sum()))), probs[valid]
        )
    valid = np.concatenate([part.pop('valid') for part in parts])
    return {
      name: np.concatenate([part[name] for part in parts])[valid]
      for name in parts[0]
    }

  def probabilities(
    self, dataset: pipeline.Dataset | Subset
  ) -> Iterator[tuple[np.ndarray, float]]:
    """Yields `probs` f32[SIZE, SIZE] and `probability` of every image."""
    for batch, mean in self._means(dataset):
      found = jax.device_get(_everywhere(self.ensemble.mesh)(mean, batch))
      for probs, probability, valid in zip(*found, strict=True):
        if valid:
          yield probs, float(probability)

  def _means(self, dataset, truth_size=None):
    """Batches on the devices, and their means over all networks."""
    several = len(self.ensemble.networks) > 1
    chunk = _CHUNK if several else max(1, len(dataset))
    progress = Progress(first_step=0, total_steps=len(dataset), batch_size=1)
    logged = time.monotonic()
    for first in range(0, len(dataset), chunk):
      last = min(first + chunk, len(dataset))
      part = Subset(dataset, range(first, last))

      def batches(network, is_last, part=part):
        made = pipeline.evaluation_batches(
          part,
          image_size=network.image_size,
          loader=self.loader,
          truth_size=truth_size if is_last else None,
        )
        return sharding.prefetch(made, self.ensemble.mesh)

      done = first
      for batch, mean in self.ensemble.means(batches):
        yield batch, mean
        done = min(done + len(batch['valid']), last)
        if time.monotonic() >= logged + _LOG_SECONDS:
          logged = time.monotonic()
          progress.report(done)
          _logger.info(
            'Predicted %d of %d images, %s left.',
            done,
            len(dataset),
            progress.remaining,
          )


@functools.cache
def _areas(mesh) -> Any:
  return jax.jit(_count_areas, out_shardings=sharding.replicated(mesh))


@functools.cache
def _everywhere(mesh) -> Any:
  """Every process gets the probabilities of all images."""
  return jax.jit(
    lambda mean, batch: (mean['probs'], mean['probability'], batch['valid']),
    out_shardings=sharding.replicated(mesh),
  )


def _count_areas(mean, batch):
  probs = mean['probs'] * _inside(batch['place'])
  areas = threshold_areas(probs, batch['truth'])
  return {
    **areas,
    **{name: x for name, x in mean.items() if name != 'probs'},
    'valid': batch['valid'],
  }


def _inside(place):
  """Where films lie, bool[B, SIZE, SIZE]; `place` is i32[B, 4]."""
  at = jnp.arange(SIZE)[None]
  top, left, height, width = jnp.split(place, 4, axis=1)
  rows = (at >= top) & (at < top + height)
  columns = (at >= left) & (at < left + width)
  return rows[:, :, None] & columns[:, None, :]
