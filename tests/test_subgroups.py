"""Subgroups: coverage of all intervals at once, and what is called worst."""

import dataclasses

import numpy as np
import pytest

from pnx_jax.errors import UserError
from pnx_jax.evaluation import attributes
from pnx_jax.metrics import subgroups, summary
from pnx_jax.metrics.summary import Images


def _images(drain, label, shortcut, seed=0):
  """Scores that rise with the disease and, by a shortcut, with a drain."""
  rng = np.random.default_rng(seed)
  score = 1.5 * label + shortcut * drain + rng.normal(size=len(label))
  predicted = score > 0.75
  dice = np.where(label, predicted * rng.uniform(0.3, 0.9, len(label)), 1.0)
  return Images(
    label=label,
    probability=1 / (1 + np.exp(-score)),
    dice=np.where(~label & predicted, 0.0, dice),
    predicted=predicted,
    truth_area=label * 900,
    predicted_area=predicted * 900,
    intersection=label * predicted * 500,
    patient=np.arange(len(label)) // 2,
  )


def _study(with_air, without_air, shortcut, seed=0, num_images=600):
  """Films of which a share has a drain, by whether there is a pneumothorax."""
  rng = np.random.default_rng(seed)
  label = rng.random(num_images) < 0.4
  drain = rng.random(num_images) < np.where(label, with_air, without_air)
  tables = {'drain': {'yes': drain, 'no': ~drain}}
  images = _images(drain, label, shortcut, seed)
  return images, tables, subgroups.differences(images, tables, replicates=300)


def test_differences_are_those_of_the_metrics():
  images, tables, found = _study(0.5, 0.4, 0.5)
  for each in found:
    chosen = tables[each.table][each.row]
    for side, value in ((chosen, each.inside), (~chosen, each.outside)):
      expected = summary.compute(images[side])[each.metric][0]
      assert value == pytest.approx(expected, rel=1e-12)
    low, high = each.interval
    assert (low + high) / 2 == pytest.approx(each.difference)


def test_a_network_that_sees_drains_is_exposed_and_its_twin_is_not():
  _, _, found = _study(0.9, 0.05, shortcut=1.5)
  missed = subgroups.worst(found, 'sensitivity')
  assert (missed.table, missed.row) == ('drain', 'no')
  assert missed.interval[1] < 0
  false_alarms = subgroups.worst(found, 'specificity')
  assert (false_alarms.table, false_alarms.row) == ('drain', 'yes')
  _, _, found = _study(0.3, 0.3, shortcut=0.0)
  for metric in subgroups.METRICS:
    assert subgroups.worst(found, metric) is None


def test_calls_expose_a_network_whose_masks_are_empty():
  images, tables, _ = _study(0.9, 0.05, shortcut=1.5)
  called, nothing = images.predicted, np.zeros(len(images), int)
  images = dataclasses.replace(
    images, predicted=nothing > 0, predicted_area=nothing, intersection=nothing
  )
  found = subgroups.differences(images, tables, called=called, replicates=300)
  assert subgroups.worst(found, 'sensitivity') is None
  missed = subgroups.worst(found, 'sensitivity_of_calls')
  alarmed = subgroups.worst(found, 'specificity_of_calls')
  assert (missed.row, alarmed.row) == ('no', 'yes')
  side = tables['drain']['no'] & images.label
  assert missed.inside == pytest.approx(called[side].mean())


def test_all_intervals_hold_at_once():
  """20 attributes that mean nothing: one in 20 studies may resolve any."""
  resolved = 0
  studies = 60
  for seed in range(studies):
    rng = np.random.default_rng(1000 + seed)
    label = rng.random(240) < 0.5
    images = _images(np.zeros(240), label, 0.0, seed)
    tables = {
      f'noise{n}': {'yes': chosen, 'no': ~chosen}
      for n, chosen in enumerate(rng.random((20, 240)) < 0.5)
    }
    found = subgroups.differences(images, tables, replicates=200, seed=seed)
    resolved += subgroups.worst(found, 'dice_positive') is not None
  # Single 95 % intervals would resolve one in nearly every study.
  assert resolved / studies < 0.15


def test_constant_and_tiny_subgroups_have_no_interval():
  rng = np.random.default_rng(0)
  label = rng.random(100) < 0.5
  images = _images(np.zeros(100), label, 0.0)
  few = np.arange(100) < 4
  tables = {
    'constant': {'always': np.ones(100, bool)},
    'rare': {'yes': few, 'no': ~few},
  }
  for each in subgroups.differences(images, tables, replicates=100):
    assert each.interval is None
  assert np.isnan(
    subgroups.differences(images, tables, replicates=10)[0].outside
  )


