r"""Every check that needs a GPU, in one go, as tables for RESULTS.md.

    python -m benchmarks.gpu --data_dir=data/siim --torch_python=...

The most important ones come first: the training step at 512 x 512 beside
torch.compile, with its memory. Each has a time limit, all together have
`--minutes`, and each line of a result is written to `results.md` in
`--output_dir` as it comes, beside the whole output. Without `--torch_python`
PyTorch is left out; with it, that interpreter needs torch, torchvision, timm
and segmentation-models-pytorch. `--data_dir` has records of 512 x 512; a few
dozen will do. `--smoke` takes tiny networks and sizes, to see on any machine
that all of it runs.

Where PyTorch and JAX are, but no index of packages, the rest comes as wheels
(11 MB), made elsewhere with the same version of Python:

    pip wheel --no-deps --wheel-dir=wheels array-record clu google-crc32c \
        googleapis-common-protos grain immutabledict importlib_resources \
        ml-collections portpicker promise segmentation-models-pytorch \
        tensorboardX tensorflow-datasets tensorflow-metadata toml
    pip install --no-index --no-deps --target=site wheels/*.whl
    PYTHONPATH=site python -m benchmarks.gpu --torch_python=python ...

These are enough to train: TensorFlow and pydicom are not needed.
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

from absl import app, flags

_DATA_DIR = flags.DEFINE_string('data_dir', 'data/siim', 'Built records.')
_OUTPUT_DIR = flags.DEFINE_string('output_dir', 'runs/gpu', 'Of the logs.')
_TORCH_PYTHON = flags.DEFINE_string(
  'torch_python', '', 'interpreter that has torch'
)
_MINUTES = flags.DEFINE_float('minutes', 11, 'After which no check begins.')
_CHECKS = flags.DEFINE_list('checks', [], 'Names of those to run, or all.')
_SMOKE = flags.DEFINE_bool('smoke', False, 'tiny sizes')

ROOT = pathlib.Path(__file__).parent.parent
DETERMINISTIC = '--xla_gpu_deterministic_ops=true'
# What of a check's output is its result; tables have three columns or more.
TOLD = re.compile(
  r'(\|.*){4}|.* alone: |training |inference |.*GFLOP a step|operation |'
  r'\S+ +\d+\.\d% |.*augmentation takes|The statistics add|'
  r'.*input wait'
)


def checks() -> Iterator[tuple[str, list[str], str, int]]:
  """Name, arguments of Python, further XLA flags, seconds of each check."""
  size, batch, times = (32, 2, 2) if _SMOKE.value else (512, 16, 5)
  resnet, b4 = (
    ('_tiny_resnet', '_tiny_efficientnet')
    if _SMOKE.value
    else ('resnet34', 'efficientnet_b4')
  )

  def step(encoder: str, sides: str, *more: str) -> list[str]:
    chosen = sides.split()
    if _TORCH_PYTHON.value:
      more = (*more, f'--torch_python={_TORCH_PYTHON.value}')
    else:
      chosen = [side for side in chosen if not side.startswith('smp')]
    return [
      'benchmarks/train_step.py',
      f'--encoder={encoder}',
      f'--sides={",".join(chosen)}',
      f'--size={size}',
      f'--batch={batch}',
      f'--rounds={times}',
      *more,
    ]

  for encoder, limit in ((resnet, 180), (b4, 240)):
    sides = 'ours/2 smp/1 ours/1 smp/2'
    yield f'{encoder} training', step(encoder, sides), '', limit
  steps = 6 if _SMOKE.value else 400
  arguments = [
    *('launch.py', *recipe(size, batch)),
    f'--workdir={folder("input wait")}',
    f'--config.data_dir={_DATA_DIR.value}',
    f'--config.total_steps={steps}',
    f'--config.log_steps={steps // 3}',
  ]
  yield 'input wait', arguments, '', 90
  arguments = ['-m', 'benchmarks.augment', *recipe(size, batch)]
  yield 'augmentation', [*arguments, f'--times={times}'], '', 90
  sides = 'ours/1 ours/2 smp/1 smp/2'
  yield f'{resnet} predicting', step(resnet, sides, '--inference'), '', 90
  yield 'limits', step(resnet, 'ours/2', '--roofline'), '', 90
  yield 'remat', step(b4, 'ours/1 remat/1'), '', 90
  yield 'deterministic', step(resnet, 'ours/1'), DETERMINISTIC, 90
  arguments = ['-m', 'benchmarks.evaluate', f'--encoder={resnet}', '--width=16']
  sizes = [f'--size={2 * size}', f'--batch_size={batch}', f'--times={times}']
  yield 'evaluation', [*arguments, *sizes], '', 90


def recipe(size: int, batch: int) -> list[str]:
  """Flags of ResNet-34's recipe, with images of `size`."""
  fields = {'image_size': size, 'batch_size': batch}
  fields |= {'augmentation.crop_size': 0}
  name = 'resunet.py:resnet34'
  if _SMOKE.value:
    name = 'unet.py'
    fields |= {'model.width': 4, 'model.depth': 2}
  return [
    f'--config=configs/{name}',
    *(f'--config.{field}={value}' for field, value in fields.items()),
  ]


