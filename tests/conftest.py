"""Eight CPU devices, strict JAX, and a small synthetic dataset for all."""

import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys

# Before JAX starts: these decide what it starts with.
os.environ.setdefault('XLA_FLAGS', '--xla_force_host_platform_device_count=8')
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
# Tests that start processes compile the same programs again.
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR',
  str(pathlib.Path(__file__).parent.parent / '.cache' / 'jax'),
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.2')

import jax
import pytest

jax.config.update('jax_numpy_rank_promotion', 'raise')

_REAL_DATA = os.environ.get('PNX_REAL_DATA')


@pytest.fixture(scope='session')
def real_data() -> pathlib.Path:
  """The folder of real radiographs and labels; skips where there is none."""
  if not _REAL_DATA:
    pytest.skip('PNX_REAL_DATA is not set')
  return pathlib.Path(_REAL_DATA)


@pytest.fixture(scope='session')
def dataset_dir(tmp_path_factory) -> str:
  """60 phantoms as records of 32 x 32 in 3 folds, and 3 for testing."""
  root = tmp_path_factory.mktemp('dataset')
  films = root / 'films'

  def run(module, *flags):
    subprocess.run([sys.executable, '-m', module, *flags], check=True)

  run(
    'data_prep.phantom',
    f'--output_dir={films}',
    '--num_images=60',
    '--num_test_images=3',
    '--prevalence=0.4',
    '--image_size=128',
  )
  run(
    'data_prep.build',
    f'--dicom_dir={films}/dicom-images-train',
    f'--rle_csv={films}/train-rle.csv',
    f'--test_dicom_dir={films}/dicom-images-test',
    f'--patient_map={films}/nih_id.csv',
    f'--output_dir={root}/records',
    '--image_size=32',
    '--num_folds=3',
  )
  return str(root / 'records')


@pytest.fixture(scope='session')
def uninterrupted(dataset_dir, tmp_path_factory) -> tuple[pathlib.Path, dict]:
  """Workdir and last scores of the run in tiny.py, on 8 devices."""
  import tiny

  from pnx_jax.training.train import train

  path = tmp_path_factory.mktemp('uninterrupted')
  return path, train(tiny.config(dataset_dir), path)


@pytest.fixture(scope='session')
def evaluated_run(uninterrupted, dataset_dir, tmp_path_factory) -> pathlib.Path:
  """A copy of that run, evaluated."""
  import tiny

  from pnx_jax.evaluation.evaluate import evaluate

  path = tmp_path_factory.mktemp('evaluated_run') / 'run'
  shutil.copytree(uninterrupted[0], path)
  changes = {'eval.bootstrap': 50, 'eval.num_overlays': 0}
  evaluate(tiny.config(dataset_dir, **changes), path)
  return path


@pytest.fixture(scope='session')
def phantoms(dataset_dir) -> pathlib.Path:
  """The folder of the dataset's films."""
  return pathlib.Path(dataset_dir).parent / 'films'


@pytest.fixture(scope='session')
def marking_run(evaluated_run, dataset_dir, tmp_path_factory) -> pathlib.Path:
  """A copy of the evaluated run whose rule marks half of the films.

  Its submission is made anew, by the evaluation from the dataset's records.
  """
  import numpy as np

  from pnx_jax.evaluation import evaluate
  from pnx_jax.formats import rle
  from pnx_jax.input import pipeline
  from pnx_jax.metrics.rules import Rule
  from pnx_jax.prediction import ensemble
  from pnx_jax.prediction.postprocess import Postprocess
  from pnx_jax.training import sharding

  path = tmp_path_factory.mktemp('marking') / 'run'
  shutil.copytree(evaluated_run, path)
  answering = ensemble.Ensemble(
    ensemble.members([path], folds=[0]),
    mesh=sharding.mesh(),
    reading=pipeline.Reading(batch_size=8),
  )
  films = pipeline.Dataset(dataset_dir, ['fold0', 'test'], labelled_only=False)
  probs, probability = zip(*answering.probabilities(films), strict=True)
  bottom = float(np.quantile(probs, 0.98))
  gate = float(np.median(probability))
  saved = path / 'eval' / 'postprocess.json'
  post = dataclasses.replace(
    Postprocess.load(saved),
    rule=Rule(top=bottom, area=0, bottom=bottom, gate=gate),
  )
  post.save(saved)
  rle.write_csv(
    path / 'eval' / 'submission.csv',
    evaluate._submission(dataset_dir, answering, post),
  )
  return path


@pytest.fixture(scope='session')
def marking_model(marking_run):
  import pnx_jax

  return pnx_jax.load(marking_run)


@pytest.fixture(scope='session')
def some(phantoms, tmp_path_factory) -> pathlib.Path:
  """A folder with five phantoms, a.dcm to e.dcm; copy it to change them."""
  folder = tmp_path_factory.mktemp('some')
  paths = sorted(phantoms.rglob('*.dcm'))[:5]
  for path, name in zip(paths, 'abcde', strict=True):
    shutil.copy(path, folder / f'{name}.dcm')
  return folder


@pytest.fixture
def predict(marking_run, marking_model, tmp_path, monkeypatch):
  """Predicts inputs into `tmp_path / 'out'`; returns the readings by id."""
  import pnx_jax
  from pnx_jax.inference import predict as predicting

  load = pnx_jax.load
  monkeypatch.setattr(
    pnx_jax,
    'load',
    lambda path: marking_model if path == marking_run else load(path),
  )

  def predict_into(*inputs, output_dir=tmp_path / 'out', **options):
    options = {'model': marking_run} | options
    inputs = list(map(os.fspath, inputs))
    readings = predicting.predict(inputs, output_dir, **options)
    return {reading.image_id: reading for reading in readings}

  return predict_into


@pytest.fixture(scope='session')
def some_read(some, marking_run, tmp_path_factory):
  """The output folder of `some`, and the readings by id."""
  from pnx_jax.inference.predict import predict

  folder = tmp_path_factory.mktemp('some_read')
  readings = predict([str(some)], folder, model=marking_run)
  return folder, {reading.image_id: reading for reading in readings}


@pytest.fixture
def known(some_read, tmp_path):
  """The readings of `some`, which `predict` finds where it writes."""
  folder, readings = some_read
  shutil.copytree(folder, tmp_path / 'out')
  return readings
