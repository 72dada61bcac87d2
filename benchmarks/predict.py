"""Times --mode=predict from files to tables, beside a plain PyTorch loop.

    python -m benchmarks.predict --workdir=runs/resnet34 --torch_python=...

The run is one of configs/resunet.py:resnet34; what its weights are does not
matter. Reads n and 4n phantoms in turns with PyTorch; what a film costs is the
difference, so that starting up is counted apart. Shares are of processor time,
which other jobs on the machine change less than they change seconds.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import app, flags, logging

import pnx_jax
from pnx_jax.inference import journal
from pnx_jax.inference.model import Model

_WORKDIR = flags.DEFINE_string('workdir', None, 'Evaluated run.', required=True)
_INPUT = flags.DEFINE_string('input', 'data/phantom', 'Films, at least 4n.')
_NUM_IMAGES = flags.DEFINE_integer('num_images', 8, 'The smaller number n.')
_ROUNDS = flags.DEFINE_integer('rounds', 3, 'Runs of each.')
_TORCH_PYTHON = flags.DEFINE_string(
  'torch_python', '', 'Interpreter with torch; without one, no comparison.'
)

_ROOT = pathlib.Path(__file__).parent.parent


class Run(NamedTuple):
  """One command: seconds to its first result and its end, and its costs."""

  first: float
  seconds: float
  cpu: float
  memory: float


def ours(films: Sequence[pathlib.Path], folder: pathlib.Path) -> Run:
  inputs = folder / 'films'
  inputs.mkdir()
  for number, film in enumerate(films):
    (inputs / f'{number}.dcm').symlink_to(film)
  command = [sys.executable, 'launch.py', '--mode=predict']
  command += [f'--workdir={pathlib.Path(_WORKDIR.value).absolute()}']
  command += [f'--input={inputs}', f'--output_dir={folder / "out"}']
  lines = folder / 'out' / journal.NAME
  began, first = time.perf_counter(), None
  process = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.DEVNULL)
  while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
    if first is None and lines.exists() and lines.stat().st_size:
      first = time.perf_counter() - began
    time.sleep(0.01)
  _, status, usage = ended
  seconds = time.perf_counter() - began
  if status or first is None:
    raise RuntimeError(f'{command} failed')
  cpu = usage.ru_utime + usage.ru_stime
  return Run(first, seconds, cpu, usage.ru_maxrss / 2**10)


def network(model: Model, times: int = 6) -> float:
  """Processor seconds of the network alone, a film."""
  shape = (1, model.image_size, model.image_size, 1)
  image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  each = []
  for _ in range(times):
    before = time.process_time()
    model.answer(image)['probs'].block_until_ready()
    each.append(time.process_time() - before)
  return statistics.median(each[1:])


def torch(count: int, size: int, folder: pathlib.Path) -> list[float]:
  """Seconds, processor seconds, and the network's of them, a film."""
  command = [_TORCH_PYTHON.value, str(_ROOT / 'benchmarks/predict_torch.py')]
  command += [f'--input={_INPUT.value}', f'--output={folder / "torch.csv"}']
  command += [f'--size={size}', f'--num_images={count}']
  result = subprocess.run(command, capture_output=True, text=True, check=True)
  films, *costs = map(float, result.stdout.split())
  return [cost / films for cost in costs]


def middle(values: Sequence[float], digits: int = 2) -> str:
  """Median and range."""
  low, high = min(values), max(values)
  return (
    f'{statistics.median(values):.{digits}f} '
    f'({low:.{digits}f} to {high:.{digits}f})'
  )


def main(argv: Sequence[str]) -> None:
  del argv
  logging.set_verbosity(logging.WARNING)
  model = pnx_jax.load(_WORKDIR.value)
  size = model.image_size
  few, many = _NUM_IMAGES.value, 4 * _NUM_IMAGES.value
  films = sorted(pathlib.Path(_INPUT.value).absolute().rglob('*.dcm'))[:many]
  if len(films) < many:
    sys.exit(f'{_INPUT.value} has {len(films)} films, fewer than {many}')
  runs = {few: [], many: []}
  theirs, alone = [], []
  with tempfile.TemporaryDirectory() as temporary:
    warm = pathlib.Path(temporary, 'warm')
    warm.mkdir()
    ours(films[:1], warm)  # Fills the compilation cache.
    for number in range(_ROUNDS.value):
      for count, done in runs.items():
        folder = pathlib.Path(temporary, f'{number}_{count}')
        folder.mkdir()
        done.append(ours(films[:count], folder))
      if _TORCH_PYTHON.value:
        theirs.append(torch(many, size, pathlib.Path(temporary)))
      alone.append(network(model))
  pairs = list(zip(runs[few], runs[many], strict=True))
  seconds = [(b.seconds - a.seconds) / (many - few) for a, b in pairs]
  cpu = [(b.cpu - a.cpu) / (many - few) for a, b in pairs]
  print(f'{size} x {size}, {few} and {many} films, {_ROUNDS.value} rounds')
  print(f'first result of a start, s: {middle([a.first for a, _ in pairs])}')
  for count, done in runs.items():
    memory = [run.memory for run in done]
    print(f'peak memory with {count} films, MiB: {middle(memory, 0)}')
  print('| | s a film | processor s a film | share of the network |')
  print('|---|---|---|---|')
  shares = [100 * a / b for a, b in zip(alone, cpu, strict=True)]
  print(
    f'| pnx_jax | {middle(seconds)} | {middle(cpu)} | {middle(shares, 0)} % |'
  )
  if theirs:
    wall, their_cpu, their_net = zip(*theirs, strict=True)
    shares = [100 * a / b for a, b in zip(their_net, their_cpu, strict=True)]
    print(
      f'| PyTorch loop | {middle(wall)} | {middle(their_cpu)} | '
      f'{middle(shares, 0)} % |'
    )
    ratios = [a / b for a, b in zip(wall, seconds, strict=True)]
    print(f'images/s relative to the PyTorch loop: {middle(ratios)}')


if __name__ == '__main__':
  app.run(main)
