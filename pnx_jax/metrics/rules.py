"""Post-processing rules, scored exactly from stored areas, on the host.

An image is called positive if more than `area` pixels exceed `top`, and if
its probability exceeds `gate` (the 2nd and 4th places of the competition gated
with a classifier). The mask is then `probs > bottom` (the 1st place's triplet).
"""

import dataclasses
import itertools

import numpy as np

from pnx_jax.metrics.dice import THRESHOLDS, dice


@dataclasses.dataclass(frozen=True)
class Rule:
  """`top` and `bottom` are in THRESHOLDS; `area` is in pixels at 1024 x 1024.

  A gate below 0 lets every image pass.
  """

  top: float
  area: int
  bottom: float
  gate: float = -1.0

  def __str__(self):
    gate = f', probability > {self.gate:g}' if self.gate >= 0 else ''
    return f'{self.area:,} px > {self.top:g}, mask > {self.bottom:g}{gate}'


PLAIN = Rule(0.5, 0, 0.5)

# What training tries to find its best checkpoint; the first of equals wins.
SMALL_GRID = (
  PLAIN,
  *itertools.starmap(
    Rule,
    itertools.product((0.4, 0.6, 0.75), (0, 600, 1000, 2000), (0.2, 0.4)),
  ),
)


def column(threshold):
  """Position of a threshold among those that areas were counted at."""
  if threshold not in THRESHOLDS:
    nearest = min(THRESHOLDS, key=lambda level: abs(level - threshold))
    raise ValueError(
      f'No areas are counted at threshold {threshold:g}; the nearest is '
      f'{nearest:g}.'
    )
  return THRESHOLDS.index(threshold)


def predicted(statistics, rule):
  """Images that keep a mask under the rule: bool[N].

  Args:
    statistics: numpy arrays `predicted_area` [N, T], `intersection` [N, T],
      `truth_area` [N], and `probability` [N] where the rule has a gate.
    rule: the Rule.
  """
  area = statistics['predicted_area']
  kept = area[:, column(rule.top)] > rule.area
  kept &= area[:, column(rule.bottom)] > 0
  if rule.gate >= 0:
    kept &= np.asarray(statistics['probability']) > rule.gate
  return kept


def dice_per_image(statistics, rule):
  """Competition Dice of every image under the rule: f64[N]."""
  level = column(rule.bottom)
  kept = predicted(statistics, rule)
  return dice(
    np.where(kept, statistics['intersection'][:, level], 0),
    np.where(kept, statistics['predicted_area'][:, level], 0),
    np.asarray(statistics['truth_area']),
  )


def group_scores(statistics, rules, groups):
  """Sums of Dice under each rule over each group of images: f64[R, G].

  Args:
    statistics: as for `predicted`.
    rules: R rules.
    groups: int[N], the group of each image, counted from 0.
  """
  empty = (np.asarray(statistics['truth_area']) == 0).astype(np.float64)
  num_groups = groups.max(initial=-1) + 1

  def sums(values, images=slice(None)):
    return np.bincount(groups[images], values[images], minlength=num_groups)

  gains = {}
  for rule in rules:
    if rule.bottom not in gains:
      plain = Rule(rule.bottom, 0, rule.bottom)
      gains[rule.bottom] = dice_per_image(statistics, plain) - empty
  scores = [
    sums(gains[rule.bottom], predicted(statistics, rule)) for rule in rules
  ]
  return sums(empty) + np.asarray(scores)


def best_rule(statistics, rules):
  """The rule with the highest mean Dice, the first of equals, and that mean."""
  num_images = len(statistics['truth_area'])
  if not num_images:
    raise ValueError('There are no images to choose a rule on.')
  groups = np.zeros(num_images, np.int64)
  scores = group_scores(statistics, rules, groups)[:, 0]
  best = rules[int(np.argmax(scores.round(9)))]
  return best, float(dice_per_image(statistics, best).mean())
