"""Eight CPU devices, strict JAX, and a small synthetic dataset for all."""

import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys

# Before JAX starts: these decide what it starts with. Compiling was most of the
# tests' time; without LLVM's optimizer it takes half of it.
os.environ.setdefault(
  'XLA_FLAGS',
  '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0',
)
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

# The slowest files; with two workers the other files fill up the rest.
_FIRST = ('docs', 'distributed', 'train', 'slurm', 'families', 'export')

_REAL_DATA = os.environ.get('PNX_REAL_DATA')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """Moves the slowest files to the front; each file stays together."""
  last = len(_FIRST)
  order = {f'test_{name}.py': place for place, name in enumerate(_FIRST)}
  items.sort(key=lambda item: order.get(item.path.name, last))


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
def trained_run_and_scores(
  dataset_dir, tmp_path_factory
) -> tuple[pathlib.Path, dict]:
  """Workdir and last scores of the run in small_run.py, on 8 devices."""
  import small_run

  from pnx_jax.training.train import train

  path = tmp_path_factory.mktemp('trained_run')
  return path, train(small_run.config(dataset_dir), path)


@pytest.fixture(scope='session')
def trained_run(trained_run_and_scores) -> pathlib.Path:
  """Workdir of that run; copy it to change it."""
  return trained_run_and_scores[0]


@pytest.fixture(scope='session')
def evaluated_run(trained_run, dataset_dir, tmp_path_factory) -> pathlib.Path:
  """A copy of that run, evaluated."""
  import small_run

  from pnx_jax.evaluation.evaluate import evaluate

  path = tmp_path_factory.mktemp('evaluated_run') / 'run'
  shutil.copytree(trained_run, path)
  changes = {'eval.bootstrap': 50, 'eval.num_overlays': 0}
  evaluate(small_run.config(dataset_dir, **changes), path)
  return path


@pytest.fixture(scope='session')
def phantom_films(dataset_dir) -> pathlib.Path:
  """The folder of the dataset's films."""
  return pathlib.Path(dataset_dir).parent / 'films'


@pytest.fixture(scope='session')
def run_with_findings(
  evaluated_run, dataset_dir, tmp_path_factory
) -> pathlib.Path:
  """A copy of the evaluated run whose rule marks half of the films.

  Its submission is made again, by the evaluation from the dataset's records.
  """
  import numpy as np

  from pnx_jax.evaluation import evaluate
  from pnx_jax.evaluation.dataset_predictor import DatasetPredictor
  from pnx_jax.formats import rle
  from pnx_jax.input import pipeline
  from pnx_jax.metrics.rules import Rule
  from pnx_jax.prediction import deployment
  from pnx_jax.prediction.postprocess import Postprocess

  path = tmp_path_factory.mktemp('run_with_findings') / 'run'
  shutil.copytree(evaluated_run, path)
  predictor = DatasetPredictor(
    deployment.load(path), pipeline.Loader(batch_size=8)
  )
  films = pipeline.Dataset(dataset_dir, ['fold0', 'test'], labeled_only=False)
  probs, probability = zip(*predictor.probabilities(films), strict=True)
  bottom = float(np.quantile(probs, 0.98))
  gate = float(np.median(probability))
  saved = path / 'eval' / 'postprocess.json'
  post = dataclasses.replace(
    Postprocess.load(saved),
    rule=Rule(top=bottom, area=0, bottom=bottom, gate=gate),
  )
  deployment.Deployment.load(path).save(path, saved.parent, post)
  rle.write_csv(
    path / 'eval' / 'submission.csv',
    evaluate.submission_rows(dataset_dir, predictor, post),
  )
  return path


@pytest.fixture(scope='session')
def predictor_with_findings(run_with_findings):
  import pnx_jax

  return pnx_jax.load(run_with_findings)


@pytest.fixture(scope='session')
def five_films(phantom_films, tmp_path_factory) -> pathlib.Path:
  """A folder with five phantoms, a.dcm to e.dcm; copy it to change them."""
  folder = tmp_path_factory.mktemp('five_films')
  paths = sorted(phantom_films.rglob('*.dcm'))[:5]
  for path, name in zip(paths, 'abcde', strict=True):
    shutil.copy(path, folder / f'{name}.dcm')
  return folder


@pytest.fixture
def predict(run_with_findings, predictor_with_findings, tmp_path, monkeypatch):
  """Predicts inputs into `tmp_path / 'out'`; returns the readings by id."""
  from pnx_jax.inference import predict as predicting
  from pnx_jax.prediction import predictor

  load = predictor.load
  monkeypatch.setattr(
    predictor,
    'load',
    lambda path, **options: (
      predictor_with_findings
      if path == run_with_findings
      else load(path, **options)
    ),
  )

  def predict_into(*inputs, output_dir=tmp_path / 'out', **options):
    options = {'model': run_with_findings} | options
    inputs = list(map(os.fspath, inputs))
    readings = predicting.predict(inputs, output_dir, **options)
    return {reading.image_id: reading for reading in readings}

  return predict_into


@pytest.fixture(scope='session')
def five_films_predicted(five_films, run_with_findings, tmp_path_factory):
  """Output folder of predicting `five_films`, and the readings by id."""
  from pnx_jax.inference.predict import predict

  folder = tmp_path_factory.mktemp('five_films_predicted')
  readings = predict([str(five_films)], folder, model=run_with_findings)
  return folder, {reading.image_id: reading for reading in readings}


@pytest.fixture
def earlier_readings(five_films_predicted, tmp_path):
  """Readings of `five_films`, already in the folder `predict` writes to."""
  folder, readings = five_films_predicted
  shutil.copytree(folder, tmp_path / 'out')
  return readings


@pytest.fixture(scope='module')
def _chromium():
  """The system's Chromium, headless.

  A module's tests share it; one for all of them would leave Playwright's
  event loop running in the tests of other modules, where Orbax starts its own.
  """
  names = ('chromium', 'chromium-browser', 'google-chrome')
  command = next(filter(None, map(shutil.which, names)), None)
  if not command:
    if os.environ.get('CI') == 'true':
      pytest.fail('CI needs Chromium: apt-get install chromium')
    pytest.skip('no Chromium here')
  from playwright import sync_api

  with sync_api.sync_playwright() as started:
    browser = started.chromium.launch(executable_path=command)
    yield browser
    browser.close()


@pytest.fixture
def tab(_chromium):
  """An empty tab of Chromium, 1200 x 900: a `playwright.sync_api.Page`."""
  opened = _chromium.new_page(viewport={'width': 1200, 'height': 900})
  yield opened
  opened.close()
