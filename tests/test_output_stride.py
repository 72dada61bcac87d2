"""A U-Net++ of output stride 2, from training to an exported model."""

import json

import jax
import numpy as np
import pytest
import small_run

import pnx_jax
from pnx_jax.errors import UserError
from pnx_jax.evaluation.evaluate import evaluate
from pnx_jax.export.export import export
from pnx_jax.training import (
  experiment,
  initial_weights,
  run_files,
  sharding,
)
from pnx_jax.training.train import train


@pytest.fixture(scope='module')
def run(dataset_dir, tmp_path_factory):
  path = tmp_path_factory.mktemp('output_stride') / 'run'
  changes = {
    'model.output_stride': 2,
    'model.decoder': 'unetpp',
    'model.depth': 3,
    'model.deep_supervision': True,
    'model.presence_from_mask': True,
    'losses.deep': 0.5,
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
  np.testing.assert_array_equal(from_run.mask, exported.mask)
  assert from_run.probability == pytest.approx(exported.probability, abs=1e-6)


def test_each_place_of_stride_2_gives_four_pixels_of_its_own(run):
  (network,) = pnx_jax.load(run).ensemble.networks
  image = np.random.default_rng(0).random((1, 32, 32, 1), np.float32)
  logits = network.model.apply(network.variables, image, train=False)
  squares = np.reshape(logits['mask_logits'], (16, 2, 16, 2))
  for other in (squares[:, 1, :, 0], squares[:, 0, :, 1], squares[:, 1, :, 1]):
    assert (squares[:, 0, :, 0] != other).mean() > 0.9


def test_deep_heads_are_trained_and_masks_have_the_images_size(run):
  scalars = small_run.events(run)
  for name in ('train/deep_loss', 'validation/deep_loss'):
    assert all(value > 0 for _, value in scalars[name])
  (network,) = pnx_jax.load(run).ensemble.networks
  outputs = jax.eval_shape(
    lambda image: network.model.apply(network.variables, image, train=False),
    jax.ShapeDtypeStruct((1, 32, 32, 1), 'float32'),
  )
  assert outputs['mask_logits'].shape == (1, 32, 32, 1)
  assert [x.shape for x in outputs['deep_logits']] == [(1, 8, 8, 1)]


def test_weights_of_another_output_stride_are_refused_in_one_line(run):
  config = run_files.load(run)
  config.init_from = str(run)
  config.model.output_stride = 1
  abstract = experiment.abstract_variables(config, sharding.mesh())
  with pytest.raises(UserError, match='weights of another network') as error:
    initial_weights.load(config, None, abstract)
  assert '\n' not in str(error.value)


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
