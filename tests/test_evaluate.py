"""Evaluation as the command runs it, on phantoms and on doctored answers."""

import contextlib
import csv
import dataclasses
import json
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import types

import cv2
import numpy as np
import pytest
import sklearn.metrics
import small_run

from pnx_jax.errors import UserError
from pnx_jax.evaluation import (
  data_description,
  protocol,
  result_files,
  results,
  rule_search,
)
from pnx_jax.evaluation import evaluate as evaluation
from pnx_jax.evaluation.cross_validation import HeldOut
from pnx_jax.evaluation.report import reporting_sheet
from pnx_jax.formats import (
  built_dataset,
  evaluation_files,
  files,
  letterbox,
  rle,
)
from pnx_jax.input import pipeline
from pnx_jax.metrics import intervals
from pnx_jax.metrics.dice import THRESHOLDS
from pnx_jax.metrics.rules import Rule
from pnx_jax.prediction.deployment import Deployment
from pnx_jax.prediction.network import SIZE
from pnx_jax.prediction.postprocess import Postprocess
from pnx_jax.training import run_files

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope='module')
def workdir(trained_run, tmp_path_factory):
  """A copy of the small run with two folds, the second trained like the first.

  Six steps teach nothing: what is tested is that the metrics are right.
  """
  path = tmp_path_factory.mktemp('evaluated') / 'run'
  shutil.copytree(trained_run, path)
  shutil.copytree(
    path / 'fold0' / 'checkpoints', path / 'fold1' / 'checkpoints'
  )
  small_run.seal(path)
  # Of an earlier evaluation, whose pictures go, and of the user, which stay.
  stale = path / 'eval' / 'overlays' / 'worst' / '07_stale.png'
  stale.parent.mkdir(parents=True)
  stale.touch()
  (path / 'eval' / 'submission.csv').touch()
  (path / 'eval' / 'notes.txt').write_text('of the user')
  return path


def _groups(path, dataset_dir):
  """A table of which every second film has a drain."""
  records = pipeline.Dataset(dataset_dir, ['fold0', 'fold1']).records
  rows = [(r.image_id, ('yes', 'no')[i % 2]) for i, r in enumerate(records)]
  files.write_csv(path, ('image_id', 'drain'), rows)
  return path


def _disputed_and_readers(folder, dataset_dir):
  """The first three films are disputed; a reader is always right."""
  records = pipeline.Dataset(dataset_dir, ['fold0', 'fold1']).records
  disputed, readers = folder / 'disputed.csv', folder / 'readers.csv'
  rows = [(record.image_id,) for record in records[:3]]
  files.write_csv(disputed, ('image_id',), rows)
  rows = [f'perfect,{r.image_id},{r.label},{r.rle}' for r in records[::2]]
  readers.write_text('\n'.join(['reader,image_id,call,rle', *rows]))
  return {'eval.disputed': str(disputed), 'eval.readers': str(readers)}


@pytest.fixture(scope='module')
def evaluated(workdir, dataset_dir):
  """The eval folder and what `evaluate` returned."""
  config = small_run.config(
    dataset_dir,
    **{
      'eval.bootstrap': 50,
      'eval.num_overlays': 2,
      'eval.groups': str(_groups(workdir.parent / 'groups.csv', dataset_dir)),
      **_disputed_and_readers(workdir.parent, dataset_dir),
    },
  )
  return workdir / 'eval', evaluation.evaluate(config, workdir)


def _rows(path):
  with path.open(newline='') as file:
    return list(csv.DictReader(file))


