"""Rules scored from areas against rules applied to pixels."""

import jax
import numpy as np
import pytest

from pnx_jax.metrics import rules as rules_lib
from pnx_jax.metrics.dice import THRESHOLDS, threshold_areas
from pnx_jax.metrics.rules import Rule


@pytest.fixture(scope='module')
def images():
  rng = np.random.default_rng(0)
  probs = rng.random((12, 8, 8)).astype(np.float32) ** rng.uniform(
    0.5, 6, (12, 1, 1)
  ).astype(np.float32)
  label = (rng.random((12, 8, 8)) < 0.2) & (rng.random((12, 1, 1)) < 0.5)
  probability = rng.random(12)
  areas = jax.device_get(jax.jit(threshold_areas)(probs, label))
  return probs, label, {**areas, 'probability': probability}


def _apply(probs, probability, rule):
  """The masks themselves: what a rule means."""
  masks = np.zeros(probs.shape, bool)
  for mask, image, chance in zip(masks, probs, probability, strict=True):
    if (image > rule.top).sum() > rule.area and chance > rule.gate:
      mask[:] = image > rule.bottom
  return masks


def _pixel_dice(mask, label):
  if not mask.any() and not label.any():
    return 1.0
  return 2 * (mask & label).sum() / (mask.sum() + label.sum())


@pytest.mark.parametrize(
  'rule',
  [
    rules_lib.PLAIN,
    Rule(0.75, 5, 0.3),
    Rule(0.75, 5, 0.3, gate=0.4),
    Rule(0.72, 0, 0.2),
    Rule(0.1, 0, 0.9995),
    Rule(0.5, 64, 0.5),
  ],
)
def test_dice_equals_that_of_the_masks(images, rule):
  probs, label, statistics = images
  masks = _apply(probs, statistics['probability'], rule)
  kept = rules_lib.predicted(statistics, rule)
  np.testing.assert_array_equal(kept, masks.any((1, 2)))
  expected = [_pixel_dice(*pair) for pair in zip(masks, label, strict=True)]
  scores = rules_lib.dice_per_image(statistics, rule)
  assert scores.dtype == np.float64
  np.testing.assert_allclose(scores, expected, rtol=1e-12)


def test_best_rule_is_the_best_of_a_plain_search(images):
  statistics = images[-1]
  rules = [
    Rule(top, area, bottom, gate)
    for top in (0.3, 0.6, 0.9)
    for area in (0, 3, 9)
    for bottom in (0.2, 0.5)
    for gate in (-1.0, 0.3, 0.7)
  ]
  means = [rules_lib.dice_per_image(statistics, rule).mean() for rule in rules]
  rule, score = rules_lib.best_rule(statistics, rules)
  assert rule == rules[int(np.argmax(means))]
  assert score == pytest.approx(max(means), rel=1e-12)


def test_group_scores_are_sums_of_dice_over_groups(images):
  statistics = images[-1]
  groups = np.arange(12) % 3
  scores = rules_lib.group_scores(statistics, rules_lib.SMALL_GRID, groups)
  for rule, row in zip(rules_lib.SMALL_GRID, scores, strict=True):
    dice = rules_lib.dice_per_image(statistics, rule)
    expected = [dice[groups == group].sum() for group in range(3)]
    np.testing.assert_allclose(row, expected, rtol=1e-12)


def test_the_first_of_equal_rules_wins():
  nothing = np.zeros((4, len(THRESHOLDS)), np.int32)
  statistics = {
    'truth_area': np.zeros(4, np.int32),
    'predicted_area': nothing,
    'intersection': nothing,
  }
  rule, score = rules_lib.best_rule(statistics, rules_lib.SMALL_GRID)
  assert rule == rules_lib.PLAIN
  assert score == 1.0


def test_rules_on_no_images_and_unknown_thresholds_are_errors(images):
  none = {name: values[:0] for name, values in images[-1].items()}
  with pytest.raises(ValueError, match='no images'):
    rules_lib.best_rule(none, rules_lib.SMALL_GRID)
  with pytest.raises(ValueError, match=r'threshold 0\.51; the nearest is 0\.5'):
    rules_lib.predicted(images[-1], Rule(0.51, 0, 0.5))
