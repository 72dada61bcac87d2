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

from pnx_jax.config import loss_weights
from pnx_jax.input.augment import Augmentation
from pnx_jax.metrics.dice import SegmentationMetrics
from pnx_jax.training import (
  experiment,
  losses,
  optim,
  sharding,
  steps,
  train_state,
)

_CONFIG = config_flags.DEFINE_config_file('config', 'configs/resunet.py')
_TIMES = flags.DEFINE_integer('times', 5, 'Steps of each kind.')


def main(_):
  config = _CONFIG.value
  mesh = sharding.mesh()
  weights = loss_weights(config)
  model = experiment.network(config, platform=sharding.platform(mesh))
  optimizer = optim.create(
    name=config.optimizer.name, schedule=lambda _: 1e-4, clip_norm=1.0
  )
  replicated = sharding.replicated(mesh)
  create = functools.partial(
    train_state.create,
    model=model,
    optimizer=optimizer,
    metrics=SegmentationMetrics.with_losses(
      (*losses.names(weights), 'gradient_norm')
    ),
    image_size=config.image_size,
    ema=True,
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

  def step(augmentation):
    function = functools.partial(
      steps.train_step,
      model=model,
      optimizer=optimizer,
      loss_weights=weights,
      augmentation=augmentation,
      ema_decay=0.999,
      seed=0,
    )
    return jax.jit(function, donate_argnums=0, out_shardings=replicated)

  kinds = {
    'with': step(Augmentation(**config.augmentation)),
    'without': step(lambda _, image, label: (image, label)),
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