IDS = ['a', 'b', 'c', 'd']


def test_a_few_patients_that_are_all_missed_prove_nothing():
  """Five of five are missed in a subgroup, and 70 of 100 elsewhere."""
  rng = np.random.default_rng(0)
  label = np.ones(105, bool)
  images = _images(np.zeros(105), label, 0.0)
  predicted = np.append(rng.permutation(100) < 30, np.zeros(5, bool))
  images = dataclasses.replace(
    images, predicted=predicted, patient=np.arange(105)
  )
  few = np.arange(105) >= 100
  (found, _) = (
    each
    for each in subgroups.differences(
      images, {'rare': {'yes': few, 'no': ~few}}
    )
    if each.metric == 'sensitivity'
  )
  assert found.inside == 0 and found.interval[0] < found.difference < 0
  assert found.interval[1] > 0


def test_a_table_of_attributes_is_read(tmp_path):
  path = tmp_path / 'groups.csv'
  path.write_text('drain,image_id,site\nyes,b,1\nno,a,2\n,c,1\nno,other,9\n')
  found = attributes.read(path, IDS)
  assert {name: list(rows) for name, rows in found.items()} == {
    'drain': ['no', 'unknown', 'yes'],
    'site': ['1', '2', 'unknown'],
  }
  assert found['drain']['unknown'].tolist() == [False, False, True, True]
  assert found['site']['1'].tolist() == [False, True, True, False]


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', 'expected a column image_id'),
    ('image_id\na\n', 'at least one other'),
    ('id,drain\na,1\n', 'expected a column image_id'),
    ('image_id,view\na,1\n', "'view' needs another name"),
    ('image_id,label\na,1\n', "'label' needs another name"),
    ('image_id,x,y,x x y\na,1,2,3\n', "'x x y' needs another name"),
    ('image_id,x,x\na,1,2\n', "'x' needs another name"),
    ('image_id,x\na,1\na,2\n', 'line 3: a is there twice'),
    ('image_id,x\na,1,2\n', 'line 2: 3 cells instead of 2'),
    ('image_id,x\nq,1\n', 'names none of the 4 images'),
  ],
)
def test_other_tables_are_one_line(tmp_path, text, message):
  path = tmp_path / 'groups.csv'
  path.write_text(text)
  with pytest.raises(UserError, match=message):
    attributes.read(path, IDS)


def test_a_table_of_patients_needs_to_know_them(tmp_path):
  groups, patients = tmp_path / 'groups.csv', tmp_path / 'nih_id.csv'
  groups.write_text('patient,emphysema\n00000007,yes\n00000009,no\n')
  with pytest.raises(UserError, match=r'eval\.patient_map'):
    attributes.read(groups, ['a', 'b', 'c'])
  patients.write_text(
    'Kaggle_ID,NIH_ID\na,00000007_000.png\nb,00000007_001.png\n'
    'c,00000009_000.png\n'
  )
  found = attributes.read(groups, ['a', 'b', 'c', 'd'], patient_map=patients)
  assert {row: x.tolist() for row, x in found['emphysema'].items()} == {
    'yes': [True, True, False, False],
    'no': [False, False, True, False],
    'unknown': [False, False, False, True],
  }


def test_columns_are_combined_with_each_other_and_the_label():
  yes = np.array([True, False, True, False])
  tables = {'drain': {'yes': yes, 'no': ~yes}, 'site': {'A': yes | True}}
  label = np.array([True, True, False, False])
  found = attributes.two_way(label, tables)
  assert set(found) == {'drain x site', 'drain x label', 'site x label'}
  assert found['drain x label']['yes, negative'].tolist() == [
    *(False, False, True, False),
  ]
  assert set(found['drain x site']) == {'yes, A', 'no, A'}


def test_disputed_images_are_some_of_those_evaluated(tmp_path):
  path = tmp_path / 'disputed.csv'
  path.write_text('image_id,why\nb,blurred\nz,unknown\n')
  assert attributes.read_list(path, ['a', 'b']).tolist() == [False, True]
  for ids, words in ((['c'], 'none of the 1'), (['b'], 'all of the 1')):
    with pytest.raises(UserError, match=words):
      attributes.read_list(path, ids)


def test_a_column_of_numbers_is_refused(tmp_path):
  path = tmp_path / 'groups.csv'
  ids = [f'{number}' for number in range(30)]
  path.write_text('image_id,weight\n' + ''.join(f'{i},{i}.5\n' for i in ids))
  with pytest.raises(UserError, match="'weight' has 30 values"):
    attributes.read(path, ids)
