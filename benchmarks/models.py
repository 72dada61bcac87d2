"""Size and cost of every recipe's network, as in its docstring.

python -m benchmarks.models

GFLOPs of one 512x512 image forward: convolutions and matrix products, a
multiply-add counts two. Memory of the activations kept for its gradient in
bfloat16. Both are counted from the traced program for a GPU; nothing is
compiled.
"""

import functools
import importlib
import math

import jax
import jax.numpy as jnp
from absl import app

from pnx_jax.training import experiment

RECIPES = ('unet', 'resunet', 'efficientnet_unet', 'unetpp')
SIZE = 512
# No side of a kernel, so that it tells activations from weights.
BATCH = 2


def size_and_cost(config):
  """Parameters, and FLOPs of one image forward, of a recipe's network."""
  model = experiment.network(config, platform='gpu')
  image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 1), jnp.float32)
  traced, (_, variables) = jax.make_jaxpr(
    functools.partial(model.init_with_output, train=False), return_shape=True
  )(jax.random.key(0), image)
  leaves = jax.tree.leaves(variables['params'])
  return sum(math.prod(leaf.shape) for leaf in leaves), flops(traced.jaxpr)


def flops(jaxpr):
  """Of the convolutions and matrix products, also those in called parts."""
  total = 0
  for equation in jaxpr.eqns:
    values = math.prod(equation.outvars[0].aval.shape)
    if equation.primitive.name == 'conv_general_dilated':
      *window, _ = equation.invars[1].aval.shape
      total += 2 * values * math.prod(window)
    elif equation.primitive.name == 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      left = equation.invars[0].aval.shape
      total += 2 * values * math.prod(left[axis] for axis in contracted)
    for value in equation.params.values():
      inner = getattr(value, 'jaxpr', value)
      total += flops(inner) if hasattr(inner, 'eqns') else 0
  return total


def activation_bytes(config):
  """Bytes of one image's feature maps that the gradient needs, in bfloat16."""
  config.compute_dtype = 'bfloat16'
  model = experiment.network(config, platform='gpu')
  image = jax.ShapeDtypeStruct((BATCH, SIZE, SIZE, 1), jnp.float32)
  variables = jax.eval_shape(
    functools.partial(model.init, train=False), jax.random.key(0), image
  )

  def kept(params, statistics, image):
    def outputs(params):
      return model.apply(
        {'params': params, 'batch_stats': statistics},
        image,
        train=True,
        mutable=['batch_stats'],
        rngs={'dropout': jax.random.key(0)},
      )[0]['mask_logits']

    return jax.vjp(outputs, params)[1]

  traced = jax.make_jaxpr(kept)(
    variables['params'], variables['batch_stats'], image
  )
  maps = {
    variable: variable.aval
    for variable in traced.jaxpr.outvars
    if variable.aval.ndim == 4 and variable.aval.shape[0] == BATCH
  }
  return (
    sum(math.prod(each.shape) * each.dtype.itemsize for each in maps.values())
    / BATCH
  )


def lines(module, *, memory=True):
  """The table of a recipe's docstring; without memory, its left columns."""
  variants = {
    name or '(none)': module.get_config(name) for name in module.VARIANTS
  }
  width = max(map(len, variants))
  head = f'{"variant":{width}}  parameters  GFLOPs'
  yield head + '  memory    with remat' * memory
  for name, config in variants.items():
    parameters, cost = size_and_cost(config)
    line = f'{name:{width}}  {parameters / 1e6:8.1f} M  {cost / 1e9:6.0f}'
    if memory:
      for remat in (False, True):
        config.model.remat = remat
        size = activation_bytes(config) / 2**30
        line += f'  {size:.2f} GiB'
    yield line


def main(_):
  for recipe in RECIPES:
    print(f'\nconfigs/{recipe}.py')
    for line in lines(importlib.import_module(f'configs.{recipe}')):
      print(line, flush=True)


if __name__ == '__main__':
  app.run(main)
