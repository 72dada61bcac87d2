"""Whether networks compute the same bits as those of another checkout.

    git worktree add /tmp/before d4cea07^
    python -m benchmarks.unchanged --before=/tmp/before

Small networks of every family, with the same random weights and images in both
checkouts: outputs, gradients and batch statistics. First in the forms that a
GPU gets, compiled for a CPU here, then in those of a CPU, which have been
rewritten since and round otherwise.
"""

import importlib
import inspect
import io
import math
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

_BEFORE = flags.DEFINE_string('before', None, 'The other checkout.')
_PLATFORM = 'PNX_JAX_UNCHANGED'
# A file of configs/, its variant, and fields that make it small.
_NETWORKS = {
  'unet': ('unet', '', {'width': 4, 'depth': 3}),
  'resunet': ('resunet', '', {'width': 4, 'depth': 3}),
  'resnet': ('resunet', 'resnet34', {'encoder': '_tiny_resnet'}),
  'se_resnext': ('resunet', 'se_resnext50', {'encoder': '_tiny_se_resnext'}),
  'efficientnet': (
    'efficientnet_unet',
    'b0',
    {'encoder': '_tiny_efficientnet'},
  ),
  'lite': ('efficientnet_unet', 'lite0', {'encoder': '_tiny_lite'}),
  'unetpp': ('unetpp', 'resnet34', {'encoder': '_tiny_resnet'}),
}
_NAMED = 4  # Of the arrays that differ most.
_SHAPE = (2, 64, 64, 1)


def computed(name: str, platform: str) -> dict[str, np.ndarray]:
  """Outputs, gradients and statistics by name, of the checkout in use."""
  # Older code asks JAX for the platform.
  jax.default_backend = lambda: platform
  from pnx_jax.training import experiment

  module, variant, fields = _NETWORKS[name]
  config = importlib.import_module(f'configs.{module}').get_config(
    *([variant] if variant else [])
  )
  config.compute_dtype = 'float32'
  config.model.update(fields)
  if 'drop_path' in config.model:
    config.model.drop_path = 0.0
  accepted = inspect.signature(experiment.network).parameters
  given = {'platform': platform} if 'platform' in accepted else {}
  model = experiment.network(config, **given)
  random = np.random.default_rng(0)
  image = random.random(_SHAPE, np.float32)
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), jnp.asarray(image), train=False)
  )

  def drawn(path, leaf):
    if path[-1].key in ('scale', 'var'):
      values = random.uniform(0.5, 1.5, leaf.shape)
    else:
      fan_in = math.prod(leaf.shape[:-1]) or 1
      values = random.standard_normal(leaf.shape) / math.sqrt(fan_in)
    return jnp.asarray(values, leaf.dtype)

  variables = jax.tree_util.tree_map_with_path(drawn, shapes)

  def loss(variables):
    outputs, changed = model.apply(
      variables, image, train=True, mutable=['batch_stats']
    )
    squares = [jnp.square(leaf).mean() for leaf in jax.tree.leaves(outputs)]
    return sum(squares), (outputs, changed)

  found = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables)
  predicted = jax.jit(lambda: model.apply(variables, image, train=False))()
  leaves = jax.tree_util.tree_leaves_with_path((found, predicted))
  return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def _of(
  folder: pathlib.Path, name: str, platform: str
) -> dict[str, np.ndarray]:
  done = subprocess.run(
    [sys.executable, __file__, name],
    cwd=folder,
    env=os.environ | {_PLATFORM: platform, 'PYTHONPATH': str(folder)},
    stdout=subprocess.PIPE,
    check=True,
  )
  with np.load(io.BytesIO(done.stdout)) as file:
    return dict(file)


def main(_) -> None:
  here = pathlib.Path(__file__).resolve().parent.parent
  before = pathlib.Path(_BEFORE.value).resolve()
  titles = 'arrays', 'not equal', 'largest difference', 'where'
  print(f'| network | forms | {" | ".join(titles)} |')
  print('|---' * 6 + '|')
  for platform in ('gpu', 'cpu'):
    for name in _NETWORKS:
      old, new = (_of(folder, name, platform) for folder in (before, here))
      assert old.keys() == new.keys(), set(old) ^ set(new)
      assert all(np.isfinite(array).all() for array in old.values()), name
      # Relative to the largest value of the array, or to 1e-4 of that
      # of all: some gradients are 0 but for rounding.
      least = 1e-4 * max(np.abs(array).max() for array in old.values())
      differences = {
        key: np.abs(new[key] - old[key]).max()
        / max(np.abs(old[key]).max(), least)
        for key in old
        if not np.array_equal(new[key], old[key])
      }
      worst = sorted(differences, key=differences.__getitem__, reverse=True)
      print(
        f'| {name} | {platform} | {len(old)} | {len(differences)} | '
        f'{max(differences.values(), default=0):.1e} | '
        f'{" ".join(worst[:_NAMED])} |',
        flush=True,
      )


if __name__ == '__main__':
  if os.environ.get(_PLATFORM):
    np.savez(sys.stdout.buffer, **computed(sys.argv[1], os.environ[_PLATFORM]))
  else:
    flags.mark_flag_as_required('before')
    app.run(main)