def test_metrics_follow_from_the_table_of_images(evaluated, dataset_dir):
  folder, metrics = evaluated
  assert json.loads((folder / 'metrics.json').read_text()) == metrics
  rows = _rows(folder / 'per_image.csv')
  assert tuple(rows[0]) == evaluation_files.PER_IMAGE
  dataset = pipeline.Dataset(dataset_dir, ['fold0', 'fold1'])
  assert [row['image_id'] for row in rows] == [
    record.image_id for record in dataset.records
  ]
  label = np.array([int(row['label']) for row in rows])
  dice = np.array([float(row['dice']) for row in rows])
  probability = np.array([float(row['probability']) for row in rows])
  assert metrics['num_images'] == len(rows)
  assert metrics['num_positive'] == label.sum() > 0
  assert metrics['num_folds'] == 2
  assert metrics['dice'] == pytest.approx(dice.mean())
  assert metrics['dice_positive'] == pytest.approx(dice[label == 1].mean())
  assert metrics['all_empty_dice'] == pytest.approx(1 - label.mean())
  assert metrics['auc'] == pytest.approx(
    sklearn.metrics.roc_auc_score(label, probability)
  )
  for row, record in zip(rows, dataset.records, strict=True):
    mask = rle.decode(record.rle, record.height, record.width)
    truth = letterbox.letterbox(mask, SIZE)
    assert int(row['truth_area']) == truth.sum()
    assert row['size_quartile'] in ('1234' if mask.any() else ('',))
  low, high = metrics['intervals']['dice']
  assert low < metrics['dice'] < high
  assert metrics['intervals']['size_quartile=1/auc'] is None
  assert metrics['size_quartile=1/auc'] is None
  assert metrics['drain=yes/num_images'] == (len(rows) + 1) // 2
  differences = _rows(folder / 'subgroups.csv')
  assert {'drain', 'view', 'sex', 'age'} == {
    row['table'] for row in differences
  }
  assert 'drain yes' in (folder / 'report.html').read_text()
  by_sex = [metrics[f'sex={sex}/num_images'] for sex in 'FM']
  assert sum(by_sex) == len(rows)


def test_what_was_trained_and_scored_on_is_told(evaluated, workdir):
  folder, metrics = evaluated
  seen = run_files.trained_on(workdir, 0)
  told = json.loads((folder / 'deployment.json').read_text())['data']
  assert told == (
    f'Trained on films of the data set records: {len(seen)} (fold 0 held out); '
    f'some (fold 1 held out). Scored on {metrics["num_images"]} films of '
    f'records of {metrics["num_patients"]} patients, '
    f'{metrics["num_positive"]} with a '
    'pneumothorax, each by networks that had not seen it. In records are 60 '
    'films, all of them synthetic, 24 with a pneumothorax; its '
    f'{_patients(workdir)} patients are identified by the patient map. The '
    'ensemble of all folds was not scored itself.'
  )
  told = data_description.describe(
    'data/siim/',
    built_dataset.Origin('auto', False, 90, 20, 0, 90, 'PatientID'),
    runs=[workdir, workdir],
    folds=[0],
    metrics=metrics,
  )
  assert told.count('Trained') == 1 and 'films of siim of' in told
  assert told.endswith(
    'In siim are 90 films, 20 with a pneumothorax; its 90 patients are '
    'identified by PatientID (training and validation may share patients).'
  )


def _patients(workdir):
  config = json.loads((workdir / 'config.json').read_text())
  splits = [f'fold{fold}' for fold in range(3)]
  records = pipeline.Dataset(config['data_dir'], splits).records
  return len({record.patient for record in records})


def test_lesions_readers_and_disputed_films_are_reported(evaluated):
  folder, metrics = evaluated
  images, lesions = (
    _rows(folder / f'{x}.csv') for x in ('per_image', 'lesions')
  )
  area = {row['image_id']: 0 for row in images if row['label'] == '1'}
  for row in lesions:
    area[row['image_id']] += int(row['area'])
  assert area == {
    row['image_id']: int(row['truth_area'])
    for row in images
    if int(row['label'])
  }
  assert metrics['without_disputed/num_images'] == len(images) - 3
  values = {
    row['metric']: row['value']
    for row in _rows(folder / 'readers.csv')
    if row['reader'] == 'perfect'
  }
  assert float(values['sensitivity']) == float(values['specificity']) == 1
  assert int(values['num_images']) == (len(images) + 1) // 2
  assert float(values['gain']) == 0


def test_figures_and_a_reporting_sheet_are_written(evaluated):
  folder, metrics = evaluated
  names = {path.name for path in (folder / 'figures').iterdir()}
  assert {'roc.svg', 'roc.pdf', 'froc.svg', 'sizes.pdf'} <= names
  sheet = (folder / 'claim.md').read_text()
  for items in (reporting_sheet.CLAIM, reporting_sheet.TRIPOD):
    for number, about in items.items():
      assert f'| {number} | {about} |' in sheet
  assert f'| 44 | {reporting_sheet.CLAIM["44"]} | **open** |' in sheet
  assert f'{metrics["num_images"]} radiographs of ' in sheet
  assert f'{metrics["dice"]:.3f}' in sheet
  assert metrics['interval_methods']['dice'] == intervals.WILSON


