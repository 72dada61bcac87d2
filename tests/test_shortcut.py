"""Drains that give the pneumothorax away: the report exposes who learned them.

At 64 x 64 a drain is easier to see than a pneumothorax: in 500 steps the
presence head learns it, and no mask at all. What exposes it are the calls: it
misses patients without a drain, and drains alarm it. One 95 % interval in
twenty misses by chance, so three networks are averaged, each trained and scored
on films of its own in 3 minutes of processor time. Run it with -m slow -s.
"""

import csv
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
_FIELDS = {
  'image_size': 64,
  'batch_size': 16,
  'eval.batch_size': 16,
  'total_steps': 500,
  'eval_epochs': 100.0,
  'log_steps': 100,
  'model.width': 8,
  'model.depth': 4,
  'model.image_prevalence': 0.5,
  'positive_share': '((0,0.5),)',
  'losses.presence': 1.0,
  'optimizer.learning_rate': 2e-3,
  'optimizer.ema_decay': 0.98,
}


def _run(*command):
  # On one device, and compiled for speed.
  env = os.environ | {'XLA_FLAGS': ''}
  subprocess.run([sys.executable, *command], check=True, cwd=ROOT, env=env)


def _differences(folder, *, with_air, without_air, seed):
  """Intervals of subgroups.csv of films with and without a drain, by metric."""
  films, records = folder / 'films', folder / 'records'
  _run(
    *('-m', 'data_prep.phantom', f'--output_dir={films}'),
    *('--num_images=1200', '--num_test_images=0', '--prevalence=0.5'),
    *('--image_size=256', f'--seed={seed}'),
    f'--drain_with_air={with_air}',
    f'--drain_without_air={without_air}',
  )
  _run(
    *('-m', 'data_prep.build', f'--dicom_dir={films}/dicom-images-train'),
    f'--rle_csv={films}/train-rle.csv',
    f'--patient_map={films}/nih_id.csv',
    *(f'--output_dir={records}', '--image_size=64', '--num_folds=2'),
  )
  run = f'--workdir={folder}/run'
  fields = {'data_dir': records, 'seed': seed, **_FIELDS}
  flags = [f'--config.{name}={value}' for name, value in fields.items()]
  _run('launch.py', '--config=configs/unet.py', run, *flags)
  _run(
    *('launch.py', '--mode=eval', run, f'--config.data_dir={records}'),
    f'--config.eval.groups={films}/drains.csv',
    '--config.eval.num_overlays=0',
  )
  return _intervals(folder / 'run' / 'eval' / 'subgroups.csv')


def _intervals(path):
  with path.open(newline='') as file:
    rows = [row for row in csv.DictReader(file) if row['table'] == 'drain']
  for row in rows:
    print({name: row[name] for name in list(row)[1:-1]})
  return {
    (row['row'], row['metric']): (float(row['low']), float(row['high']))
    for row in rows
    if row['low']
  }


def _averaged(folder, **air):
  """Intervals of films without a drain minus those with one, three networks."""
  found = [
    _differences(folder / str(seed), seed=seed, **air) for seed in range(3)
  ]
  intervals = {}
  for metric in ('sensitivity_of_calls', 'specificity_of_calls'):
    low, high = np.transpose([each['no', metric] for each in found])
    middle = np.mean(low + high) / 2
    half_width = np.linalg.norm(high - low) / 2 / len(found)
    intervals[metric] = middle - half_width, middle + half_width
  print(intervals)
  return intervals


@pytest.mark.slow
def test_networks_that_learned_drains_are_exposed(tmp_path):
  found = _averaged(tmp_path, with_air=0.9, without_air=0.05)
  assert found['sensitivity_of_calls'][1] < 0
  assert found['specificity_of_calls'][0] > 0


@pytest.mark.slow
def test_their_twins_that_could_not_learn_them_are_not(tmp_path):
  found = _averaged(tmp_path, with_air=0.3, without_air=0.3)
  assert all(low < 0 < high for low, high in found.values())
