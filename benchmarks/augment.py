"""The share of a training step that augmentation takes.

    python -m benchmarks.augment --config=configs/resunet.py

Times the step with and without augmentation, alternately, on a batch of
random numbers, and prints medians and the range of the share.
"""

import functools
import statistics
import time

import jax
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from benchmarks import programs
from pnx_jax.models import compiled
from pnx_jax.training import sharding

_CONFIG = config_flags.DEFINE_config_file('config', 'configs/resunet.py')
_TIMES = flags.DEFINE_integer('times', 5, 'Steps of each kind.')


def main(_):
  config = _CONFIG.value
  mesh = sharding.mesh()
  replicated = sharding.replicated(mesh)
  step, create = programs.training_step(
    config, platform=sharding.platform(mesh)
  )
  current = jax.jit(create, out_shardings=replicated)(
    jax.random.key(0, impl='rbg')
  )
  shape = (config.batch_size, config.image_size, config.image_size, 1)
  random = np.random.default_rng(0)
  batch = sharding.put(
    {
      'image': random.integers(0, 256, shape, np.uint8),
      'label': random.random(shape) < 0.01,
    },
    mesh,
  )

  unchanged = functools.partial(
    step, augmentation=lambda _, image, label: (image, label)
  )
  kinds = {
    name: compiled.jit(form, donate_argnums=0, out_shardings=replicated)
    for name, form in (('with', step), ('without', unchanged))
  }
  seconds = {name: [] for name in kinds}
  for _ in range(_TIMES.value + 1):
    for name, run in kinds.items():
      before = time.perf_counter()
      current, loss = run(current, batch)
      jax.block_until_ready((current, loss))
      seconds[name].append(time.perf_counter() - before)
  # The first step of each is its compilation.
  shares = [
    1 - without / whole
    for whole, without in zip(
      seconds['with'][1:], seconds['without'][1:], strict=True
    )
  ]
  print(
    f'{jax.devices()[0].device_kind}, {config.model.encoder}, batch '
    f'{config.batch_size} at {config.image_size}: '
    f'{statistics.median(seconds["with"][1:]) * 1e3:.0f} ms with, '
    f'{statistics.median(seconds["without"][1:]) * 1e3:.0f} ms without; '
    f'augmentation takes {statistics.median(shares):.1%} '
    f'({min(shares):.1%} to {max(shares):.1%} of {_TIMES.value})'
  )


if __name__ == '__main__':
  app.run(main)
