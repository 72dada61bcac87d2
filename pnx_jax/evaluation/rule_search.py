"""The search for a rule, cross-fitted so that its score can be believed.

A rule tuned and scored on the same images flatters itself. Here each group of
images is scored under the rule that the other groups chose.
"""

import dataclasses
import itertools

import numpy as np

from pnx_jax.errors import UserError
from pnx_jax.metrics import rules
from pnx_jax.metrics.dice import dice
from pnx_jax.metrics.rules import Rule

NUM_GROUPS = 5

TOPS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.72, 0.75, 0.8, 0.9, 0.95)
AREAS = (0, 100, 200, 400, 600, 800, 1000, 1500, 2000, 3000, 4500)
_BOTTOMS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7)
_GATES = (-1.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.8, 0.9)

# Without gates first: of equal rules the simpler one wins.
GRID = tuple(
  Rule(top, area, bottom, gate)
  for gate, top, area, bottom in itertools.product(
    _GATES, TOPS, AREAS, _BOTTOMS
  )
  if bottom <= top
)


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What rules leave of each image: arrays of N rows."""

  predicted: np.ndarray
  predicted_area: np.ndarray
  intersection: np.ndarray
  dice: np.ndarray


@dataclasses.dataclass(frozen=True)
class Search:
  """The result of a search.

  Attributes:
    rule: the best on all images; the one to use from now on.
    tuned: what it leaves of the images that chose it.
    group_rules: of each group, the rule that the others chose.
    outcome: of every image under its group's rule.
  """

  rule: Rule
  tuned: Outcome
  group_rules: tuple[Rule, ...]
  outcome: Outcome


def cross_fit(statistics, groups, *, grid=GRID) -> Search:
  """Searches the rules, for all images and for each group by the others.

  With a single group there are no others: its own rule is taken.

  Args:
    statistics: of N images, see `metrics.rules.predicted`.
    groups: int[N], counted from 0.
    grid: the rules; the first of equals wins.
  """
  scores = rules.group_scores(statistics, grid, groups)
  total = scores.sum(axis=1)
  num_groups = scores.shape[1]

  def best(values):
    return grid[int(np.argmax(values.round(9)))]

  rule = best(total)
  group_rules = tuple(
    best(total - scores[:, group]) if num_groups > 1 else rule
    for group in range(num_groups)
  )
  tuned = apply(statistics, rule)
  outcome = Outcome(*map(np.copy, dataclasses.astuple(tuned)))
  for group, chosen in enumerate(group_rules):
    rows = groups == group
    own = apply({name: x[rows] for name, x in statistics.items()}, chosen)
    for field in dataclasses.fields(Outcome):
      getattr(outcome, field.name)[rows] = getattr(own, field.name)
  return Search(rule, tuned, group_rules, outcome)


def apply(statistics, rule) -> Outcome:
  """What a rule leaves of each image."""
  level = rules.column(rule.bottom)
  predicted = rules.predicted(statistics, rule)
  area, both = (
    np.where(predicted, statistics[name][:, level], 0)
    for name in ('predicted_area', 'intersection')
  )
  scores = dice(both, area, np.asarray(statistics['truth_area']))
  return Outcome(predicted, area, both, scores)


def patient_groups(patients, label, *, num_groups=NUM_GROUPS, seed=0):
  """Groups of whole patients, with equal shares of positive ones: int[N].

  Args:
    patients: int[N].
    label: bool[N].
    num_groups: fewer where there are fewer patients.
    seed: of the division; the order of the images does not matter.
  """
  names, members = np.unique(patients, return_inverse=True)
  if not len(names):
    raise UserError('there are no labelled images to evaluate')
  positive = np.bincount(members, label, minlength=len(names)) > 0
  shuffled = np.random.default_rng(seed).permutation(len(names))
  dealt = shuffled[np.argsort(~positive[shuffled], kind='stable')]
  group = np.empty(len(names), int)
  group[dealt] = np.arange(len(names)) % num_groups
  return group[members]
