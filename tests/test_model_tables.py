"""Recipes' docstrings and the docs give parameters and GFLOPs as counted."""

import importlib
import itertools
import pathlib
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from benchmarks import models

_ROOT = pathlib.Path(__file__).parent.parent
TABLES = (_ROOT / 'README.md', _ROOT / 'docs' / 'models.md')


@pytest.mark.parametrize('recipe', models.RECIPES)
def test_sizes_and_costs(recipe):
  module = importlib.import_module(f'configs.{recipe}')
  counted = list(models.lines(module, memory=False))
  for line in counted:
    assert f'\n{line}  ' in module.__doc__
  name = f'configs/{recipe}.py'
  for variant, *counts in re.findall(
    rf'\| `{name}:?(\w*)` \| (.+?) M \| (\d+) \|',
    ''.join(path.read_text() for path in TABLES),
  ):
    assert [variant or '(none)', counts[0], 'M', counts[1]] in [
      line.split() for line in counted
    ]


@pytest.mark.parametrize('recipe', ['unet', 'resunet'])
def test_memory(recipe):
  module = importlib.import_module(f'configs.{recipe}')
  for line in itertools.islice(models.lines(module), 2):
    assert f'\n{line}\n' in module.__doc__


def test_operations_inside_other_calls_count_too():
  conv = nn.Conv(6, (3, 5), strides=2, feature_group_count=2)
  dense = nn.remat(nn.Dense)(7)

  @jax.jit
  def network(image):
    x = conv.init_with_output(jax.random.key(0), image)[0]
    return dense.init_with_output(jax.random.key(0), x)[0]

  traced = jax.make_jaxpr(network)(jnp.zeros((2, 8, 8, 4)))
  places = 2 * 4 * 4
  expected = 2 * places * (6 * 3 * 5 * 2) + 2 * places * 6 * 7
  assert models.flops(traced.jaxpr) == expected
