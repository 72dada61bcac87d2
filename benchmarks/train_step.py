r"""Times steps of training or prediction beside PyTorch's of the same network.

    python benchmarks/train_step.py --encoder=resnet34 \
        --sides=ours/1,ours/2,smp/1,smp/2 --torch_python=...

A side is a library, the output stride of its decoder and, if wanted, the type
that it computes in: `smp/2/bfloat16`. `smp` is segmentation-models-pytorch;
with output stride 2 its decoder ends one block earlier, in the sub-pixel head
of this project. `remat/1` is this project's network with model.remat, `other/1`
that of `ours/1` run by `--other_python`, which may have another version of JAX.
Without a type a CPU computes in float32 and a GPU in bfloat16, there PyTorch
with torch.compile. Each side is a process. They take turns, two steps that do
not count and then some that do, so that a noisy machine is noisy for all of
them; `ours`, or else the first side, are compared with every side, round by
round. Beside other jobs the processor's time says more than the clock's. GiB
are what XLA reserves for the program and the most that PyTorch's allocator had
on a GPU. `--torch_python` names the interpreter that has torch.
"""

import contextlib
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
SIDES = flags.DEFINE_list('sides', 'ours/1', 'what is timed')
ROOFLINE = flags.DEFINE_bool('roofline', False, 'print the slowest operations')
TORCH_PYTHON = flags.DEFINE_string(
  'torch_python', sys.executable, 'interpreter that has torch'
)
OTHER_PYTHON = flags.DEFINE_string(
  'other_python', sys.executable, 'interpreter of the side `other`'
)
SERVE = flags.DEFINE_bool('serve', False, 'time the one side for a `Worker`')


