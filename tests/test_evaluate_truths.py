"""An evaluation scores each metric on the films whose truth supports it."""

import csv
import json
import shutil

import mixed_truths
import numpy as np
import pytest
import small_run
from sklearn import metrics as sklearn_metrics

from pnx_jax.errors import UserError
from pnx_jax.evaluation import comparison, localization, rule_search
from pnx_jax.evaluation.evaluate import evaluate
from pnx_jax.formats import evaluation_files, schema
from pnx_jax.input import pipeline, truths
from pnx_jax.training.train import train


@pytest.fixture(scope='module')
def mixed(dataset_dir, tmp_path_factory):
  """Films with masks, boxes and labels, from two sources."""
  return mixed_truths.write(dataset_dir, tmp_path_factory.mktemp('mixed') / 'd')


@pytest.fixture(scope='module')
def evaluated(trained_run, mixed, tmp_path_factory):
  """Folder and metrics of an evaluation on fold 0."""
  run = shutil.copytree(
    trained_run, tmp_path_factory.mktemp('of_mixed') / 'run'
  )
  changes = {'eval.bootstrap': 30, 'eval.num_overlays': 2}
  metrics = evaluate(small_run.config(mixed, **changes), run)
  return run / 'eval', metrics


def rows_of(folder, name='per_image.csv'):
  with (folder / name).open() as file:
    return list(csv.DictReader(file))


def test_metrics_count_the_films_whose_truth_supports_them(evaluated, mixed):
  folder, metrics = evaluated
  records = pipeline.Dataset(mixed, ['fold0']).records
  rows = rows_of(folder)
  known = [r.truth == schema.MASK for r in records]
  assert [row['image_id'] for row in rows] == [r.image_id for r in records]
  assert [bool(row['dice']) for row in rows] == known
  assert [bool(row['truth_area']) for row in rows] == known
  label = np.array([r.label for r in records])
  assert metrics['num_images'] == len(rows) > metrics['num_masks'] == sum(known)
  assert metrics['num_positive_masks'] == label[known].sum() < label.sum()
  assert metrics['num_box_images'] == sum(
    r.truth == schema.BOX for r in records
  )
  dice = np.array([float(row['dice'] or 'nan') for row in rows])
  probability = [float(row['probability']) for row in rows]
  found = np.array([int(row['predicted_area']) > 0 for row in rows])
  for name, expected in {
    'dice': dice[known].mean(),
    'dice_positive': dice[known & (label == 1)].mean(),
    'all_empty_dice': 1 - label[known].mean(),
    'auc': sklearn_metrics.roc_auc_score(label, probability),
    'sensitivity': found[label == 1].mean(),
    'specificity': 1 - found[label == 0].mean(),
    'brier': np.mean((probability - label) ** 2),
  }.items():
    np.testing.assert_allclose(metrics[name], expected, err_msg=name)
  table = evaluation_files.read_per_image(folder / 'per_image.csv')
  np.testing.assert_array_equal(np.isfinite(table.dice), known)


def test_each_source_is_scored_and_every_n_is_told(evaluated):
  folder, metrics = evaluated
  by_source = [metrics[f'source={source}/num_images'] for source in 'ab']
  assert sum(by_source) == metrics['num_images']
  masks = [metrics[f'source={source}/num_masks'] for source in 'ab']
  assert sum(masks) == metrics['num_masks']
  page = (folder / 'report.html').read_text()
  assert 'Not every mask is known' in page and 'hit rate' in page
  shown = [path.name for path in (folder / 'overlays').rglob('*.png')]
  known = {row['image_id'] for row in rows_of(folder) if row['dice']}
  assert shown and all(any(name in x for name in known) for x in shown)
  assert {row['image_id'] for row in rows_of(folder, 'outlines.csv')} <= known
  assert json.loads((folder / 'metrics.json').read_text()).keys() == set(
    metrics
  )


