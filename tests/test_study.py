"""The study's arithmetic, on made-up tables of films."""

import dataclasses

import numpy as np
import pytest
import sklearn.metrics
from study_tables import made_up

from benchmarks.study import (
  comparison,
  differences,
  films,
  report,
)
from pnx_jax.metrics.dice import THRESHOLDS


def test_a_table_of_films_reads_as_it_was_written(tmp_path):
  wanted = made_up(count=20)
  films.write(tmp_path / 'seed0_fold0.csv', wanted)
  found = films.read(tmp_path / 'seed0_fold0.csv')
  for field in dataclasses.fields(films.Films):
    ours, theirs = getattr(found, field.name), getattr(wanted, field.name)
    if ours.dtype.kind == 'f':
      np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    else:
      np.testing.assert_array_equal(ours, theirs)


def test_counted_films_hold_areas_of_prediction_truth_and_both():
  probs = np.zeros((1024, 1024), np.float32)
  probs[:10, :20] = 0.55
  truth = np.zeros((1024, 1024), bool)
  truth[5:10, :20] = True
  record = dataclasses.make_dataclass('Record', ['image_id', 'patient', 'view'])
  found = films.count(
    [record('a', 7, 'AP')], [(probs, 0.9)], lambda _: truth, fold=2
  )
  column = THRESHOLDS.index(0.5)
  assert found.truth_area.tolist() == [100]
  assert found.predicted_area[0, column] == 200
  assert found.intersection[0, column] == 100
  assert found.predicted_area[0, column + 2] == 0
  assert found.maximum[0] == pytest.approx(0.55)
  assert (found.fold[0], found.patient[0], found.view[0]) == (2, 7, 'AP')


def test_metrics_equal_their_definitions():
  table = made_up()
  once = comparison.metrics(table)(np.ones((1, len(table))))
  found = {name: float(value[0]) for name, value in once.items()}
  label, column = table.label, THRESHOLDS.index(0.5)
  area, both = table.predicted_area[:, column], table.intersection[:, column]
  dice = 2 * both[label] / (area + table.truth_area)[label]
  assert found['dice_positive_at_0.5'] == pytest.approx(dice.mean())
  assert found['empty_negatives_at_0.5'] == pytest.approx(
    (area[~label] == 0).mean()
  )
  assert found['auc_probability'] == pytest.approx(
    sklearn.metrics.roc_auc_score(label, table.probability)
  )
  false, true, _ = sklearn.metrics.roc_curve(label, table.probability)
  assert found['sensitivity_90_probability'] == pytest.approx(
    true[false <= 0.1 + 1e-9].max()
  )
  mean = (table.probability + table.maximum) / 2
  assert found['auc_mean_probability'] == pytest.approx(
    sklearn.metrics.roc_auc_score(label, mean)
  )
  false, true, _ = sklearn.metrics.roc_curve(label, mean)
  assert found['sensitivity_90_mean_probability'] == pytest.approx(
    true[false <= 0.1 + 1e-9].max()
  )
  gated = dataclasses.replace(table, probability=mean)
  regated = comparison.metrics(gated)(np.ones((1, len(table))))
  for ours, theirs in (
    ('dice_mean', 'dice'),
    ('dice_positive_rule_mean', 'dice_positive_rule'),
    ('empty_negatives_rule_mean', 'empty_negatives_rule'),
  ):
    assert found[ours] == pytest.approx(float(regated[theirs][0]))
  assert found['mean_above_maximum'] == pytest.approx(
    sklearn.metrics.roc_auc_score(label, mean)
    - sklearn.metrics.roc_auc_score(label, table.maximum)
  )
  assert found['probability_negative'] == pytest.approx(
    table.probability[~label].mean()
  )
  assert found['dice_above_empty'] == pytest.approx(
    found['dice'] - (~label).mean()
  )
  # One film after the other, from the largest pixel down.
  every = [
    2
    * table.intersection[:, i]
    / (table.predicted_area[:, i] + table.truth_area).clip(1)
    for i in map(THRESHOLDS.index, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6))
  ]
  best = max(every, key=lambda dice: dice[label].mean())
  assert found['dice_positive_mask'] == pytest.approx(best[label].mean())
  sum_of_dice = alarms = reached = 0
  for film in np.argsort(-table.maximum):
    alarms += not label[film]
    if alarms > 0.2 * (~label).sum():
      break
    sum_of_dice += best[film] if label[film] else 0
    reached = sum_of_dice / label.sum()
  assert found['dice_positive_80'] == pytest.approx(reached)