def test_the_submission_holds_the_test_split(evaluated, dataset_dir, tmp_path):
  folder, _ = evaluated
  test = pipeline.Dataset(dataset_dir, ['test'], labeled_only=False)
  lines = (folder / 'submission.csv').read_text().splitlines()
  assert lines[0] == 'ImageId,EncodedPixels'
  assert [line.split(',')[0] for line in lines[1:]] == [
    record.image_id for record in test.records
  ]
  for line, record in zip(lines[1:], test.records, strict=True):
    rle.decode(line.split(',')[1], record.height, record.width)


def test_pictures_boxes_and_rule_are_written(evaluated):
  folder, metrics = evaluated
  pictures = sorted((folder / 'overlays').rglob('*.png'))
  kinds = [path.parent.name for path in pictures]
  kinds = [kind for kind in kinds if not kind.startswith('false')]
  assert kinds == ['best'] * 2 + ['random'] * 2 + ['worst'] * 2
  assert (folder / 'notes.txt').read_text() == 'of the user'
  left = {path.name for path in folder.parent.iterdir() if 'eval' in path.name}
  assert left == {'eval', '.eval.lock'}
  assert all(cv2.imread(str(path)) is not None for path in pictures)
  rows = _rows(folder / 'per_image.csv')
  predicted = {r['image_id'] for r in rows if int(r['predicted_area'])}
  assert {row['image_id'] for row in _rows(folder / 'boxes.csv')} == predicted
  measured = {row['image_id']: row for row in _rows(folder / 'outlines.csv')}
  positive = {row['image_id'] for row in rows if row['label'] == '1'}
  assert measured.keys() == positive
  for image_id, row in measured.items():
    assert bool(row['mean_px']) == (image_id in predicted)
  masks = rle.read_csv(folder / 'masks.csv')
  assert list(masks) == [row['image_id'] for row in rows]
  area = {row['image_id']: 0 for row in rows}
  for box in _rows(folder / 'boxes.csv'):
    area[box['image_id']] += int(box['area'])
  for image_id, found in masks.items():
    assert rle.union(found, 128, 128).sum() == area[image_id]
  post = Postprocess.load(folder / 'postprocess.json')
  assert post.rule in rule_search.GRID
  assert len(post.operating_points) == 6
  assert post.temperature == metrics['temperature']
  page = (folder / 'report.html').read_text()
  assert f'{metrics["dice"]:.3f}' in page


@pytest.fixture
def stranger(evaluated, workdir, tmp_path):
  """The first fold of the run as if it had been trained on other images."""
  path = tmp_path / 'stranger'
  shutil.copytree(workdir, path, ignore=shutil.ignore_patterns('fold1'))
  file = path / 'eval' / 'deployment.json'
  deployed = json.loads(file.read_text())
  deployed |= {'folds': [0], 'steps': deployed['steps'][:1]}
  file.write_text(json.dumps(deployed))
  (path / 'fold0' / 'trained_on.json').write_text('["elsewhere"]')
  small_run.seal(path)
  table = path / 'eval' / 'per_image.csv'
  table.write_text(table.read_text().replace('\n', '\nelsewhere-')[:-10])
  # A rule that no search would choose: a mask for the five surest.
  rows = _rows(table)
  gate = np.mean(sorted(float(row['probability']) for row in rows)[-6:-4])
  post = Postprocess.load(path / 'eval' / 'postprocess.json')
  post = dataclasses.replace(
    post,
    rule=Rule(0.001, 10, 0.001, gate),
    min_component=50,
    fill_holes=True,
  )
  deployment = Deployment.load(path, accept_edited=True)
  deployment.save(path, path / 'eval', post)
  evaluation_files.write_checksums(path / 'eval')
  return path