def folder(name: str) -> pathlib.Path:
  """An empty folder of a run."""
  path = pathlib.Path(_OUTPUT_DIR.value).absolute() / name
  shutil.rmtree(path, ignore_errors=True)
  return path


def environment(xla_flags: str = '') -> dict[str, str]:
  """Of the checks: programs that several of them need are compiled once."""
  more = [xla_flags]
  others = {}
  if _SMOKE.value:
    more.append('--xla_backend_optimization_level=0')
    # PyTorch's threads would wait for each other on cores that others use.
    others['OMP_NUM_THREADS'] = '1'
  cache = pathlib.Path(_OUTPUT_DIR.value).absolute() / 'programs'
  paths = [str(ROOT), os.environ.get('PYTHONPATH', '')]
  return {
    'JAX_COMPILATION_CACHE_DIR': str(cache),
    **os.environ,
    **others,
    'XLA_FLAGS': ' '.join([os.environ.get('XLA_FLAGS', ''), *more]).strip(),
    'PYTHONPATH': os.pathsep.join(filter(None, paths)),
    'PYTHONUNBUFFERED': '1',
  }


def measure(
  name: str,
  arguments: list[str],
  xla_flags: str,
  seconds: float,
  tell: Callable[[str], None],
) -> None:
  """Tells each line of a check's result, and why there are no more."""
  log = pathlib.Path(_OUTPUT_DIR.value) / f'{name.replace("/", "_")}.log'
  with (
    log.open('w') as output,
    subprocess.Popen(
      [sys.executable, *arguments],
      cwd=ROOT,
      env=environment(xla_flags),
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      errors='replace',
      start_new_session=True,
    ) as process,
  ):
    # With the process of PyTorch's side.
    limit = threading.Timer(seconds, os.killpg, (process.pid, signal.SIGKILL))
    limit.start()
    for line in process.stdout:
      output.write(line)
      if TOLD.match(line):
        tell(line.rstrip())
    limit.cancel()
  if process.returncode == -signal.SIGKILL:
    tell(f'FAILED (not finished after {seconds:.0f} s), see {log}')
  elif process.returncode:
    tell(f'FAILED ({process.returncode}), see {log}')


def resume(seconds: float) -> str:
  """Kills a deterministic training and compares what it becomes."""
  deadline = time.monotonic() + seconds
  fields = {
    'data_dir': _DATA_DIR.value,
    'deterministic': True,
    'total_steps': 6,
    'checkpoint_steps': 1,
  }
  folders = {name: folder(name) for name in ('whole', 'killed')}

  def start(name: str) -> subprocess.Popen:
    return subprocess.Popen(
      [
        *(sys.executable, 'launch.py'),
        *recipe(32 if _SMOKE.value else 256, 8),
        f'--workdir={folders[name]}',
        *(f'--config.{field}={value}' for field, value in fields.items()),
      ],
      cwd=ROOT,
      env=environment(),
      stdout=subprocess.DEVNULL,
    )

  def trained(name: str) -> bool:
    process = start(name)
    try:
      return process.wait(max(deadline - time.monotonic(), 1)) == 0
    except subprocess.TimeoutExpired:
      process.kill()
      return False

  def checkpoint(name: str, step: int) -> pathlib.Path:
    return folders[name] / 'fold0' / 'checkpoints' / str(step)

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


def main(_: list[str]) -> None:
  output_dir = pathlib.Path(_OUTPUT_DIR.value)
  output_dir.mkdir(parents=True, exist_ok=True)
  start = time.monotonic()
  with (output_dir / 'results.md').open('a') as results:

    def tell(text: str) -> None:
      for file in (results, sys.stdout):
        print(text, file=file, flush=True)

    def left() -> float:
      return 60 * _MINUTES.value - (time.monotonic() - start)

    def begins(name: str, *, needed: float) -> bool:
      if _CHECKS.value and name not in _CHECKS.value:
        return False
      tell(f'\n## {name} (after {(time.monotonic() - start) / 60:.1f} min)\n')
      if left() < needed:
        tell('skipped: no time left')
      return left() >= needed

    # A rehearsal may have to share its cores.
    patience = 5 if _SMOKE.value else 1
    for name, arguments, xla_flags, seconds in checks():
      if begins(name, needed=30):
        limit = min(seconds * patience, left())
        measure(name, arguments, xla_flags, limit, tell)
    if begins('kill and resume', needed=60):
      same = resume(min(120 * patience, left()))
      tell(f'6 steps = 3 + kill -9 + 3, deterministic: {same}')
    tell(f'\nEnded after {(time.monotonic() - start) / 60:.1f} min')


if __name__ == '__main__':
  app.run(main)
