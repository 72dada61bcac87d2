"""Bootstrap intervals that resample patients, not images.

Several images of one patient are not independent evidence: in this data 2,669
positive images come from 802 patients. Percentile intervals of Efron and
Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from pnx_jax.metrics import averages

REPLICATES = 1000
# Fewer patients do not support an interval. A metric that k patients carry is
# undefined in about exp(-k) of the replicates, so the share of replicates in
# which it is defined tells how many patients carry it.
MIN_CLUSTERS = 5
_MIN_DEFINED = 1 - np.exp(-MIN_CLUSTERS)
# As many weights are drawn at a time: memory does not grow with the images.
_WEIGHTS_AT_A_TIME = 500_000

Interval = tuple[float, float] | None
_Key = TypeVar('_Key')


def cluster_weights(
  clusters: np.ndarray, *, replicates: int = REPLICATES, seed: int = 0
) -> np.ndarray:
  """How often each image is drawn in each replicate: f64[R, N].

  Args:
    clusters: [N]; images of one cluster are drawn together.
    replicates: R.
    seed: Seed of the draws.
  """
  drawn = _weights(clusters, replicates=replicates, seed=seed)
  return np.concatenate(list(drawn))


def samples(
  metrics: Callable[[np.ndarray], dict[_Key, np.ndarray]],
  clusters: np.ndarray,
  *,
  replicates: int = REPLICATES,
  seed: int = 0,
) -> dict[_Key, np.ndarray]:
  """Metrics of the images and of each replicate: f64[1 + R] by name.

  Args:
    metrics: Maps weights f64[r, N] to f64[r] by name, NaN where undefined. Is
      called with a few replicates at a time.
    clusters: [N], the patient of each image.
    replicates: R, how often patients are drawn with replacement.
    seed: Seed of the draws.
  """
  parts = [metrics(np.ones((1, len(clusters))))]
  for weights in _weights(clusters, replicates=replicates, seed=seed):
    parts.append(metrics(weights))
  return {name: np.concatenate([x[name] for x in parts]) for name in parts[0]}


def _weights(
  clusters: np.ndarray, *, replicates: int, seed: int
) -> Iterator[np.ndarray]:
  """The rows of `cluster_weights`, some at a time."""
  names, members = np.unique(clusters, return_inverse=True)
  rng = np.random.default_rng(seed)
  size = len(names)
  rows = max(1, _WEIGHTS_AT_A_TIME // max(1, len(members)))
  for start in range(0, replicates, rows):
    weights = np.empty((min(rows, replicates - start), len(members)))
    for row in weights:
      draws = np.bincount(rng.integers(size, size=size), minlength=size)
      row[:] = draws[members]
    yield weights


def cluster_bootstrap(
  metrics: Callable[[np.ndarray], dict[_Key, np.ndarray]],
  clusters: np.ndarray,
  *,
  replicates: int = REPLICATES,
  seed: int = 0,
) -> dict[_Key, Interval]:
  """Intervals of metrics; None for one that fewer than 5 clusters carry.

  Args:
    metrics: See `samples`.
    clusters: [N], the patient of each image.
    replicates: How often patients are drawn with replacement.
    seed: Seed of the draws.
  """
  if len(np.unique(clusters)) < MIN_CLUSTERS:
    return {name: None for name in metrics(np.ones((1, len(clusters))))}
  drawn = samples(metrics, clusters, replicates=replicates, seed=seed)
  return {name: interval(values[1:]) for name, values in drawn.items()}


def interval(values: np.ndarray) -> Interval:
  """The percentile interval of replicates f64[R]; None if too few are defined.

  A metric that fewer than 5 patients carry is undefined in more than exp(-5) of
  the replicates.
  """
  defined = values[np.isfinite(values)]
  known = len(defined) > _MIN_DEFINED * len(values)
  return averages.interval(defined) if known else None