def test_a_recipe_does_not_differ_from_itself():
  table = made_up()
  for value, bounds in comparison.differences(
    [table], [table], replicates=50
  ).values():
    assert value == 0
    assert bounds == (0, 0)


def test_difference_of_means_over_the_shared_films():
  better, worse = made_up(quality=1.5), made_up(quality=0.5, seed=1)
  half = worse[worse.fold != 0]
  found = comparison.differences([better], [half], replicates=200)
  value, (low, high) = found['auc_probability']
  part = better[better.fold != 0]
  wanted = sklearn.metrics.roc_auc_score(
    part.label, part.probability
  ) - sklearn.metrics.roc_auc_score(half.label, half.probability)
  assert value == pytest.approx(wanted)
  assert 0 < low < value < high


def test_a_single_seed_borrows_the_spread_of_the_yardstick():
  ours, theirs = made_up(), made_up(seed=1)
  spread = [made_up(seed=seed, quality=0.3 * seed) for seed in (1, 2, 3)]
  plain = comparison.differences([ours], [theirs], replicates=300)
  wider = comparison.differences(
    [ours], [theirs], yardstick=spread, replicates=300
  )
  for name in ('auc_probability', 'dice_positive_at_0.5'):
    assert plain[name][0] == wider[name][0]
    (low, high), (lower, higher) = plain[name][1], wider[name][1]
    assert higher - lower > 1.5 * (high - low)


def test_a_network_without_a_presence_head_has_one_interval():
  """Its probability is the largest pixel's, and so is the borrowed spread."""
  spread = [made_up(seed=seed, quality=0.3 * seed) for seed in (1, 2, 3)]
  headless = dataclasses.replace(
    made_up(seed=4), probability=made_up(seed=4).maximum
  )
  drawn, _ = comparison._replicates({'': [headless]}, 50, yardstick=spread)
  found = drawn['']
  assert np.ptp(found['auc_maximum']) > 0.01
  for name in ('auc_probability', 'auc_mean_probability'):
    np.testing.assert_allclose(found[name], found['auc_maximum'])
  assert not found['mean_above_maximum'].any()


def test_a_borrowed_spread_shrinks_with_the_number_of_films():
  """Four times the films, and as many more networks: half of it."""
  spread = [made_up(seed=seed, quality=0.3 * seed) for seed in (1, 2, 3)]
  moved = []
  for count in (75, 300):
    table = {'': [made_up(count=count)]}
    plain, _ = comparison._replicates(table, 50)
    drawn, _ = comparison._replicates(table, 50, yardstick=spread)
    moved.append(drawn['']['auc_maximum'] - plain['']['auc_maximum'])
  assert np.abs(moved[1]).max() > 0.01
  np.testing.assert_allclose(moved[0], 2 * moved[1], rtol=1e-6)


def test_means_of_several_seeds_vary_less_than_one_seed():
  """Independent seeds of equal spread: S of them by 1/sqrt(S)."""
  random = np.random.default_rng(0)
  by_seed = {comparison.CRITERION: random.normal(size=(200, 1)).repeat(9000, 1)}
  spread = by_seed[comparison.CRITERION][:, 0].std(ddof=1)
  for count in (1, 3):
    moved = comparison._moved(by_seed, count, random)[comparison.CRITERION]
    assert moved.std() == pytest.approx(spread / np.sqrt(count), rel=0.05)


def test_seeds_are_compared_on_the_films_that_both_recipes_have():
  """One seed on all folds, another on some, against a recipe of some."""
  every, other = made_up(), made_up(seed=1)
  some = other[other.fold != 0]
  ours, theirs = report.compared([every, some], [other])
  assert [len(each) for each in (*ours, *theirs)] == [300, 300]
  ours, theirs = report.compared([every, some], [some])
  assert [len(each) for each in (*ours, *theirs)] == [len(some)] * 3
  sets = report.film_sets([every, some])
  assert [[len(each) for each in seeds] for seeds in sets] == [
    [300],
    [len(some)] * 2,
  ]


