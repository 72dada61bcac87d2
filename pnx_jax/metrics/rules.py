"""Post-processing rules, scored exactly from stored areas, on the host.

An image is called positive if more than `area` pixels exceed `top`, and if
its probability exceeds `gate` (the 2nd and 4th places of the competition gated
with a classifier). The mask is then `probs > bottom` (the 1st place's triplet).
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from pnx_jax.errors import UserError
from pnx_jax.metrics.dice import THRESHOLDS, dice


@dataclasses.dataclass(frozen=True)
class Rule:
  """A post-processing rule.

  Attributes:
    top: Pixel threshold that decides whether the image is positive, one of
      THRESHOLDS.
    area: More pixels than this must exceed `top`, counted at 1024 x 1024.
    bottom: Pixel threshold of the mask, one of THRESHOLDS.
    gate: The image's probability must exceed this; below 0 for no gate.
  """

  top: float
  area: int
  bottom: float
  gate: float = -1.0

  def __str__(self) -> str:
    gate = f', probability > {self.gate:g}' if self.gate >= 0 else ''
    return f'{self.area:,} px > {self.top:g}, mask > {self.bottom:g}{gate}'


PLAIN = Rule(0.5, 0, 0.5)

# The rules by which training finds its best checkpoint. Of rules with equal
# scores the first wins.
SMALL_GRID = (
  PLAIN,
  *itertools.starmap(
    Rule,
    itertools.product((0.4, 0.6, 0.75), (0, 600, 1000, 2000), (0.2, 0.4)),
  ),
)


def column(threshold: float) -> int:
  """Index of a threshold in THRESHOLDS.

  Raises:
    UserError: Areas are not counted at this threshold.
  """
  if threshold not in THRESHOLDS:
    nearest = min(THRESHOLDS, key=lambda level: abs(level - threshold))
    raise UserError(
      f'no areas are counted at threshold {threshold:g}; the '
      f'nearest is {nearest:g}'
    )
  return THRESHOLDS.index(threshold)


def predicted(statistics: Mapping[str, np.ndarray], rule: Rule) -> np.ndarray:
  """Which images keep a mask under a rule: bool[N].

  Args:
    statistics: `predicted_area` [N, T], `intersection` [N, T], `truth_area`
      [N] and, if the rule has a gate, `probability` [N].
    rule: The rule.
  """
  area = statistics['predicted_area']
  kept = area[:, column(rule.top)] > rule.area
  kept &= area[:, column(rule.bottom)] > 0
  if rule.gate >= 0:
    kept &= np.asarray(statistics['probability']) > rule.gate
  return kept


def dice_per_image(
  statistics: Mapping[str, np.ndarray], rule: Rule
) -> np.ndarray:
  """The competition's Dice of every image under a rule: f64[N]."""
  level = column(rule.bottom)
  kept = predicted(statistics, rule)
  return dice(
    np.where(kept, statistics['intersection'][:, level], 0),
    np.where(kept, statistics['predicted_area'][:, level], 0),
    np.asarray(statistics['truth_area']),
  )


def group_scores(
  statistics: Mapping[str, np.ndarray],
  rules: Sequence[Rule],
  groups: np.ndarray,
) -> np.ndarray:
  """Sums of Dice under each rule over each group of images: f64[R, G].

  Args:
    statistics: See `predicted`.
    rules: R rules.
    groups: int[N], the group of each image, counted from 0.
  """
  empty = (np.asarray(statistics['truth_area']) == 0).astype(np.float64)
  num_groups = groups.max(initial=-1) + 1

  def sums(
    values: np.ndarray, images: np.ndarray | slice = slice(None)
  ) -> np.ndarray:
    return np.bincount(groups[images], values[images], minlength=num_groups)

  gains: dict[float, np.ndarray] = {}
  for rule in rules:
    if rule.bottom not in gains:
      plain = Rule(rule.bottom, 0, rule.bottom)
      gains[rule.bottom] = dice_per_image(statistics, plain) - empty
  scores = [
    sums(gains[rule.bottom], predicted(statistics, rule)) for rule in rules
  ]
  return sums(empty) + np.asarray(scores)


def best_rule(
  statistics: Mapping[str, np.ndarray], rules: Sequence[Rule]
) -> tuple[Rule, float]:
  """The first rule with the highest mean Dice, and that mean.

  Raises:
    ValueError: There are no images.
  """
  num_images = len(statistics['truth_area'])
  if not num_images:
    raise ValueError('There are no images to choose a rule on.')
  groups = np.zeros(num_images, np.int64)
  scores = group_scores(statistics, rules, groups)[:, 0]
  best = rules[int(np.argmax(scores.round(9)))]
  return best, float(dice_per_image(statistics, best).mean())
