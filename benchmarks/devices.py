"""How far the same run on one device and on eight drifts apart.

    python -m benchmarks.devices --data_dir=data/demo

Eight devices of the CPU add the same float32 numbers in another order. Prints
the largest difference after some steps: of the loss, relative to it, and of
the weights, relative to the largest of their array.
"""

import os

os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8'

import jax
import numpy as np
from absl import app, flags

from configs import default
from pnx_jax.input import pipeline
from pnx_jax.models import compiled
from pnx_jax.training import experiment, sharding

_DATA_DIR = flags.DEFINE_string('data_dir', 'data/demo', 'Built records.')
_STEPS = flags.DEFINE_list('steps', '6,50', 'After which to compare.')
_RECIPE = {
  'image_size': 32,
  'batch_size': 8,
  'model.width': 4,
  'model.depth': 2,
}


def run(config, devices):
  """The loss and the weights after each of the steps to compare."""
  mesh = sharding.mesh(jax.devices()[:devices])
  whole = sharding.replicated(mesh)
  setup = experiment.Experiment.build(config, platform=sharding.platform(mesh))
  step = compiled.jit(setup.train_step, donate_argnums=0, out_shardings=whole)
  state = jax.jit(setup.create_state, out_shardings=whole)(jax.random.key(0))
  batches = pipeline.training_batches(
    setup.dataset,
    setup.schedule,
    image_size=config.image_size,
    loader=experiment.loader(config, config.batch_size),
    first_step=0,
    last_step=config.total_steps,
  )
  seen = {}
  for number, batch in enumerate(batches, 1):
    state, loss = step(state, sharding.put(batch, mesh))
    if str(number) in _STEPS.value:
      seen[number] = jax.device_get((loss, state.variables['params']))
  return seen


def apart(one, other):
  """The largest difference, relative to the largest value."""
  return np.max(np.abs(one - other)) / np.max(np.abs(one))


def main(_):
  config = default.get_config()
  config.data_dir = _DATA_DIR.value
  config.total_steps = max(map(int, _STEPS.value))
  config.update_from_flattened_dict(_RECIPE)
  alone, together = run(config, 1), run(config, 8)
  print('| steps | loss | weights |\n|---|---|---|')
  for number, (loss, params) in alone.items():
    loss_of_8, params_of_8 = together[number]
    weights = max(jax.tree.leaves(jax.tree.map(apart, params, params_of_8)))
    print(f'| {number} | {apart(loss, loss_of_8):.1e} | {weights:.1e} |')


if __name__ == '__main__':
  app.run(main)
