"""Times training (or inference) steps, beside PyTorch's of the same network.

python benchmarks/train_step.py --encoder=resnet34 --vs=torch

Both sides run in turns, some steps each, so that a noisy machine is noisy for
both; the table holds medians over the rounds. `--torch_python` names the
interpreter that has torch and segmentation-models-pytorch. On a CPU both
compute in float32; on a GPU in bfloat16, PyTorch with torch.compile.
`--vs=remat` sets the network beside itself with model.remat.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import time

# Two frameworks share the memory of one GPU.
os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')

import jax
import jax.numpy as jnp
import numpy as np
import optax
import roofline
from absl import app, flags

from pnx_jax.models import compiled, segmenter

ENCODER = flags.DEFINE_string('encoder', 'resnet34', 'see segmenter.ENCODERS')
DECODER = flags.DEFINE_enum('decoder', 'unet', ['unet', 'unetpp'], 'of both')
SIZE = flags.DEFINE_integer('size', 256, 'side of the image')
BATCH = flags.DEFINE_integer('batch', 4, 'images per step')
STEPS = flags.DEFINE_integer('steps', 3, 'steps per round')
ROUNDS = flags.DEFINE_integer('rounds', 7, 'rounds of each side')
INFERENCE = flags.DEFINE_bool('inference', False, 'time inference instead')
VERSUS = flags.DEFINE_enum('vs', '', ['', 'torch', 'remat'], 'the other side')
ROOFLINE = flags.DEFINE_bool('roofline', False, 'print the slowest operations')
TORCH_PYTHON = flags.DEFINE_string(
  'torch_python', sys.executable, 'interpreter that has torch'
)


class Ours:
  """Runs steps of this project's network."""

  def __init__(self, *, remat=False):
    gpu = jax.default_backend() != 'cpu'
    model = segmenter.create_model(
      ENCODER.value,
      decoder=DECODER.value,
      drop_path=0.0,
      remat=remat,
      dtype='bfloat16' if gpu else 'float32',
    )
    shape = (BATCH.value, SIZE.value, SIZE.value, 1)
    random = np.random.default_rng(0)
    self.image = jnp.asarray(random.random(shape, np.float32))
    self.label = jnp.asarray(random.random(shape, np.float32) > 0.9, 'float32')
    variables = jax.jit(lambda key: model.init(key, self.image, train=False))(
      jax.random.key(0)
    )
    optimizer = optax.adamw(1e-4)

    def loss(params, statistics, image, label):
      outputs, changed = model.apply(
        {'params': params, 'batch_stats': statistics},
        image,
        train=True,
        mutable=['batch_stats'],
      )
      logits = outputs['mask_logits']
      entropy = optax.sigmoid_binary_cross_entropy(logits, label).mean()
      return entropy, changed['batch_stats']

    def train(state, image, label):
      params, statistics, opt_state = state
      grads, statistics = jax.grad(loss, has_aux=True)(
        params, statistics, image, label
      )
      updates, opt_state = optimizer.update(grads, opt_state, params)
      return optax.apply_updates(params, updates), statistics, opt_state

    def predict(state, image, label):
      del label
      outputs = model.apply(
        {'params': state[0], 'batch_stats': state[1]}, image, train=False
      )
      return *state[:2], outputs['mask_logits'], *state[3:]

    params, statistics = variables['params'], variables['batch_stats']
    if INFERENCE.value:
      self.state = params, statistics, jnp.zeros(shape)
      step = predict
    else:
      self.state = params, statistics, optimizer.init(params)
      step = train
    start = time.perf_counter()
    lowered = compiled.jit(step, donate_argnums=0).lower(
      self.state, self.image, self.label
    )
    self.step = lowered.compile()
    self.compile_seconds = time.perf_counter() - start
    self.flops = lowered.cost_analysis()['flops']
    self.temporary_bytes = self.step.memory_analysis().temp_size_in_bytes

  def seconds(self, steps):
    start = time.perf_counter()
    for _ in range(steps):
      self.state = self.step(self.state, self.image, self.label)
    jax.block_until_ready(self.state)
    return time.perf_counter() - start


class Torch:
  """Runs steps of PyTorch's network in another process."""

  def __init__(self):
    worker = pathlib.Path(__file__).with_name('train_step_torch.py')
    command = [
      TORCH_PYTHON.value,
      str(worker),
      f'--encoder={ENCODER.value}',
      f'--decoder={DECODER.value}',
      f'--size={SIZE.value}',
      f'--batch={BATCH.value}',
      *['--inference'] * INFERENCE.value,
    ]
    self.process = subprocess.Popen(
      command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    self.compile_seconds = float(self.process.stdout.readline())

  def seconds(self, steps):
    self.process.stdin.write(f'{steps}\n')
    self.process.stdin.flush()
    return float(self.process.stdout.readline())

  def close(self):
    self.process.stdin.close()
    self.process.wait()


def main(_):
  sides = {'jax': Ours()}
  if VERSUS.value == 'torch':
    sides['torch'] = Torch()
  elif VERSUS.value == 'remat':
    sides['remat'] = Ours(remat=True)
  times = {name: [] for name in sides}
  for _ in range(ROUNDS.value):
    for name, side in sides.items():
      # Some machines take memory back from a process that waits for its turn.
      side.seconds(1)
      times[name].append(side.seconds(STEPS.value) / STEPS.value)
  device = jax.devices()[0].device_kind
  print(
    f'{"inference" if INFERENCE.value else "training"} {ENCODER.value} '
    f'{SIZE.value}x{SIZE.value} batch {BATCH.value} on {device}, '
    f'{os.cpu_count()} CPUs; {ROUNDS.value} rounds of {STEPS.value} steps'
  )
  print('side   first step s  step ms (min..max)        images/s')
  for name, side in sides.items():
    middle = statistics.median(times[name])
    print(
      f'{name:6} {side.compile_seconds:12.1f}  {1e3 * middle:7.1f} '
      f'({1e3 * min(times[name]):.1f}..{1e3 * max(times[name]):.1f}) '
      f'{BATCH.value / middle:12.2f}'
    )
  ours = sides['jax']
  rate = ours.flops / statistics.median(times['jax'])
  peak = roofline.peaks(device)
  share = f', {rate / peak[0]:.1%} of the peak' if peak else ''
  print(
    f'{ours.flops / 1e9:.0f} GFLOP a step, {rate / 1e12:.2f} TFLOP/s{share}'
  )
  for name, side in sides.items():
    if isinstance(side, Ours):
      print(f'{name}: {side.temporary_bytes / 2**30:.2f} GiB in a step')
  if ROOFLINE.value:
    roofline.report(ours.seconds, ours.step.as_text(), device_kind=device)
  if VERSUS.value:
    ratios = [b / a for a, b in zip(*times.values(), strict=True)]
    print(
      f'speed relative to {VERSUS.value}: {statistics.median(ratios):.2f} '
      f'({min(ratios):.2f}..{max(ratios):.2f})'
    )
  if VERSUS.value == 'torch':
    sides['torch'].close()


if __name__ == '__main__':
  app.run(main)
