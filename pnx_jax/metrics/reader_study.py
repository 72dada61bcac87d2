"""The network beside readers of the same images.

With five readers or more, intervals of means over readers draw readers and
patients: they hold for other readers too. With fewer they draw patients alone
and hold for these readers.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from pnx_jax.metrics import bootstrap, influence, intervals
from pnx_jax.metrics.averages import divide, weighted_mean
from pnx_jax.metrics.bootstrap import Interval
from pnx_jax.metrics.curves import curve
from pnx_jax.metrics.summary import rates

MIN_READERS = 5
_ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True)
class Value:
  """A value and its 95 % interval; NaN and None where undefined."""

  value: float
  interval: Interval


@dataclasses.dataclass(frozen=True)
class Calls:
  """What a reader said of some images.

  Attributes:
    rows: int[M], the images, each once.
    called: bool[M], whether the reader saw a pneumothorax; None if only
      scores are known.
    score: f64[M], how sure the reader was; None if only calls are known.
  """

  rows: np.ndarray
  called: np.ndarray | None
  score: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class ReaderResult:
  """A reader and the network on the images that the reader read.

  Attributes:
    num_images: That the reader read.
    num_patients: Of these images.
    sensitivity: Of the reader.
    specificity: Of the reader.
    auc: Of the reader's scores.
    network_auc: Of the network on the same images.
    network_sensitivity: The network's at no less than the reader's
      specificity.
    difference: That minus the reader's sensitivity.
    pair_sensitivity: If the reader or the network calls an image positive.
    pair_specificity: Likewise.
    gain: Sensitivity of both minus that of the reader alone.
    loss: Specificity of both minus that of the reader alone.
  """

  num_images: int
  num_patients: int
  sensitivity: Value
  specificity: Value
  auc: Value
  network_auc: Value
  network_sensitivity: Value
  difference: Value
  pair_sensitivity: Value
  pair_specificity: Value
  gain: Value
  loss: Value


@dataclasses.dataclass(frozen=True)
class ReaderStudy:
  """All readers.

  Attributes:
    readers: By name.
    mean_difference: Mean over readers with calls of network minus reader.
    num_readers: That it is over.
    draws_readers: Whether its interval draws readers too.
    kappa: Cohen's kappa of every two readers on their common images, and of
      every reader with the network's calls, by names.
  """

  readers: dict[str, ReaderResult]
  mean_difference: Value
  num_readers: int
  draws_readers: bool
  kappa: dict[tuple[str, str], Value]


NETWORK = 'network'


def study(
  readers: Mapping[str, Calls],
  *,
  probability: np.ndarray,
  network_called: np.ndarray,
  label: np.ndarray,
  patient: np.ndarray,
  replicates: int = bootstrap.REPLICATES,
  seed: int = 0,
) -> ReaderStudy:
  """Compares the network with every reader, and readers with each other.

  Args:
    readers: By name.
    probability: f64[N], of the network.
    network_called: bool[N], its calls at an operating point.
    label: bool[N].
    patient: int[N].
    replicates: Of the bootstrap.
    seed: Of the bootstrap.
  """
  calling = {
    n: calls for n, calls in readers.items() if calls.called is not None
  }
  everyone = Calls(np.arange(len(label)), network_called, None)
  names = [*calling, NETWORK]
  pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
  calls = {**calling, NETWORK: everyone}

  def compute(weights: np.ndarray) -> dict[tuple[str, ...], np.ndarray]:
    found = {}
    for name, each in calling.items():
      rows = each.rows
      found['difference', name], found['network', name] = _gaps(
        probability[rows], each.called, label[rows], weights[:, rows]
      )
    for pair in pairs:
      found['kappa', *pair] = _kappas(*(calls[name] for name in pair), weights)
    return found

  drawn = bootstrap.samples(compute, patient, replicates=replicates, seed=seed)
  mean, draws_readers = _mean_difference(
    [drawn['difference', name] for name in calling], seed=seed
  )
  return ReaderStudy(
    readers={
      name: _reader(
        each,
        probability,
        network_called,
        label,
        patient,
        difference=drawn.get(('difference', name)),
        network=drawn.get(('network', name)),
      )
      for name, each in readers.items()
    },
    mean_difference=mean,
    num_readers=len(calling),
    draws_readers=draws_readers,
    kappa={
      (one, other): _drawn(
        drawn['kappa', one, other],
        patient[np.intersect1d(calls[one].rows, calls[other].rows)],
      )
      for one, other in pairs
    },
  )


def _gaps(
  probability: np.ndarray,
  called: np.ndarray,
  label: np.ndarray,
  weights: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """Sensitivity at the reader's specificity, as a difference and itself.

  The network's threshold is that of each replicate. f64[R] twice: network minus
  reader, and network.
  """
  reader = rates(called, label, weights)
  if label.all() or not label.any():
    return np.full((2, len(weights)), np.nan)
  ranking = curve(probability, label, weights)
  allowed = ranking.specificity >= reader['specificity'][:, None] - _ROUNDING
  network = np.where(allowed, ranking.sensitivity, 0).max(axis=-1)
  return network - reader['sensitivity'], network


def _reader(
  calls: Calls,
  probability: np.ndarray,
  network_called: np.ndarray,
  label: np.ndarray,
  patient: np.ndarray,
  *,
  difference: np.ndarray | None,
  network: np.ndarray | None,
) -> ReaderResult:
  rows = calls.rows
  label, patient, probability = label[rows], patient[rows], probability[rows]

  def share(values: np.ndarray, chosen: np.ndarray) -> Value:
    found = influence.mean(values, chosen)
    return Value(found.value, intervals.wilson(found, patient))

  def area(score: np.ndarray | None) -> Value:
    if score is None:
      return _UNDEFINED
    found = influence.auc(score, label)
    return Value(found.value, intervals.wilson(found, patient))

  common = {
    'num_images': len(rows),
    'num_patients': len(np.unique(patient)),
    'auc': area(calls.score),
    'network_auc': area(probability),
  }
  if calls.called is None or difference is None or network is None:
    names = {x.name for x in dataclasses.fields(ReaderResult)} - set(common)
    return ReaderResult(**common, **dict.fromkeys(names, _UNDEFINED))
  called, both = calls.called, calls.called | network_called[rows]
  return ReaderResult(
    **common,
    sensitivity=share(called, label),
    specificity=share(~called, ~label),
    network_sensitivity=_drawn(network, patient),
    difference=_drawn(difference, patient),
    pair_sensitivity=share(both, label),
    pair_specificity=share(~both, ~label),
    gain=share(both & ~called, label),
    loss=_negative(share(both & ~called, ~label)),
  )


def _negative(share: Value) -> Value:
  ends = share.interval and (-share.interval[1], -share.interval[0])
  return Value(-share.value, ends)


_UNDEFINED = Value(float('nan'), None)


def _drawn(values: np.ndarray, patient: np.ndarray | None = None) -> Value:
  """From f64[1 + R], of which the first is observed.

  Args:
    values: Of the images, and of samples of patients.
    patient: int[M], of the images, which may be too few; None if known.
  """
  enough = patient is None or len(np.unique(patient)) >= bootstrap.MIN_CLUSTERS
  known = enough and np.isfinite(values[0])
  return Value(
    float(values[0]), bootstrap.interval(values[1:]) if known else None
  )


def _mean_difference(
  drawn: Sequence[np.ndarray], *, seed: int
) -> tuple[Value, bool]:
  if not drawn:
    return _UNDEFINED, False
  table = np.stack(drawn)
  count = len(table)
  if count < MIN_READERS:
    return _drawn(table.mean(axis=0)), False
  chosen = np.random.default_rng(seed).integers(count, size=table.shape)
  picked = np.take_along_axis(table, chosen, axis=0).mean(axis=0)
  mean = table.mean(axis=0)
  # The variance of drawn means is that of means of count - 1 readers.
  values = mean + (picked - mean) * np.sqrt(count / (count - 1))
  values[0] = mean[0]
  return _drawn(values), True


def _kappas(one: Calls, other: Calls, weights: np.ndarray) -> np.ndarray:
  """Cohen's kappa on common images f64[R]; NaN if there are none."""
  rows, first, second = np.intersect1d(
    one.rows, other.rows, return_indices=True
  )
  assert one.called is not None and other.called is not None
  return kappa(one.called[first], other.called[second], weights[:, rows])


def kappa(
  first: np.ndarray, second: np.ndarray, weights: np.ndarray
) -> np.ndarray:
  """Cohen's kappa of calls bool[N] under each of R weightings: f64[R].

  NaN where both call all images alike by chance alone.
  """
  agreed = weighted_mean(first == second, weights)
  one, other = weighted_mean(first, weights), weighted_mean(second, weights)
  chance = one * other + (1 - one) * (1 - other)
  return divide(agreed - chance, 1 - chance)


def mean_dice(dice: np.ndarray, patient: np.ndarray) -> tuple[Value, int]:
  """The mean of Dice f64[M] over images, and how many these are."""
  if not len(dice):
    return _UNDEFINED, 0
  found = influence.mean(dice)
  return Value(found.value, intervals.wilson(found, patient)), len(dice)
