"""The search for the best rule, cross-fitted so that its score is unbiased.

The score of a rule on the images that it was tuned on is too high. Here each
group of images is scored under the rule that was chosen on the other groups.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

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

# Rules without a gate come first: of rules with equal scores the first wins.
GRID = tuple(
  Rule(top, area, bottom, gate)
  for gate, top, area, bottom in itertools.product(
    _GATES, TOPS, AREAS, _BOTTOMS
  )
  if bottom <= top
)


@dataclasses.dataclass(frozen=True)
class Outcome:
  """The masks of N images under rules.

  Attributes:
    predicted: bool[N], the image keeps a mask.
    predicted_area: int[N], area of the mask.
    intersection: int[N], area of mask and truth.
    dice: f64[N], the competition's Dice; NaN where the mask is not known.
  """

  predicted: np.ndarray
  predicted_area: np.ndarray
  intersection: np.ndarray
  dice: np.ndarray


@dataclasses.dataclass(frozen=True)
class Search:
  """The result of a search.

  Attributes:
    rule: The best rule on all images; the one for new images.
    tuned: The outcome of all images under that rule.
    group_rules: For each group, the best rule on the other groups.
    outcome: The outcome of every image under the rule of its group.
  """

  rule: Rule
  tuned: Outcome
  group_rules: tuple[Rule, ...]
  outcome: Outcome


def cross_fit(
  statistics: Mapping[str, np.ndarray],
  groups: np.ndarray,
  *,
  grid: Sequence[Rule] = GRID,
) -> Search:
  """Finds the best rule on all images, and for each group on the others.

  A single group is scored under its own best rule.

  Args:
    statistics: Of N images, see `metrics.rules.predicted`; where not every
      mask is known, with `mask_known` bool[N]: rules are chosen by the others.
    groups: int[N], counted from 0.
    grid: The rules; of rules with equal scores the first wins.
  """
  with_mask, their_groups = scored(statistics, groups)
  scores = rules.group_scores(with_mask, grid, their_groups)
  total = scores.sum(axis=1)
  num_groups = int(groups.max(initial=-1)) + 1
  # Of the last groups no mask may be known.
  scores = np.pad(scores, ((0, 0), (0, num_groups - scores.shape[1])))

  def best(values: np.ndarray) -> Rule:
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


def scored(
  statistics: Mapping[str, np.ndarray], groups: np.ndarray
) -> tuple[Mapping[str, np.ndarray], np.ndarray]:
  """Returns statistics and groups of the images whose mask is known."""
  if 'mask_known' not in statistics:
    return statistics, groups
  known = statistics['mask_known']
  return {name: x[known] for name, x in statistics.items()}, groups[known]


def apply(statistics: Mapping[str, np.ndarray], rule: Rule) -> Outcome:
  """The outcome of every image under one rule."""
  level = rules.column(rule.bottom)
  predicted = rules.predicted(statistics, rule)
  area, both = (
    np.where(predicted, statistics[name][:, level], 0)
    for name in ('predicted_area', 'intersection')
  )
  scores = dice(both, area, np.asarray(statistics['truth_area']))
  if 'mask_known' in statistics:
    scores[~statistics['mask_known']] = np.nan
  return Outcome(predicted, area, both, scores)


def patient_groups(
  patients: np.ndarray,
  label: np.ndarray,
  *,
  num_groups: int = NUM_GROUPS,
  seed: int = 0,
) -> np.ndarray:
  """Groups of whole patients with equal shares of positive ones: int[N].

  The result does not depend on the order of the images.

  Args:
    patients: int[N].
    label: bool[N].
    num_groups: There are fewer groups if there are fewer patients.
    seed: Seed of the division.

  Raises:
    UserError: There are no images.
  """
  names, members = np.unique(patients, return_inverse=True)
  if not len(names):
    raise UserError('there are no labeled images to evaluate')
  positive = np.bincount(members, label, minlength=len(names)) > 0
  shuffled = np.random.default_rng(seed).permutation(len(names))
  dealt = shuffled[np.argsort(~positive[shuffled], kind='stable')]
  group = np.empty(len(names), int)
  group[dealt] = np.arange(len(names)) % num_groups
  return group[members]