def test_external_validation_applies_the_saved_rules_unchanged(
  stranger, dataset_dir, tmp_path, monkeypatch
):
  before = {
    path.name: path.read_bytes()
    for path in (stranger / 'eval').iterdir()
    if path.is_file()
  }
  config = small_run.config(
    dataset_dir, **{'eval.bootstrap': 50, 'eval.num_overlays': 0}
  )
  metrics = evaluation.evaluate(config, stranger)
  assert before == {
    name: (stranger / 'eval' / name).read_bytes() for name in before
  }
  folder = stranger / 'eval_records'
  assert not (folder / 'deployment.json').exists()
  assert 'optimism' not in metrics and 'dice_tuned' not in metrics
  post = Postprocess.load(folder / 'postprocess.json')
  assert post == Postprocess.load(stranger / 'eval' / 'postprocess.json')
  # All folds are scored, under that rule.
  rows = _rows(folder / 'per_image.csv')
  assert len(rows) == metrics['num_images'] == 60
  for row in rows:
    sure = float(row['probability']) > post.rule.gate
    assert (int(row['predicted_area']) > 900_000) == sure
  low, high = metrics['intervals']['dice_cleaned']
  assert low <= metrics['dice_cleaned'] <= high
  # The network of both folds was the same one.
  known = [row for row in rows if row['fold'] in '01']
  for row, old in zip(
    known, _rows(stranger / 'eval' / 'per_image.csv'), strict=True
  ):
    assert f'elsewhere-{row["image_id"]}' == old['image_id']
    assert float(row['probability']) == pytest.approx(
      float(old['probability']), abs=1e-6
    )
  probability, label = np.array(
    [(row['probability'], row['label']) for row in rows], float
  ).T
  calibrated = post.calibrated(probability)
  for point in post.operating_points:
    called = calibrated >= point.threshold
    name = f'operating_point={point.name}/'
    assert metrics[f'{name}sensitivity'] == called[label == 1].mean()
    assert metrics[f'{name}specificity'] == (~called[label == 0]).mean()
  page = (folder / 'report.html').read_text()
  assert 'stranger on records' in page and 'external validation' in page
  # A dataset that was moved or built again is the same one; films of another
  # may be numbered alike.
  moved = shutil.copytree(dataset_dir, tmp_path / 'moved' / 'records')
  assert protocol.make(small_run.config(str(moved)), stranger).folder == folder
  monkeypatch.setattr(built_dataset, 'noted_checksum', lambda _: 'of others')
  assert protocol.make(config, stranger).folder == folder
  with pytest.raises(UserError, match='another dataset that is called like'):
    protocol.make(small_run.config(str(moved)), stranger)


def test_a_run_that_began_from_another_is_scored_on_its_own_data(
  evaluated, workdir, dataset_dir, tmp_path
):
  path = tmp_path / 'begun'
  shutil.copytree(workdir, path)
  fold_of = built_dataset.folds_of(dataset_dir)
  for fold in range(2):
    seen = ['elsewhere', *(key for key, of in fold_of.items() if of != fold)]
    file = path / f'fold{fold}' / 'trained_on.json'
    file.write_text(json.dumps(seen))
  small_run.seal(path)
  made = protocol.make(small_run.config(dataset_dir), path)
  assert made.saved_rules is None and made.folder == path / 'eval'
  twice = small_run.config(dataset_dir, **{'eval.ensemble': f'{path}/,{path}'})
  assert protocol.make(twice, path).deployment == made.deployment
  with pytest.raises(UserError, match=r'no dataset at .*nowhere'):
    protocol.make(small_run.config(str(tmp_path / 'nowhere')), path)
  recipe = json.loads((path / 'config.json').read_text())
  recipe['init_from'] = 'runs/first/'
  (path / 'config.json').write_text(json.dumps(recipe))
  told = data_description.describe(
    dataset_dir,
    built_dataset.origin(dataset_dir),
    runs=[path],
    folds=[0],
    metrics=evaluated[1],
  )
  count = sum(fold != 0 for fold in fold_of.values()) + 1
  assert told.startswith(
    'Trained on films of the data set records, from the weights of the run '
    f'first; with the films of that one: {count} (fold 0 held out).'
  )


def test_a_run_without_a_list_of_images_knows_its_dataset_by_its_folder(
  workdir, dataset_dir, tmp_path
):
  run = shutil.copytree(workdir, tmp_path / 'run')
  for path in run.glob('fold*/trained_on.json'):
    path.unlink()
  for metadata in run.glob('fold*/checkpoints/*/checksums/metadata'):
    sums = json.loads(metadata.read_text())
    sums.pop('seal', None)
    metadata.write_text(json.dumps(sums))
  assert protocol.make(small_run.config(dataset_dir), run).saved_rules is None
  copy = shutil.copytree(dataset_dir, tmp_path / 'copy')
  with pytest.raises(UserError, match=r'not known whether it was .*copy'):
    protocol.make(small_run.config(str(copy)), run)


