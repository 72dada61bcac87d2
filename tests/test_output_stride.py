"""A network of output stride 2, from training to an exported model."""

import json

import numpy as np
import pytest
import small_run

import pnx_jax
from pnx_jax.errors import UserError
from pnx_jax.evaluation.evaluate import evaluate
from pnx_jax.export.export import export
from pnx_jax.training import run_files
from pnx_jax.training.train import train


@pytest.fixture(scope='module')
def run(dataset_dir, tmp_path_factory):
  path = tmp_path_factory.mktemp('output_stride') / 'run'
  changes = {
    'model.output_stride': 2,
    'eval.bootstrap': 50,
    'eval.num_overlays': 0,
  }
  config = small_run.config(dataset_dir, **changes)
  train(config, path)
  evaluate(config, path)
  return path


def test_it_trains_evaluates_predicts_and_exports(run, phantom_films, tmp_path):
  export(run, tmp_path / 'model')
  film = next(phantom_films.rglob('*.dcm'))
  from_run = pnx_jax.load(run).predict(film)
  exported = pnx_jax.load(tmp_path / 'model').predict(film)
  assert from_run.mask.shape == (128, 128)
  np.testing.assert_array_equal(from_run.mask, exported.mask)
  assert from_run.probability == pytest.approx(exported.probability, abs=1e-6)


def test_a_run_that_does_not_name_the_field_has_stride_1(dataset_dir, tmp_path):
  config = small_run.config(dataset_dir)
  older = json.loads(config.to_json())
  del older['model']['output_stride']
  (tmp_path / 'config.json').write_text(json.dumps(older))
  run_files.check_same_run(tmp_path, config)
  assert run_files.load(tmp_path).model.output_stride == 1
  with pytest.raises(UserError, match='output_stride: 1 there, 2 here'):
    run_files.check_same_run(
      tmp_path, small_run.config(dataset_dir, **{'model.output_stride': 2})
    )
