"""Which form of an operation a network is traced with on which platform."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pnx_jax.models import convolution, cpu, create_model

# More than one group.
IN_GROUPS = r'feature_group_count = (?!1 )'


def traced(encoder, platform, *, lowered_for):
  """The training gradient of a network, as StableHLO for a platform."""
  model = create_model(encoder, depth=3, width=8, platform=platform)
  image = jnp.zeros((2, 32, 32, 1))
  variables = jax.eval_shape(
    lambda: model.init(jax.random.key(0), image, train=False)
  )

  def loss(params, statistics, image):
    outputs, _ = model.apply(
      {'params': params, 'batch_stats': statistics},
      image,
      train=True,
      mutable=['batch_stats'],
      rngs={'dropout': jax.random.key(0)},
    )
    return outputs['mask_logits'].sum()

  trace = jax.jit(jax.grad(loss)).trace(
    variables['params'], variables['batch_stats'], image
  )
  forward = jax.make_jaxpr(loss)(
    variables['params'], variables['batch_stats'], image
  )
  return str(forward), trace.lower(lowering_platforms=(lowered_for,)).as_text()


@pytest.mark.parametrize(
  'encoder', ['_tiny_resnet', '_tiny_lite', '_tiny_se_resnext', 'unet']
)
def test_a_network_for_tpu_has_no_cpu_form(encoder, monkeypatch):
  """Traced on a CPU machine: no layer asks where it is."""
  assert jax.default_backend() == 'cpu'

  def refuse(*arguments, **options):
    raise AssertionError('A form of a CPU.')

  for name in cpu.__all__:
    monkeypatch.setattr(cpu, name, refuse)
  _, stablehlo = traced(encoder, 'tpu', lowered_for='tpu')
  if 'lite' in encoder:
    assert re.search(IN_GROUPS, stablehlo)
  else:
    # The gradient of XLA's own max pooling.
    assert 'select_and_scatter' in stablehlo


def test_a_network_for_cpu_has_the_cpu_forms():
  forward, stablehlo = traced('_tiny_lite', 'cpu', lowered_for='cpu')
  assert 'name=depthwise' in forward and 'name=_normalize' in forward
  assert not re.search(IN_GROUPS, stablehlo)


@pytest.mark.parametrize('groups', [4, 8])
@pytest.mark.parametrize('platform', ['gpu', 'tpu', 'any'])
def test_convolutions_in_groups_are_equal_on_all_platforms(groups, platform):
  random = np.random.default_rng(0)
  x = random.normal(size=(2, 6, 6, 8)).astype(np.float32)
  kernel = random.normal(size=(3, 3, 8 // groups, 8)).astype(np.float32)
  found, expected = (
    convolution.convolve(x, kernel, groups=groups, platform=name)
    for name in (platform, 'cpu')
  )
  np.testing.assert_allclose(found, expected, atol=1e-5)
