"""Bootstrap intervals that draw patients, not images.

Several images of one patient are no independent evidence: in this data 2,669
positive images come from 802 patients. Efron and Tibshirani, An Introduction
to the Bootstrap, 1993, percentile intervals.
"""

from collections.abc import Callable

import numpy as np

REPLICATES = 1000
CONFIDENCE = 0.95
# Fewer say nothing of others. A figure that k patients carry is undefined in
# exp(-k) of the replicates, so the share tells how many there are.
LEAST_CLUSTERS = 5
_LEAST_DEFINED = 1 - np.exp(-LEAST_CLUSTERS)


def cluster_weights(clusters, *, replicates=REPLICATES, seed=0) -> np.ndarray:
  """How often each image is drawn in each replicate: f64[R, N].

  Args:
    clusters: int[N]; images of one cluster are drawn together.
    replicates: R.
    seed: of the draws.
  """
  names, members = np.unique(clusters, return_inverse=True)
  rng = np.random.default_rng(seed)
  size = len(names)
  weights = np.empty((replicates, len(members)))
  for row in weights:
    draws = np.bincount(rng.integers(size, size=size), minlength=size)
    row[:] = draws[members]
  return weights


def cluster_bootstrap(
  figures: Callable[[np.ndarray], dict[str, np.ndarray]],
  clusters,
  *,
  replicates=REPLICATES,
  seed=0,
) -> dict[str, tuple[float, float] | None]:
  """Intervals of figures; None for one that fewer than 5 clusters carry.

  Args:
    figures: from weights f64[R, N] to f64[R] by name, NaN where undefined.
    clusters: int[N], the patient of each image.
    replicates: how often patients are drawn with replacement.
    seed: of the draws.
  """
  if len(np.unique(clusters)) < LEAST_CLUSTERS:
    return {name: None for name in figures(np.ones((1, len(clusters))))}
  weights = cluster_weights(clusters, replicates=replicates, seed=seed)
  tail = (1 - CONFIDENCE) / 2
  intervals = {}
  for name, values in figures(weights).items():
    values = values[np.isfinite(values)]
    known = len(values) > _LEAST_DEFINED * replicates
    bounds = np.quantile(values, [tail, 1 - tail]) if known else None
    intervals[name] = None if bounds is None else tuple(map(float, bounds))
  return intervals