def test_results_on_another_dataset_of_the_same_name_stay(
  stranger, dataset_dir, tmp_path
):
  config = small_run.config(dataset_dir)
  folder = protocol.make(config, stranger, accept_edited=True).folder
  shutil.copytree(stranger / 'eval', folder, dirs_exist_ok=True)
  with pytest.raises(UserError, match='another dataset that is called like'):
    protocol.make(config, stranger, accept_edited=True)


def test_external_validation_changes_nothing_else(
  stranger, dataset_dir, monkeypatch
):
  def refused(**changes):
    with pytest.raises(UserError) as caught:
      evaluation.evaluate(
        small_run.config(dataset_dir, **changes), stranger, accept_edited=True
      )
    return str(caught.value)

  for name, value in (('scales', '1,2'), ('image_probability', 'mean')):
    message = refused(**{f'eval.{name}': value})
    assert f'eval.{name} cannot be changed' in message
  origin = built_dataset.origin(dataset_dir)
  with monkeypatch.context() as patch:
    patch.setattr(
      built_dataset, 'origin', lambda _: origin._replace(window='full')
    )
    assert 'was built with --window=full' in refused()
  seen = stranger / 'fold0' / 'trained_on.json'
  (record,) = pipeline.Dataset(dataset_dir, ['fold0']).records[:1]
  seen.write_text(json.dumps(['elsewhere', record.image_id]))
  scored = _rows(stranger / 'eval' / 'per_image.csv')
  assert f'holds 1 of the {len(scored) + 2} images' in refused()
  seen.write_text(json.dumps(['elsewhere']))
  table = stranger / 'eval' / 'per_image.csv'
  table.write_text(table.read_text().replace('elsewhere-', ''))
  evaluation_files.write_checksums(table.parent)
  assert f'holds {len(scored)} of the {len(scored) + 1} images' in refused()
  (stranger / 'eval' / 'deployment.json').unlink()
  assert 'is not an evaluated run; evaluate it first' in refused()


def test_no_run_no_fold_and_another_network_are_one_line(
  workdir, dataset_dir, tmp_path
):
  config = small_run.config(dataset_dir)
  with pytest.raises(UserError, match='train first'):
    evaluation.evaluate(config, tmp_path / 'nothing')
  single = tmp_path / 'single'
  shutil.copytree(workdir / 'fold0', single / 'fold0')
  shutil.copy(workdir / 'config.json', single)
  mixed = small_run.config(dataset_dir, **{'eval.ensemble': str(single)})
  with pytest.raises(UserError, match='single has no checkpoint of fold 1'):
    evaluation.evaluate(mixed, workdir)
  written = json.loads((single / 'config.json').read_text())
  written['model']['width'] = 8
  (single / 'config.json').write_text(json.dumps(written))
  small_run.seal(single)
  with pytest.raises(UserError, match=r'another network .* is \(4,\) there'):
    evaluation.evaluate(config, single)


def test_networks_are_not_scored_on_images_they_have_seen(
  workdir, dataset_dir, tmp_path
):
  """As if the run had been trained on a build with other folds."""
  run = shutil.copytree(workdir, tmp_path / 'run')
  (seen,) = pipeline.Dataset(dataset_dir, ['fold0']).records[:1]
  path = run / 'fold0' / 'trained_on.json'
  path.write_text(json.dumps([*json.loads(path.read_text()), seen.image_id]))
  small_run.seal(run)
  with pytest.raises(UserError, match='images that it has seen'):
    evaluation.evaluate(small_run.config(dataset_dir), run)


def _results(num_images, positives, **statistics):
  """Metrics of made-up predictions."""
  records = [
    types.SimpleNamespace(
      label=int(i < positives),
      patient=i // 2,
      view='PA',
      sex='F',
      age=40,
      source='',
    )
    for i in range(num_images)
  ]
  held_out = types.SimpleNamespace(
    records=records,
    label=np.arange(num_images) < positives,
    fold=np.zeros(num_images, int),
  )
  areas = np.zeros((num_images, len(THRESHOLDS)), int)
  areas[:positives, :15] = 5000
  table = {
    'truth_area': np.where(held_out.label, 5000, 0),
    'predicted_area': areas,
    'intersection': areas,
    'probability': np.where(held_out.label, 0.9, 0.1),
  } | statistics
  groups = rule_search.patient_groups(
    [r.patient for r in records], held_out.label
  )
  return results.compute(held_out, table, groups, replicates=50).flat()


