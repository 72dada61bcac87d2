"""The study's arithmetic, on made-up tables of films."""

import dataclasses

import cv2
import flax.linen as nn
import jax
import numpy as np
import pytest
import sklearn.metrics
import small_run

from benchmarks.study import __main__ as study
from benchmarks.study import (
  comparison,
  differences,
  films,
  fold,
  other_films,
  plan,
  pretrain,
  pseudo_masks,
  report,
  score,
)
from data_prep import manifest_reader
from pnx_jax.config import check_config
from pnx_jax.evaluation.dataset_predictor import DatasetPredictor
from pnx_jax.formats import files
from pnx_jax.input import pipeline
from pnx_jax.metrics.dice import THRESHOLDS
from pnx_jax.models import pretrained, segmenter
from pnx_jax.prediction.ensemble import Ensemble
from pnx_jax.prediction.network import Network
from pnx_jax.training import sharding

KEY = jax.random.key(0)


def made_up(*, seed=0, quality=1.0, count=300) -> films.Films:
  """Films whose truth is the same for every seed and quality."""
  truth = np.random.default_rng(99)
  random = np.random.default_rng(seed)
  label = truth.random(count) < 0.3
  truth_area = np.where(label, truth.integers(200, 40_000, count), 0)
  level = np.array(THRESHOLDS)
  logit = quality * (2.0 * label - 1) + random.normal(size=count)
  maximum = 1 / (1 + np.exp(-logit))
  shrunk = np.clip(1 - level / maximum[:, None], 0, 1)
  predicted = (shrunk * (truth_area + 3000)[:, None]).astype(int)
  share = np.clip(random.normal(0.4 * quality, 0.1, count), 0, 1)
  both = np.minimum(predicted * share[:, None], truth_area[:, None]).astype(int)
  return films.Films(
    image_id=np.array([f'film{number:04}' for number in range(count)]),
    patient=np.arange(count) // 2,
    fold=np.arange(count) // 2 % 3,
    view=np.array(['PA'] * count),
    probability=maximum,
    maximum=maximum,
    truth_area=truth_area,
    predicted_area=predicted,
    intersection=both,
  )


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


def test_every_variant_makes_a_config_that_can_train():
  names = [variant.name for variant in plan.VARIANTS]
  assert len(set(names)) == len(names)
  for place, variant in enumerate(plan.VARIANTS):
    assert variant.parent in ('', *names[:place])
    run = plan.Run(variant, 0, 1)
    config = plan.config(run, 'data', output_dir='out')
    check_config(config)
    assert plan.parse(str(run)) == run
  with pytest.raises(ValueError, match='nobody/seed0_fold0'):
    plan.parse('nobody/seed0_fold0')


def test_an_average_names_the_runs_that_it_is_made_of():
  run = plan.parse('three_networks/seed0_fold1')
  assert [str(member) for member in plan.members(run)] == [
    'default/seed0_fold1',
    'default/seed1_fold1',
    'default/seed2_fold1',
  ]
  assert not plan.members(plan.parse('default/seed0_fold1'))


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


def test_progress_names_the_next_run_and_the_time_left():
  line = plan.progress(9, plan.runs()[2:4], 30.0)
  assert line == (
    'study: 7 of 9 runs done; next default/seed0_fold2; about 1:00:00 left'
  )


def test_the_last_weights_of_a_fold_are_scored(trained_run, dataset_dir):
  config = small_run.config(dataset_dir)
  mesh = sharding.mesh()
  network = fold.last_network(config, trained_run, mesh)
  found = fold.score([network], config, mesh)
  dataset = pipeline.Dataset(dataset_dir, ['fold0'])
  assert found.image_id.tolist() == [each.image_id for each in dataset.records]
  assert found.label.tolist() == (dataset.labels == 1).tolist()
  # Validated once, at its end: the best weights are the last.
  wanted = DatasetPredictor(
    Ensemble(networks=[Network.load(trained_run, 0, mesh=mesh)], mesh=mesh),
    pipeline.Loader(batch_size=8),
  ).statistics(dataset)
  np.testing.assert_allclose(
    found.probability, wanted['probability'], rtol=1e-4
  )
  np.testing.assert_array_equal(found.truth_area, wanted['truth_area'])


