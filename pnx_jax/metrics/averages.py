"""Ratios, weighted means, quartiles and intervals that all metrics share."""

import numpy as np

CONFIDENCE = 0.95
NUM_QUARTILES = 4


def divide(
  part: np.ndarray, whole: np.ndarray, *, undefined: float = np.nan
) -> np.ndarray:
  """`part / whole` as f64[...]; `undefined` where `whole` is 0."""
  whole = np.broadcast_to(whole, np.shape(part))
  ratio = np.full(np.shape(part), undefined)
  return np.divide(part, whole, out=ratio, where=whole > 0)


def weighted_mean(
  values: np.ndarray, weights: np.ndarray, chosen: np.ndarray | None = None
) -> np.ndarray:
  """Means of values under each of R weightings: f64[R]; NaN over nothing.

  Args:
    values: [N].
    weights: f64[R, N].
    chosen: bool[N], the values to average; all of them if None.
  """
  if chosen is not None:
    values, weights = values[chosen], weights[:, chosen]
  return divide(weights @ values.astype(np.float64), weights.sum(axis=1))


def quartiles(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
  """The quartile of each chosen value, 1 (smallest) to 4; 0 for the others.

  Args:
    values: [N].
    chosen: bool[N]; the edges are quantiles of these values, and a value on an
      edge belongs to the lower quartile.
  """
  if not chosen.any():
    return np.zeros(len(values), int)
  shares = np.linspace(0, 1, NUM_QUARTILES + 1)[1:-1]
  edges = np.quantile(values[chosen], shares)
  return np.where(chosen, 1 + np.searchsorted(edges, values), 0)


def interval(
  values: np.ndarray, *, confidence: float = CONFIDENCE
) -> tuple[float, float]:
  """The central interval that holds a share `confidence` of values f64[N]."""
  tail = (1 - confidence) / 2
  low, high = np.quantile(values, [tail, 1 - tail])
  return float(low), float(high)
