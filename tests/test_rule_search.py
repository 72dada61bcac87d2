"""Cross-fitting against a plain loop; groups that keep patients whole."""

import numpy as np
import pytest

from pnx_jax.errors import UserError
from pnx_jax.evaluation import rule_search
from pnx_jax.metrics import rules
from pnx_jax.metrics.dice import THRESHOLDS
from pnx_jax.metrics.rules import Rule

GRID = tuple(
  Rule(top, area, bottom, gate)
  for top in (0.4, 0.7, 0.9)
  for area in (0, 500, 1500)
  for bottom in (0.2, 0.4)
  for gate in (-1.0, 0.3)
)


def _statistics(num_images=80, seed=0):
  rng = np.random.default_rng(seed)
  shape = (num_images, len(THRESHOLDS))
  predicted = -np.sort(-rng.integers(0, 4000, shape), axis=1)
  truth = rng.integers(200, 3000, num_images) * (rng.random(num_images) < 0.4)
  share = rng.random((num_images, 1))
  return {
    'truth_area': truth,
    'predicted_area': predicted,
    'intersection': np.minimum(predicted * share, truth[:, None]).astype(int),
    'probability': rng.random(num_images),
  }


def test_each_group_is_scored_by_the_rule_of_the_others():
  statistics = _statistics()
  groups = np.random.default_rng(1).integers(0, 4, 80)
  found = rule_search.cross_fit(statistics, groups, grid=GRID)
  dice = np.zeros(80)
  for group in range(4):
    others = {k: v[groups != group] for k, v in statistics.items()}
    rule, _ = rules.best_rule(others, GRID)
    assert found.group_rules[group] == rule
    rows = groups == group
    dice[rows] = rules.dice_per_image(statistics, rule)[rows]
  np.testing.assert_allclose(found.outcome.dice, dice, rtol=1e-12)
  best, tuned = rules.best_rule(statistics, GRID)
  assert found.rule == best
  assert found.tuned.dice.mean() == pytest.approx(tuned)


def test_tuning_on_noise_is_optimistic():
  gaps = []
  for seed in range(20):
    groups = np.arange(80) % 5
    found = rule_search.cross_fit(_statistics(80, seed), groups, grid=GRID)
    gaps.append((found.tuned.dice - found.outcome.dice).mean())
  assert np.mean(gaps) > 0.005


def test_one_group_is_scored_by_its_own_rule():
  found = rule_search.cross_fit(_statistics(), np.zeros(80, int), grid=GRID)
  assert found.group_rules == (found.rule,)
  np.testing.assert_array_equal(found.tuned.dice, found.outcome.dice)


def test_the_grid_holds_the_winners_rules():
  for rule in (
    Rule(0.75, 2000, 0.3),  # 1st place, on its validation
    Rule(0.7, 600, 0.3),  # 1st place, on the leaderboard
    Rule(0.4, 0, 0.4, gate=0.65),  # 2nd place
    Rule(0.72, 0, 0.2),  # 7th place
    rules.PLAIN,
  ):
    assert rule in rule_search.GRID
  assert len(set(rule_search.GRID)) == len(rule_search.GRID) > 5000


def test_groups_keep_patients_whole_and_share_positives():
  rng = np.random.default_rng(0)
  patients = rng.integers(0, 60, 300)
  label = np.isin(patients, np.arange(15)) & (rng.random(300) < 0.7)
  groups = rule_search.patient_groups(patients, label)
  for patient in np.unique(patients):
    assert len(np.unique(groups[patients == patient])) == 1
  positive = [len(np.unique(patients[label & (groups == g)])) for g in range(5)]
  assert max(positive) - min(positive) <= 1
  order = rng.permutation(300)
  shuffled = rule_search.patient_groups(patients[order], label[order])
  np.testing.assert_array_equal(shuffled, groups[order])


def test_no_images_are_an_error():
  with pytest.raises(UserError, match='no labeled images'):
    rule_search.patient_groups(np.zeros(0, int), np.zeros(0, bool))
