"""Every check that needs a GPU, in one go, as tables for RESULTS.md.

    python -m benchmarks.gpu --data_dir=data/siim --torch_python=...

The most important ones come first; each has a time limit, all together have
`--minutes`, and a result is written to `results.md` in `--output_dir` at once,
beside the whole output. Without `--torch_python` PyTorch is left out; with it,
that interpreter needs torch and segmentation-models-pytorch, which may come as
wheels (`pip download --no-deps segmentation_models_pytorch==0.6.0`). The steps
beside PyTorch need jax, flax and optax of this project's dependencies, the
other checks all of them, and the last one records in `--data_dir`. `--smoke`
takes tiny sizes, to see on any machine that all of it runs.
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

from absl import app, flags

_DATA_DIR = flags.DEFINE_string('data_dir', 'data/siim', 'Built records.')
_OUTPUT_DIR = flags.DEFINE_string('output_dir', 'runs/gpu', 'Of the logs.')
_TORCH_PYTHON = flags.DEFINE_string(
  'torch_python', '', 'interpreter that has torch'
)
_MINUTES = flags.DEFINE_float('minutes', 14, 'After which no check begins.')
_SMOKE = flags.DEFINE_bool('smoke', False, 'tiny sizes')

ROOT = pathlib.Path(__file__).parent.parent
DETERMINISTIC = '--xla_gpu_deterministic_ops=true'


def checks():
  """Name, arguments of Python, further XLA flags, seconds of each check."""
  size, batch, times = (64, 2, 2) if _SMOKE.value else (512, 16, 5)
  b4 = 'efficientnet_b0' if _SMOKE.value else 'efficientnet_b4'

  def step(encoder, sides, *more):
    if _TORCH_PYTHON.value:
      more = (*more, f'--torch_python={_TORCH_PYTHON.value}')
    else:
      sides = [side for side in sides if not side.startswith('smp')]
    return [
      'benchmarks/train_step.py',
      f'--encoder={encoder}',
      f'--sides={",".join(sides)}',
      f'--size={size}',
      f'--batch={batch}',
      f'--rounds={times}',
      *more,
    ]

  for encoder in ('resnet34', b4):
    for stride in (2, 1):
      sides = [f'ours/{stride}', f'smp/{stride}']
      yield f'{encoder}, output stride {stride}', step(encoder, sides), '', 210
  both = ['ours/1', 'ours/2', 'smp/1', 'smp/2']
  yield 'resnet34 predicting', step('resnet34', both, '--inference'), '', 150
  yield 'limits', step('resnet34', ['ours/2'], '--roofline'), '', 120
  recipe = '--config=configs/resunet.py:resnet34'
  sizes = [f'--config.image_size={size}', f'--config.batch_size={batch}']
  arguments = ['-m', 'benchmarks.augment', recipe, *sizes]
  yield 'augmentation', [*arguments, f'--times={times}'], '', 150
  yield 'remat', step(b4, ['ours/1', 'remat/1']), '', 150
  yield 'deterministic', step('resnet34', ['ours/1']), DETERMINISTIC, 120
  arguments = ['-m', 'benchmarks.evaluate', '--encoder=resnet34', '--width=16']
  sizes = [f'--size={size}', f'--batch_size={batch}', f'--times={times}']
  yield 'evaluation', [*arguments, *sizes], '', 120


# What of a check's output is its result.
TOLD = re.compile(
  r'^(\|.*|.* alone: .*|training .*|inference .*|.*GFLOP a step.*|operation .*|'
  r'.*augmentation takes.*|The statistics add.*)$',
  re.MULTILINE,
)


def measure(name, arguments, xla_flags, seconds):
  """What a check tells, or why it tells nothing."""
  flags_before = os.environ.get('XLA_FLAGS', '')
  environment = {
    **os.environ,
    'XLA_FLAGS': f'{flags_before} {xla_flags}'.strip(),
    'PYTHONPATH': os.pathsep.join(
      filter(None, (str(ROOT), os.environ.get('PYTHONPATH')))
    ),
  }
  log = pathlib.Path(_OUTPUT_DIR.value) / f'{name}.log'
  with log.open('w') as output:
    process = subprocess.Popen(
      [sys.executable, *arguments],
      cwd=ROOT,
      env=environment,
      stdout=output,
      stderr=subprocess.STDOUT,
      start_new_session=True,
    )
    try:
      code = process.wait(seconds)
    except subprocess.TimeoutExpired:
      # With the process of PyTorch's side.
      os.killpg(process.pid, signal.SIGKILL)
      process.wait()
      code = f'not finished after {seconds:.0f} s'
  told = '\n'.join(TOLD.findall(log.read_text()))
  return told if code == 0 else f'{told}\nFAILED ({code}), see {log}'.strip()


def resume(seconds):
  """Kills a deterministic training and compares what it becomes."""
  deadline = time.monotonic() + seconds
  fields = {
    'data_dir': _DATA_DIR.value,
    'deterministic': True,
    'total_steps': 6,
    'checkpoint_steps': 1,
    'image_size': 64 if _SMOKE.value else 256,
    'batch_size': 8,
  }
  recipe = 'configs/unet.py' if _SMOKE.value else 'configs/resunet.py:resnet34'
  folders = {
    name: pathlib.Path(_OUTPUT_DIR.value).absolute() / name
    for name in ('whole', 'killed')
  }

  def start(name):
    return subprocess.Popen(
      [
        *(sys.executable, 'launch.py', f'--config={recipe}'),
        f'--workdir={folders[name]}',
        *(f'--config.{field}={value}' for field, value in fields.items()),
      ],
      cwd=ROOT,
      stdout=subprocess.DEVNULL,
    )

  def trained(name):
    process = start(name)
    try:
      return process.wait(max(deadline - time.monotonic(), 1)) == 0
    except subprocess.TimeoutExpired:
      process.kill()
      return False

  def checkpoint(name, step):
    return folders[name] / 'fold0' / 'checkpoints' / str(step)

  for folder in folders.values():
    shutil.rmtree(folder, ignore_errors=True)
  if not trained('whole'):
    return f'FAILED, or not finished after {seconds:.0f} s'
  process = start('killed')
  while process.poll() is None and not checkpoint('killed', 3).exists():
    if time.monotonic() > deadline:
      break
    time.sleep(0.01)
  process.kill()
  process.wait()
  if not trained('killed'):
    return f'FAILED, or not finished after {seconds:.0f} s'
  # Checksums of every array, and the score.
  whole, killed = (
    (checkpoint(name, 6) / 'checksums' / 'metadata').read_bytes()
    for name in folders
  )
  return 'equal bit for bit' if whole == killed else 'DIFFERENT'


def main(_):
  folder = pathlib.Path(_OUTPUT_DIR.value)
  folder.mkdir(parents=True, exist_ok=True)
  start = time.monotonic()
  with (folder / 'results.md').open('w') as results:

    def tell(name, text):
      minutes = (time.monotonic() - start) / 60
      for file in (results, sys.stdout):
        print(
          f'## {name} ({minutes:.1f} min)\n\n{text}\n', file=file, flush=True
        )

    def left():
      return 60 * _MINUTES.value - (time.monotonic() - start)

    for name, arguments, xla_flags, seconds in checks():
      if left() < 30:
        tell(name, 'skipped: no time left')
        continue
      limit = min(seconds, left())
      tell(name, measure(name, arguments, xla_flags, limit))
    name = '6 steps = 3 + kill -9 + 3, deterministic'
    tell(name, resume(left()) if left() > 60 else 'skipped: no time left')


if __name__ == '__main__':
  app.run(main)
