"""How long the first training step takes, with an empty and a full cache.

    python -m benchmarks.compile_time --recipes=efficientnet_unet:lite0

Each measurement is a process of its own that draws the weights, compiles the
training step of 4 images at 256 x 256 and runs it once. "Step" is the last two,
"whole" is from the start of the process, imports included; reading a dataset is
not. Seconds of the clock depend on what else the machine does, seconds of the
processor hardly do; the load average is printed before and after.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
from absl import app, flags

from benchmarks import programs
from pnx_jax.models import compiled

_RECIPES = flags.DEFINE_list(
  'recipes',
  'resunet:resnet34,efficientnet_unet:lite0,efficientnet_unet:b0,'
  'efficientnet_unet:b4,efficientnet_unet:b7,resunet:se_resnext50,'
  'resunet:resnet50,unet,resunet,unetpp:resnet34,unetpp:efficientnet_b4',
  'Files of configs/, with their variants.',
)
_TIMES = flags.DEFINE_integer('times', 3, 'Processes of each kind.')
_STRIDE = flags.DEFINE_integer('output_stride', 1, 'Of the decoder.')
_SIZE, _BATCH = 256, 4
_CHILD = 'PNX_JAX_COMPILE_TIME'


def first_step(recipe):
  """Prints seconds: the step's, its processor's, and the whole process's."""
  config = programs.config_of(
    recipe,
    image_size=_SIZE,
    batch_size=_BATCH,
    **{'model.output_stride': _STRIDE.value, 'augmentation.crop_size': 0},
  )
  step, create = programs.training_step(config, platform=jax.default_backend())
  state = compiled.jit(create)(jax.random.key(0, impl='rbg'))
  jax.block_until_ready(state)
  batch = {
    'image': jnp.zeros((_BATCH, _SIZE, _SIZE, 1), jnp.uint8),
    'label': jnp.zeros((_BATCH, _SIZE, _SIZE, 1), bool),
    'valid': jnp.ones(_BATCH, bool),
  }
  clock, processor = time.perf_counter(), time.process_time()
  run = compiled.jit(step, donate_argnums=0)
  jax.block_until_ready(run(state, batch))
  step_seconds = time.perf_counter() - clock, time.process_time() - processor
  print(*step_seconds, time.time() - float(os.environ[_CHILD]))


def measured(recipe, cache):
  """The seconds that a new process prints."""
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'benchmarks.compile_time'),
      *(f'--recipes={recipe}', f'--output_stride={_STRIDE.value}'),
    ],
    env=os.environ
    | {_CHILD: str(time.time()), 'JAX_COMPILATION_CACHE_DIR': cache},
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  return [float(number) for number in done.stdout.split()[-3:]]


def main(_):
  if os.environ.get(_CHILD):
    first_step(_RECIPES.value[0])
    return
  titles = 'cold: step, s', 'its processor s', 'whole, s', 'warm: step, s'
  print(f'| recipe | {" | ".join(titles)} | whole, s | load |')
  print('|---' * 7 + '|')
  for recipe in _RECIPES.value:
    before = os.getloadavg()[0]
    runs = []
    for _ in range(_TIMES.value):
      with tempfile.TemporaryDirectory() as cache:
        cold, processor, whole = measured(recipe, cache)
        warm, _, warm_whole = measured(recipe, cache)
        runs.append((cold, processor, whole, warm, warm_whole))
    cells = [
      f'{statistics.median(x):.1f} ({min(x):.1f} to {max(x):.1f})'
      for x in zip(*runs, strict=True)
    ]
    print(
      f'| {recipe} | {" | ".join(cells)} | {before:.1f}, '
      f'{os.getloadavg()[0]:.1f} |',
      flush=True,
    )


if __name__ == '__main__':
  app.run(main)