def test_a_perfect_answer_scores_one():
  metrics = _results(40, 12)
  for name in ('dice', 'dice_positive', 'iou', 'auc', 'specificity'):
    assert metrics[name] == 1, name
  assert metrics['optimism'] == 0
  assert metrics['all_empty_dice'] == 0.7


@pytest.mark.parametrize('positives', [0, 10])
def test_one_class_alone_leaves_gaps_but_no_errors(positives):
  metrics = _results(10, positives)
  text = json.dumps(metrics, allow_nan=False)
  assert json.loads(text)['auc'] is None
  assert metrics['intervals']['auc'] is None
  assert metrics['dice'] == 1
  missing = 'specificity' if positives else 'dice_positive'
  assert metrics[missing] is None
  result_files.summary(metrics)


@pytest.mark.slow
def test_two_processes_write_what_one_writes(workdir, dataset_dir, tmp_path):
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'

  def run(path, *flags):
    command = [sys.executable, 'launch.py', *flags]
    command += [f'--workdir={path}', '--mode=eval']
    command += [
      f'--config.data_dir={dataset_dir}',
      '--config.eval.batch_size=16',
    ]
    return subprocess.Popen(command, cwd=ROOT)

  one, two = tmp_path / 'one', tmp_path / 'two'
  for path in (one, two):
    shutil.copytree(workdir, path, ignore=shutil.ignore_patterns('eval'))
  cluster = (
    '--config=configs/unet.py',
    f'--coordinator_address={address}',
    '--num_processes=2',
  )
  started = [run(one)]
  started += [run(two, *cluster, f'--process_id={rank}') for rank in (0, 1)]
  assert [process.wait(300) for process in started] == [0, 0, 0]
  assert (one / 'eval' / 'metrics.json').is_file()
  ids = [
    [row['image_id'] for row in _rows(path / 'eval' / 'per_image.csv')]
    for path in (one, two)
  ]
  assert ids[0] == ids[1]
  metrics = [
    json.loads((path / 'eval' / 'metrics.json').read_text())
    for path in (one, two)
  ]
  for name in ('dice', 'auc', 'brier', 'dice_at_0.5'):
    assert metrics[0][name] == pytest.approx(metrics[1][name], abs=1e-5)


@pytest.mark.parametrize('scales', ['', '1;2', '1,-2', 'nan', '1e9'])
def test_mistyped_scales_are_one_line(workdir, dataset_dir, scales):
  config = small_run.config(dataset_dir, **{'eval.scales': scales})
  with pytest.raises(UserError, match=r'eval\.scales=.* expected numbers'):
    evaluation.evaluate(config, workdir)


def test_a_fold_without_labeled_images_is_one_line(monkeypatch):
  monkeypatch.setattr(pipeline, 'Dataset', lambda *_: [])
  with pytest.raises(UserError, match='no labeled image in fold 2'):
    HeldOut('data', {2: None})


def _content(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob('*'))
    if path.is_file()
  }


@pytest.mark.slow
def test_a_killed_evaluation_leaves_the_old_results_or_the_new(
  workdir, dataset_dir, tmp_path
):
  """Kills at moments spread over the second half of the command."""
  run = tmp_path / 'run'
  shutil.copytree(workdir, run)

  def start(replicates):
    changes = {'eval.bootstrap': replicates, 'eval.num_overlays': 1}
    flags = small_run.flags(dataset_dir, **changes)
    command = [sys.executable, 'launch.py', '--mode=eval', f'--workdir={run}']
    return subprocess.Popen([*command, *flags], cwd=ROOT)

  known = []
  for replicates in (50, 20):
    started = time.monotonic()
    assert start(replicates).wait() == 0
    duration = time.monotonic() - started
    known.append(_content(run / 'eval'))
  old, new = known
  assert old != new and old.keys() == new.keys()
  kills = 0
  for share in np.linspace(0.5, 1, 20):
    process = start(20 if kills % 2 else 50)
    with contextlib.suppress(subprocess.TimeoutExpired):
      process.wait(share * duration)
    kills += process.poll() is None
    process.kill()
    process.wait()
    assert _content(run / 'eval') in known
  assert kills > 10
  assert start(50).wait() == 0
  assert _content(run / 'eval') == old
  left = {path.name for path in run.iterdir() if 'eval' in path.name}
  assert left == {'eval', '.eval.lock'}
