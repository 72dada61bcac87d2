"""Runs, datasets, exports and predictions made before the renames still work.

`before_renames/make.py` says how the set was made. Weights are read exactly;
what is computed with them is compared within the rounding of other machines.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from output_files import csv_rows

import pnx_jax
from pnx_jax.export.export import export
from pnx_jax.formats import rle
from pnx_jax.inference.predict import predict

ROOT = pathlib.Path(__file__).parent.parent
SET = pathlib.Path(__file__).parent / 'before_renames' / 'set.tar.xz'
# Other machines round otherwise; a mask may differ in pixels at its edge.
CLOSE = 1e-4
EDGE_PIXELS = 3
# The fields of the stopped run under their present names.
FIELDS = {
  'image_size': 32,
  'batch_size': 4,
  'total_steps': 80,
  'log_steps': 20,
  'checkpoint_steps': 20,
  'eval_epochs': 10,
  'model.width': 4,
  'model.depth': 2,
  'model.normalization': 'batch',
  'model.pixel_prevalence': 0.1,
  'optimizer.encoder_lr_factor': 0.5,
  'optimizer.learning_rate': 3e-3,
  'optimizer.ema_decay': 0.9,
  'read_threads': 2,
}


@pytest.fixture(scope='module')
def original(tmp_path_factory):
  """The set as it was made: films, records, run, stopped, export, predicted."""
  folder = tmp_path_factory.mktemp('before_renames')
  with tarfile.open(SET) as archive:
    archive.extractall(folder, filter='data')
  return folder


@pytest.fixture
def before(original, tmp_path):
  """A copy of the set to work in."""
  return shutil.copytree(original, tmp_path / 'before')


def launch(*flags):
  done = subprocess.run(
    [sys.executable, 'launch.py', *map(str, flags)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    env=os.environ | {'XLA_FLAGS': ''},  # One device, as it was made.
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


def assert_same_masks(path, expected):
  ours, theirs = rle.read_csv(path), rle.read_csv(expected)
  assert ours.keys() == theirs.keys()
  for image_id in theirs:
    masks = (rle.union(each[image_id], 128, 128) for each in (ours, theirs))
    assert np.logical_xor(*masks).sum() <= EDGE_PIXELS, image_id


def assert_same_worklist(folder, expected):
  ours, theirs = (
    {row['image_id']: row for row in csv_rows(each / 'worklist.csv')}
    for each in (folder, expected)
  )
  assert ours.keys() == theirs.keys()
  for image_id, row in theirs.items():
    mine = ours[image_id]
    for name in ('model', 'rules', 'operating_point', 'side', 'view', 'sex'):
      assert mine[name] == row[name]
    assert float(mine['probability']) == pytest.approx(
      float(row['probability']), abs=CLOSE
    )
  assert_same_masks(
    folder / 'masks' / 'masks.csv', expected / 'masks' / 'masks.csv'
  )


def test_a_run_evaluates(before):
  expected = json.loads((before / 'run' / 'eval' / 'metrics.json').read_text())
  said = launch(
    '--mode=eval',
    f'--workdir={before}/run',
    f'--config.data_dir={before}/records',
  )
  metrics = json.loads((before / 'run' / 'eval' / 'metrics.json').read_text())
  assert metrics.keys() >= expected.keys()
  for name, value in expected.items():
    if isinstance(value, float):
      assert metrics[name] == pytest.approx(value, abs=CLOSE), name
  assert 'model.normalisation as model.normalization' in said


@pytest.mark.parametrize('model', ['run', 'export'])
def test_a_run_and_an_export_predict(before, tmp_path, model):
  films = before / 'films' / 'dicom-images-test'
  predict([str(films)], tmp_path / 'out', model=before / model)
  assert_same_worklist(tmp_path / 'out', before / 'predicted')


def test_a_run_exports_the_same_networks(before, tmp_path):
  export(before / 'run', tmp_path / 'export')
  versions = [
    json.loads((folder / 'model.json').read_text())
    for folder in (before / 'export', tmp_path / 'export')
  ]
  for name in ('version', 'rules_version', 'image_size', 'window'):
    assert versions[0][name] == versions[1][name]
  assert versions[0]['version'] in repr(pnx_jax.load(tmp_path / 'export'))


def test_an_old_worklist_is_joined(before):
  out = before / 'predicted'
  expected = shutil.copytree(out, before / 'expected')
  new_film = before / 'films' / 'new.dcm'
  shutil.copy(next((before / 'films').rglob('*.dcm')), new_film)
  predict([str(new_film)], out, model=before / 'run')
  rows = csv_rows(out / 'worklist.csv')
  assert len(rows) == 4
  known = {row['image_id']: row for row in csv_rows(expected / 'worklist.csv')}
  for row in rows:
    if row['image_id'] != 'new':
      expected_row = known[row['image_id']] | {'rank': row['rank']}
      assert {name: row[name] for name in expected_row} == expected_row


def test_a_stopped_run_resumes(original, before):
  launch(
    '--config=configs/unet.py',
    f'--workdir={before}/stopped',
    *(f'--config.{name}={value}' for name, value in FIELDS.items()),
    f'--config.data_dir={before}/records',
  )
  start = _weights(original / 'stopped', 50)
  resumed = _weights(before / 'stopped', 80)
  uninterrupted = _weights(before / 'run', 80)
  assert resumed.keys() == uninterrupted.keys() == start.keys()
  for name, expected in uninterrupted.items():
    np.testing.assert_allclose(resumed[name], expected, rtol=1e-2, atol=1e-3)
  assert max(np.abs(resumed[n] - start[n]).max() for n in start) > 0.01


def _weights(workdir, step):
  """Every array of a checkpoint's network, read by Orbax alone."""
  folder = workdir / 'fold0' / 'checkpoints' / str(step) / 'variables'
  with ocp.StandardCheckpointer() as checkpointer:
    tree = checkpointer.restore(folder)
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}