class Ours:
  """Runs steps of this project's network."""

  def __init__(self, stride, dtype, *, remat=False):
    gpu = jax.default_backend() != 'cpu'
    model = segmenter.create_model(
      ENCODER.value,
      decoder=DECODER.value,
      drop_path=0.0,
      output_stride=stride,
      remat=remat,
      dtype=dtype or ('bfloat16' if gpu else 'float32'),
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
      return *state[:2], outputs['mask_logits']

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
    self.memory = roofline.memory_needed(self.step)

  def seconds(self, steps):
    """Seconds of the clock and of the processor."""
    start, processor = time.perf_counter(), time.process_time()
    for _ in range(steps):
      self.state = self.step(self.state, self.image, self.label)
    jax.block_until_ready(self.state)
    clock = time.perf_counter() - start
    return clock, time.process_time() - processor


class Worker:
  """Runs steps in another process, which prints what it measures."""

  def __init__(self, command):
    self.process = subprocess.Popen(
      command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    self.compile_seconds, _ = self._answer()

  def seconds(self, steps):
    self.process.stdin.write(f'{steps}\n')
    self.process.stdin.flush()
    return self._answer()

  def _answer(self):
    answer = self.process.stdout.readline().split()
    if not answer:
      sys.exit(
        f'the side run by {self.process.args[0]} ended with exit code '
        f'{self.process.wait()}; its message is above'
      )
    clock, processor, self.memory, *flops = map(float, answer)
    self.flops = flops[0] if flops else None
    return clock, processor

  def close(self):
    self.process.stdin.close()
    self.process.wait()


def serve(name):
  """Answers a `Worker`; at its end the slowest operations, if wanted."""
  library, stride, *dtype = name.split('/')
  ours = Ours(int(stride), *(dtype or ['']), remat=library == 'remat')
  program = ours.memory or 0, ours.flops
  print(ours.compile_seconds, 0, *program, flush=True)
  for line in sys.stdin:
    print(*ours.seconds(int(line)), *program, flush=True)
  if ROOFLINE.value:
    device = jax.devices()[0].device_kind
    with contextlib.redirect_stdout(sys.stderr):
      roofline.report(ours.seconds, ours.step.as_text(), device_kind=device)


def side(name):
  """What `ours/1` or `smp/2/bfloat16` stands for."""
  library, stride, *dtype = name.split('/')
  network = [
    f'--encoder={ENCODER.value}',
    f'--decoder={DECODER.value}',
    f'--size={SIZE.value}',
    f'--batch={BATCH.value}',
    *['--inference'] * INFERENCE.value,
  ]
  here = pathlib.Path(__file__)
  if library == 'smp':
    script = str(here.with_name('train_step_torch.py'))
    stride, dtype = f'--output_stride={stride}', f'--dtype={"".join(dtype)}'
    return Worker([TORCH_PYTHON.value, script, *network, stride, dtype])
  python = sys.executable
  if library == 'other':
    python, name = OTHER_PYTHON.value, '/'.join(['ours', stride, *dtype])
  roof = f'--roofline={ROOFLINE.value}'
  return Worker(
    [python, str(here), *network, roof, '--serve', f'--sides={name}']
  )


def main(_):
  if SERVE.value:
    return serve(SIDES.value[0])
  sides = {}
  for name in SIDES.value:
    sides[name] = side(name)
    # Something is known although a later side may outlast a time limit.
    sides[name].seconds(1)
    clock, _ = sides[name].seconds(STEPS.value)
    print(
      f'{name} alone: first step {sides[name].compile_seconds:.1f} s, then '
      f'{1e3 * clock / STEPS.value:.0f} ms a step',
      flush=True,
    )
  times = {name: [] for name in sides}
  processor = {name: [] for name in sides}
  before = os.getloadavg()[0]
  for number in range(ROUNDS.value):
    # There and back, so that none always runs behind the same other one.
    order = [*sides.items()][:: -1 if number % 2 else 1]
    for name, each in order:
      # Some machines take memory back from a process that waits for its turn.
      each.seconds(2)
      clock, busy = each.seconds(STEPS.value)
      times[name].append(clock / STEPS.value)
      processor[name].append(busy / STEPS.value)
  device = jax.devices()[0].device_kind
  own = [name for name in sides if name.startswith('ours')] or [*sides][:1]
  print(
    f'{"inference" if INFERENCE.value else "training"} {ENCODER.value} '
    f'{DECODER.value} {SIZE.value}x{SIZE.value} batch {BATCH.value}, {device}, '
    f'{os.cpu_count()} CPUs, load {before:.1f} before and '
    f'{os.getloadavg()[0]:.1f} after; n = {ROUNDS.value} rounds of '
    f'{STEPS.value} steps'
  )
  titles = ['side', 'first step s', 'step ms', 'images/s']
  titles += [f'{name} is faster by' for name in own]
  titles += ['processor ms', *(f'{name} takes less by' for name in own), 'GiB']
  print(f'| {" | ".join(titles)} |\n{"|---" * len(titles)}|')
  for name, runner in sides.items():
    cells = [f'{runner.compile_seconds:.1f}', _range(times[name], 1e3, 0)]
    cells.append(f'{BATCH.value / statistics.median(times[name]):.2f}')
    cells += [_range(_ratios(times, each, name), 1, 2) for each in own]
    cells.append(_range(processor[name], 1e3, 0))
    cells += [_range(_ratios(processor, each, name), 1, 2) for each in own]
    cells.append(f'{runner.memory / 2**30:.2f}' if runner.memory else '')
    print(f'| {name} | {" | ".join(cells)} |')
  for name, each in sides.items():
    if each.flops:
      rate = each.flops / statistics.median(times[name])
      peak = roofline.peaks(device)
      share = f', {rate / peak[0]:.1%} of the peak' if peak else ''
      print(
        f'{name}: {each.flops / 1e9:.0f} GFLOP a step, {rate / 1e12:.2f} '
        f'TFLOP/s{share}',
        flush=True,
      )
    each.close()


def _ratios(measured, own, name):
  """How many times as much `name` took as `own`, round by round."""
  pairs = zip(measured[own], measured[name], strict=True)
  return [other / first for first, other in pairs]


def _range(values, factor, digits):
  """Median and range of values."""
  least, middle, most = (
    f'{factor * value:.{digits}f}'
    for value in (min(values), statistics.median(values), max(values))
  )
  return f'{middle} ({least} to {most})'


if __name__ == '__main__':
  app.run(main)
