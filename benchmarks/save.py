"""How long a checkpoint of the largest recipe takes to save.

python -m benchmarks.save

The grace period of docs/cluster/train.yaml has to cover it.
"""

import os
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from configs import efficientnet_unet
from pnx_jax.training import experiment, sharding, train_state
from pnx_jax.training.checkpoint import Checkpoints

REPEATS = 3


def largest_state() -> train_state.TrainState:
  """Random weights, their average, and two moments of the optimizer."""
  config = efficientnet_unet.get_config('b7')
  shapes = experiment.abstract_variables(config, sharding.mesh())
  random = np.random.default_rng(0)

  def drawn(tree):
    return jax.tree.map(
      lambda x: jnp.asarray(random.standard_normal(x.shape, np.float32)), tree
    )

  return train_state.TrainState(
    step=jnp.zeros([], jnp.int32),
    variables=drawn(shapes),
    ema=drawn(shapes),
    opt_state=(drawn(shapes['params']), drawn(shapes['params'])),
    metrics=jnp.zeros([]),
  )


def main() -> None:
  state = largest_state()
  size = sum(array.nbytes for array in jax.tree.leaves(state))
  for _ in range(REPEATS):
    with tempfile.TemporaryDirectory() as folder, Checkpoints(folder) as saved:
      start = time.monotonic()
      saved.save(1, state)
      saved.wait()
      seconds = time.monotonic() - start
    load = os.getloadavg()[0]
    print(f'{size / 1e9:.2f} GB in {seconds:.1f} s, load average {load:.1f}')


if __name__ == '__main__':
  main()
