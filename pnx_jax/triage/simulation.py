"""Waiting times and alert rates of a worklist sorted by a network."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from pnx_jax.metrics import averages, bootstrap
from pnx_jax.metrics.averages import divide, weighted_mean
from pnx_jax.metrics.bootstrap import Interval
from pnx_jax.triage.cohort import Cohort
from pnx_jax.triage.queue import Clinic, waits

FIRST_COME, BY_PROBABILITY = 'first come, first served', 'by probability'
# The share of a replication that is not counted at each end: the queue has to
# fill first, and the last films compete with none behind them.
_ENDS = 0.1


class Estimate(NamedTuple):
  """A value and its 95 % interval, None if undefined."""

  value: float
  interval: Interval

  def __format__(self, spec: str) -> str:
    value, *bounds = (
      f'{x:{spec}}' for x in (self.value, *(self.interval or ()))
    )
    return f'{value} [{", ".join(bounds)}]' if bounds else value


def waiting_times(
  cohort: Cohort,
  clinic: Clinic,
  thresholds: Mapping[str, float],
  *,
  prevalence: float,
  replications: int = 200,
  length: int = 10_000,
  seed: int = 0,
) -> dict[str, dict[str, Estimate]]:
  """Minutes that films wait until they are read, by reading order.

  In each replication patients are resampled and films are drawn from them, a
  given share of which show a pneumothorax. All reading orders meet the same
  arrivals and reading times. Values are means over replications and intervals
  hold 95 % of them; there are none with fewer than 5 patients of a class.

  Args:
    cohort: The films to draw from.
    clinic: Where they are read.
    thresholds: By name; films at or above one are read before the others. Each
      is a reading order of its own.
    prevalence: Share of films with a pneumothorax.
    replications: R.
    length: N, films per replication.
    seed: Seed of all draws.

  Returns:
    By reading order: mean wait of `positives` and of `negatives`, and
    `reduction`, how much less positives wait than first come, first served.
  """
  rng = np.random.default_rng(seed)
  arrival, begin = clinic.films(rng, (replications, length))
  positive = rng.random(arrival.shape) < prevalence
  probability = cohort.probability[cohort.draw(positive, rng)]
  ends = round(_ENDS * length)
  counted = np.zeros(length, bool)
  counted[ends:-ends] = True

  def mean(wait: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    return np.average(wait, axis=1, weights=chosen & counted)

  first_come = mean(begin - arrival, positive)
  priorities = {
    FIRST_COME: np.zeros(arrival.shape),
    BY_PROBABILITY: probability,
    **{name: probability >= level for name, level in thresholds.items()},
  }
  patients = (cohort.patient[kind] for kind in (cohort.label, ~cohort.label))
  enough = min(len(set(p.tolist())) for p in patients)
  known = enough >= bootstrap.MIN_CLUSTERS

  def estimate(values: np.ndarray) -> Estimate:
    interval = averages.interval(values) if known else None
    return Estimate(float(values.mean()), interval)

  waiting = {}
  for name, priority in priorities.items():
    wait = waits(arrival, begin, priority.astype(float))
    of_positives = mean(wait, positive)
    waiting[name] = {
      'positives': estimate(of_positives),
      'negatives': estimate(mean(wait, ~positive)),
      'reduction': estimate(first_come - of_positives),
    }
  return waiting


def alert_rates(
  cohort: Cohort,
  thresholds: Mapping[str, float],
  *,
  prevalence: float,
  seed: int = 0,
) -> dict[str, dict[str, Estimate]]:
  """Rates of flagging films at or above each threshold.

  Intervals come from a bootstrap over patients.

  Args:
    cohort: The films.
    thresholds: By name.
    prevalence: Share of films with a pneumothorax.
    seed: Seed of the bootstrap.

  Returns:
    By threshold: `sensitivity`, the flagged share of positives;
    `false_positive_rate`, that of negatives; and at the given prevalence
    `flagged`, that of all films, and `false_discovery_rate`, the share of
    flagged films that are negative.
  """

  def rates(weights: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    found = {}
    for name, level in thresholds.items():
      flagged = cohort.probability >= level
      true = weighted_mean(flagged, weights, cohort.label)
      false = weighted_mean(flagged, weights, ~cohort.label)
      everywhere = prevalence * true + (1 - prevalence) * false
      found[name, 'sensitivity'] = true
      found[name, 'false_positive_rate'] = false
      found[name, 'flagged'] = everywhere
      found[name, 'false_discovery_rate'] = divide(
        (1 - prevalence) * false, everywhere
      )
    return found

  values = rates(np.ones((1, len(cohort.label))))
  bounds = bootstrap.cluster_bootstrap(rates, cohort.patient, seed=seed)
  table: dict[str, dict[str, Estimate]] = {name: {} for name in thresholds}
  for (name, rate), value in values.items():
    table[name][rate] = Estimate(float(value[0]), bounds[name, rate])
  return table