def test_runs_whose_table_is_there_are_not_trained_again(tmp_path):
  runs = plan.runs()[:3]
  assert plan.waiting(runs, tmp_path) == runs
  films.write(tmp_path / f'{runs[1]}.csv', made_up(count=20))
  assert plan.waiting(runs, tmp_path) == [runs[0], runs[2]]


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


def test_a_network_starts_from_the_encoder_that_learned_findings(tmp_path):
  random = np.random.default_rng(0)

  def drawn(model):
    """Variables of a model, without compiling it."""
    image = np.zeros((1, 64, 64, 1), np.float32)
    shapes = jax.eval_shape(lambda key: model.init(key, image, False), KEY)
    return jax.tree.map(
      lambda x: random.normal(size=x.shape).astype(np.float32), dict(shapes)
    )

  learned = drawn(pretrain.Classifier())
  path = tmp_path / 'findings.safetensors'
  pretrain.write(path, learned)
  network = segmenter.create_model('efficientnet_lite0', width=4, depth=5)
  loaded = pretrained.load(path, drawn(network), encoder='efficientnet_lite0')
  for part in ('params', 'batch_stats'):
    jax.tree.map(
      np.testing.assert_array_equal,
      loaded[part]['encoder'],
      learned[part]['encoder'],
    )


class _Interrupted(Exception):
  pass


def test_an_interrupted_encoder_resumes_bit_for_bit(tmp_path, monkeypatch):
  class Model(nn.Module):
    @nn.compact
    def __call__(self, image, train):
      image = nn.BatchNorm(not train, name='norm')(image)
      return nn.Dense(len(pretrain.FINDINGS))(image.mean(axis=(1, 2)))

  monkeypatch.setattr(pretrain, '_CHECKPOINT_STEPS', 2)
  monkeypatch.setattr(
    pretrain,
    'initial',
    lambda model: model.init(KEY, np.zeros((1, 8, 8, 1)), False),
  )
  random = np.random.default_rng(0)
  images = random.integers(0, 256, (10, 8, 8)).astype(np.uint8)
  findings = random.random((10, len(pretrain.FINDINGS))) < 0.5

  def trained(name):
    return pretrain.train(
      Model(),
      images,
      findings,
      steps=6,
      batch_size=4,
      checkpoint=tmp_path / name,
    )

  undisturbed = trained('undisturbed')
  write = files.write

  def interrupt(path, content):
    write(path, content)
    raise _Interrupted

  with monkeypatch.context() as patched:
    patched.setattr(files, 'write', interrupt)
    with pytest.raises(_Interrupted):
      trained('interrupted')
  jax.tree.map(
    np.testing.assert_array_equal, undisturbed, trained('interrupted')
  )


def test_another_programs_networks_are_averaged():
  networks = [
    [(np.full((2, 2), level), level / 2), (np.zeros((2, 2)), level)]
    for level in (0.2, 0.6)
  ]
  (first, probability), (second, other) = score.averaged(networks)
  np.testing.assert_allclose(first, 0.4)
  assert (second.max(), probability, other) == pytest.approx((0, 0.2, 0.4))


def test_only_the_surest_predictions_become_masks():
  films = []
  for number in range(30):
    probs = np.full((1024, 1024), 0.01 * number, np.float32)
    probs[:2, 3] = 0.3 + 0.01 * (number - 27)
    films.append((probs, 0.5))
  # No pixel of film 27 is above the level of masks: it is one of the surest.
  assert pseudo_masks.confident(films) == {
    **dict.fromkeys(range(15), ''),
    28: '3072 2',
    29: '3072 2',
  }


def test_films_of_nih_stand_unlabeled_beside_the_folds(tmp_path, monkeypatch):
  study = tmp_path / 'siim_study'
  study.mkdir()
  (study / 'nih_id.csv').write_text(
    'Kaggle_ID,NIH_ID\na,00000001_000.png\nb,00000002_000.png\n'
  )
  (study / 'train-rle.csv').write_text(
    'ImageId, EncodedPixels\na, 1 2\na, 9 1\nb, -1\n'
  )
  monkeypatch.setattr(
    pretrain,
    'chosen',
    lambda _: [
      {'image_id': '00000003_000', 'patient': '00000003', 'nih_labels': name}
      for name in ('Mass|Pneumothorax', 'No Finding')
    ],
  )
  path = tmp_path / 'films.csv'
  rows = (
    *other_films.annotated(tmp_path, {'a': 1, 'b': 0}),
    next(other_films.others(tmp_path, 'nih', held_out=4)),
  )
  files.write_csv(path, other_films.COLUMNS, rows)
  (one, other, third), _ = manifest_reader.read(path)
  assert (one.image_id, one.fold, one.patient) == ('a', 1, '00000001')
  assert one.path == str(study / 'dicom-images' / 'a.dcm')
  assert list(one.rles) == ['1 2', '9 1']
  assert (other.image_id, other.fold, other.label) == ('b', 0, 0)
  assert (third.image_id, third.fold, third.label) == (
    '00000003_000',
    None,
    None,
  )
  assert third.source == 'nih'
  (negative,) = other_films.others(tmp_path, 'nih_negatives', held_out=4)
  assert negative[1:] == ('00000003_000', '00000003', 'nih', '0', '0', '')


