"""Eight CPU devices, strict JAX, and a small synthetic dataset for all."""

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