def test_runs_are_compared_on_the_films_whose_mask_is_known(evaluated):
  folder, metrics = evaluated
  other = shutil.copytree(folder.parent, folder.parent.with_name('other'))
  found = comparison.compare([[folder.parent], [other]], replicates=20)
  assert found.num_films == metrics['num_masks']
  assert all(row.difference.difference == 0 for row in found.rows)


def film(image_id, *boxes, truth=schema.BOX, patient=0):
  return type(
    'Film',
    (),
    {
      'image_id': image_id,
      'truth': truth,
      'patient': patient,
      'boxes': np.array([[*box, box[2] * box[3]] for box in boxes]),
    },
  )


def test_boxes_are_hit_by_the_part_of_detected_boxes_inside_of_them():
  records = [
    film('half', (0, 0, 10, 10), patient=1),
    film('two', (0, 0, 10, 10), (50, 50, 10, 10), patient=2),
    film('nothing', (0, 0, 10, 10), patient=3),
    film('mask', (0, 0, 10, 10), truth=schema.MASK, patient=4),
  ]
  detected = [
    ('half', 5, 0, 10, 10, 60),  # Half of it lies inside.
    ('two', 2, 2, 4, 4, 16),  # All of it.
    ('two', 48, 50, 10, 10, 70),  # Four fifths, of the second box.
    ('two', 80, 80, 5, 5, 9),  # None.
    ('mask', 30, 30, 5, 5, 9),
  ]
  found = localization.summarize(records, detected, replicates=20).values
  assert found['num_box_images'] == 3 and found['num_boxes'] == 4
  assert found['box_hit_rate_10'] == found['box_hit_rate_50'] == 3 / 4
  np.testing.assert_allclose(found['box_iobb'], (0.5 + 1 + 0.8 + 0) / 4)
  np.testing.assert_allclose(found['box_false_positives'], 1 / 3)
  assert localization.summarize(records[3:], detected, replicates=20) is None


def test_rules_are_chosen_by_the_films_whose_mask_is_known():
  random = np.random.default_rng(0)
  number = 60
  areas = np.sort(random.integers(0, 9000, (number, 30)), axis=1)[:, ::-1]
  statistics = {
    'predicted_area': areas,
    'intersection': areas // 2,
    'truth_area': random.integers(0, 2, number) * areas[:, 8],
    'probability': random.random(number),
  }
  groups = np.arange(number) % 3
  known = random.random(number) < 0.5
  known[groups == 2] = False  # Of a whole group no mask is known.
  mixed = rule_search.cross_fit(statistics | {'mask_known': known}, groups)
  part = {name: x[known] for name, x in statistics.items()}
  alone = rule_search.cross_fit(part, groups[known])
  assert mixed.rule == alone.rule == mixed.group_rules[2]
  assert mixed.group_rules[:2] == alone.group_rules
  np.testing.assert_array_equal(mixed.outcome.dice[known], alone.outcome.dice)
  assert np.isnan(mixed.outcome.dice[~known]).all()
  assert mixed.outcome.predicted.shape == (number,)


def test_a_dataset_without_any_mask_is_one_line(evaluated, mixed, monkeypatch):
  monkeypatch.setattr(
    truths, 'mask_known', lambda truth, label: np.zeros(len(label), bool)
  )
  for command in (train, evaluate):
    with pytest.raises(UserError, match='no mask is known of any film'):
      command(small_run.config(mixed), evaluated[0].parent)


@pytest.mark.slow
def test_a_run_on_films_with_masks_boxes_and_labels(mixed, tmp_path):
  config = small_run.config(
    mixed, total_steps=2, checkpoint_steps=2, source_weights='a=1,b=3'
  )
  scores = train(config, tmp_path)
  assert np.isfinite([scores['dice'], scores['auc'], scores['loss']]).all()
  events = small_run.events(tmp_path)
  assert np.isfinite(events['train/dice'][-1][1])
  images = [events[f'validation_of/{x}/num_images'][-1][1] for x in 'ab']
  masks = [events[f'validation_of/{x}/num_masks'][-1][1] for x in 'ab']
  assert sum(images) > sum(masks) > 0
  assert sum(images) == len(pipeline.Dataset(mixed, ['fold0']))
