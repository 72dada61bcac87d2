"""Every check that needs a GPU, in one go, as one table for RESULTS.md.

    python -m benchmarks.gpu --data_dir=data/siim --torch_python=...

Without `--torch_python` PyTorch is left out. `--smoke` takes tiny sizes,
to see on any machine that all of it runs. The whole output of each check is in
`--output_dir`.
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
_SMOKE = flags.DEFINE_bool('smoke', False, 'tiny sizes')

ROOT = pathlib.Path(__file__).parent.parent
DETERMINISTIC = '--xla_gpu_deterministic_ops=true'


def checks():
  """Name, arguments of Python and further XLA flags of each measurement."""
  size, batch, times = (64, 2, 2) if _SMOKE.value else (512, 16, 10)
  step = [
    'benchmarks/train_step.py',
    f'--size={size}',
    f'--batch={batch}',
    f'--rounds={times}',
  ]
  beside = ['--roofline']
  if _TORCH_PYTHON.value:
    beside += ['--vs=torch', f'--torch_python={_TORCH_PYTHON.value}']
  yield 'resnet34', [*step, '--encoder=resnet34', *beside], ''
  # Half the time to compile.
  net = 'efficientnet_b0' if _SMOKE.value else 'efficientnet_b4'
  b4 = [*step, f'--encoder={net}']
  yield net, [*b4, *beside], ''
  yield f'{net} predicting', [*b4, *beside, '--inference'], ''
  yield 'remat', [*b4, '--vs=remat'], ''
  yield 'deterministic', [*step, '--encoder=resnet34'], DETERMINISTIC
  recipe = '--config=configs/resunet.py:resnet34'
  sizes = [f'--config.image_size={size}', f'--config.batch_size={batch}']
  arguments = ['-m', 'benchmarks.augment', recipe, *sizes]
  yield 'augmentation', [*arguments, f'--times={times}'], ''
  arguments = ['-m', 'benchmarks.evaluate', '--encoder=resnet34', '--width=16']
  sizes = [f'--size={size}', f'--batch_size={batch}', f'--times={times}']
  yield 'evaluation', [*arguments, *sizes], ''


# What of a check's output goes into the table.
TOLD = re.compile(
  r'^((?:jax|torch|remat) .*|.*GFLOP a step.*|.*GiB in a step|'
  r'speed relative.*|.*augmentation takes.*|The statistics add.*)$',
  re.MULTILINE,
)


def measure(name, arguments, xla_flags):
  """One row of the table."""
  flags_before = os.environ.get('XLA_FLAGS', '')
  environment = {
    **os.environ,
    'XLA_FLAGS': f'{flags_before} {xla_flags}'.strip(),
  }
  done = subprocess.run(
    [sys.executable, *arguments],
    cwd=ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  log = pathlib.Path(_OUTPUT_DIR.value) / f'{name}.log'
  log.write_text(done.stdout)
  told = '; '.join(' '.join(line.split()) for line in TOLD.findall(done.stdout))
  return told if done.returncode == 0 else f'FAILED, see {log}'


def resume():
  """Kills a deterministic training and compares what it becomes."""
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

  def checkpoint(name, step):
    return folders[name] / 'fold0' / 'checkpoints' / str(step)

  for folder in folders.values():
    shutil.rmtree(folder, ignore_errors=True)
  if start('whole').wait():
    return 'FAILED'
  process = start('killed')
  while process.poll() is None and not checkpoint('killed', 3).exists():
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.wait()
  if start('killed').wait():
    return 'FAILED'
  # Checksums of every array, and the score.
  whole, killed = (
    (checkpoint(name, 6) / 'checksums' / 'metadata').read_bytes()
    for name in folders
  )
  return 'equal bit for bit' if whole == killed else 'DIFFERENT'


def main(_):
  pathlib.Path(_OUTPUT_DIR.value).mkdir(parents=True, exist_ok=True)
  print('| check | result |\n|---|---|')
  for name, arguments, xla_flags in checks():
    print(f'| {name} | {measure(name, arguments, xla_flags)} |', flush=True)
  print(f'| 6 steps = 3 + kill -9 + 3, deterministic | {resume()} |')


if __name__ == '__main__':
  app.run(main)