def test_choice_among_equal_recipes_is_corrected_downwards():
  """The best of equals is ahead by luck, which the correction takes away."""
  equal = {f'recipe{seed}': [made_up(seed=seed)] for seed in range(8)}
  _, plain, corrected = comparison.corrected_for_choice(equal, replicates=300)
  everyone = [
    float(
      comparison.metrics(each)(np.ones((1, len(each))))[comparison.CRITERION][0]
    )
    for (each,) in equal.values()
  ]
  assert plain[comparison.CRITERION] == pytest.approx(max(everyone))
  assert corrected[comparison.CRITERION][0] < max(everyone)
  assert corrected[comparison.CRITERION][0] > min(everyone) - 0.02


def test_a_clear_choice_needs_no_correction():
  recipes = {
    'bad': [made_up(quality=0.1)],
    'good': [made_up(quality=2.0, seed=seed) for seed in (1, 2)],
  }
  chosen, plain, corrected = comparison.corrected_for_choice(
    recipes, replicates=300
  )
  assert chosen == 'good'
  assert corrected[comparison.CRITERION][0] == pytest.approx(
    plain[comparison.CRITERION], abs=0.02
  )


def test_predictive_values_count_a_thousand_films():
  # 50 with a pneumothorax, of whom 40 are found; 95 of 950 false alarms.
  found = comparison.predictive_values(0.8, 0.9, 0.05)
  assert found == pytest.approx((40 / 135, 855 / 865))


def test_groups_count_the_films_that_are_flagged():
  wanted = made_up()
  wanted.view[::3] = 'AP'
  found = {
    group.name: group for group in comparison.by_group(wanted, specificity=0.9)
  }
  threshold = np.sort(wanted.maximum[~wanted.label])[
    round(0.9 * (~wanted.label).sum()) - 1
  ]
  chosen = wanted.label & (wanted.view == 'AP')
  group = found['positive, AP']
  assert group.count == chosen.sum()
  share = (wanted.maximum[chosen] > threshold).mean()
  assert group.flagged == pytest.approx(share, abs=2 / group.count)
  assert group.flagged_interval[0] <= group.flagged <= group.flagged_interval[1]
  positives = [each for name, each in found.items() if 'px' in name]
  assert sum(each.count for each in positives) == wanted.label.sum()
  assert [each.count for each in positives] == pytest.approx(
    [wanted.label.sum() / 4] * 4, abs=1
  )
  assert np.isnan(found['negative, PA'].dice)


def test_doubtful_negatives_are_left_empty_less_often():
  table = made_up()
  doubtful = ~table.label & (table.maximum > np.median(table.maximum))
  ours, others = comparison.empty_share(table, doubtful, specificity=0.9)
  assert ours < 0.9 < others == 1
  negative = ~table.label
  share = (
    ours * doubtful.sum() + (negative & ~doubtful).sum()
  ) / negative.sum()
  assert share == pytest.approx(0.9, abs=0.01)


def test_runs_are_joined_by_recipe_and_seed(tmp_path):
  table = made_up(count=40)
  for seed in range(2):
    for fold_number in range(2):
      part = dataclasses.replace(
        table[np.arange(40) % 2 == fold_number], fold=np.full(20, fold_number)
      )
      path = tmp_path / f'mild/seed{seed}_fold{fold_number}.csv'
      path.parent.mkdir(exist_ok=True)
      films.write(path, part)
  runs = [path.relative_to(tmp_path) for path in tmp_path.rglob('*.csv')]
  found = differences.seeds(
    [str(run.with_suffix('')) for run in runs], tmp_path
  )
  assert [each.image_id.tolist() for each in found] == [
    table.image_id.tolist()
  ] * 2


def test_report_has_a_row_for_every_recipe(tmp_path, monkeypatch):
  monkeypatch.setattr(comparison, 'REPLICATES', 20)
  for name, seeds in {'default': 2, 'mild': 1, 'torch': 1}.items():
    for seed in range(seeds):
      table = made_up(seed=seed, quality=1.0 + len(name) / 10)
      for number in range(3):
        path = tmp_path / name / f'seed{seed}_fold{number}.csv'
        films.write(path, table[table.fold == number])
  best = tmp_path / 'mild' / 'seed0_fold1_best.csv'
  films.write(best, films.read(tmp_path / 'default' / 'seed0_fold1.csv'))
  text = report.text(tmp_path)
  assert text.count('| default |') >= 2
  assert '| mild |' in text
  assert 'Differences from torch' in text
  assert 'validation prefers adds to mild' in text
  assert 'Best of 2 recipes' in text