def test_films_that_show_patients_of_the_study_are_left_out(
  tmp_path, monkeypatch
):
  """NIH's films tell whose films of the second test set they copy."""
  random = np.random.default_rng(0)
  pictures = {
    name: cv2.resize(random.integers(0, 256, (16, 16), np.uint8), (256, 256))
    for name in ('00000001_005', '00000002_000', '00000003_000')
  }
  for name in ('siim_study', 'nih_labelled/images', 'siim_stage2_320'):
    (tmp_path / name).mkdir(parents=True)
  (tmp_path / 'siim_study' / 'nih_id.csv').write_text(
    'Kaggle_ID,NIH_ID\na,00000001_000.png\n'
  )
  (tmp_path / 'nih_labelled' / 'labels.csv').write_text(
    'image_id,patient,nih_labels\n'
    + ''.join(f'{name},{name[:8]},Mass\n' for name in pictures)
  )
  for name, pixels in pictures.items():
    image = tmp_path / 'nih_labelled' / 'images' / f'{name}.jpg'
    cv2.imwrite(str(image), pixels)
  test = dict(zip(('x', 'y'), pictures.values(), strict=False))
  for name in test:
    (tmp_path / 'siim_stage2_320' / f'{name}.dcm').touch()
  film = dataclasses.make_dataclass('Film', ['pixels'])
  monkeypatch.setattr(
    pretrain.dicom, 'read', lambda path: film(test[path.stem])
  )
  rows = other_films.others(tmp_path, 'test', held_out=0)
  assert [row[1] for row in rows] == ['y']
  assert [row['image_id'] for row in pretrain.chosen(tmp_path)] == [
    '00000003_000'
  ]


@pytest.fixture
def commands(monkeypatch):
  """The commands that the study would run."""
  run = []
  monkeypatch.setattr(study, '_run', lambda *command: run.append(command))
  return run


def test_an_average_trains_the_networks_that_are_missing(tmp_path, commands):
  there = tmp_path / 'default/seed1/fold0/checkpoints/500'
  there.mkdir(parents=True)
  results = tmp_path / 'results'
  films.write(results / 'default/seed0_fold0.csv', made_up(count=20))
  run = plan.parse('three_networks/seed0_fold0')
  study.Study('/films', 'records', tmp_path, results).train(run)
  trained = [
    (command[1], command[-1])
    for command in commands
    if command[0] == 'benchmarks.study.fold'
  ]
  assert trained == [
    # The table that is there stays.
    ('--run=default/seed0_fold0', f'--results_dir={tmp_path}/again'),
    ('--run=default/seed2_fold0', f'--results_dir={results}'),
  ]
  assert commands[-1][:2] == (
    'benchmarks.study.averaged',
    '--runs=default/seed0_fold0,default/seed1_fold0,default/seed2_fold0',
  )


def test_masks_of_networks_are_drawn_again_for_other_networks(
  tmp_path, commands
):
  run = plan.parse('self_training/seed0_fold1')
  for output in (tmp_path, tmp_path / 'fresh'):
    for seed in (0, 1, 2):
      (output / f'default/seed{seed}/fold1/checkpoints/500').mkdir(parents=True)
    study.Study('/films', 'records', output, tmp_path).train(run)
  outputs = [
    next(each for each in command if each.startswith('--output='))
    for command in commands
    if command[0] == 'benchmarks.study.pseudo_masks'
  ]
  assert outputs == [
    f'--output={tmp_path}/three_networks/masks_fold1',
    f'--output={tmp_path}/fresh/three_networks/masks_fold1',
  ]
