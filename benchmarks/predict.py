"""Times --mode=predict from files to tables, beside a plain PyTorch loop.

    python -m benchmarks.predict --workdir=runs/resnet34 --torch_python=...

The run is one of configs/resunet.py:resnet34; what its weights are does not
matter. Both sides read n and 4n films alternately, on the same cores, with the
mirror image; what a film costs is the difference, so that starting up is
counted apart. Needs a quiet machine: OpenMP's threads, PyTorch's, lose several
times what other jobs take.
"""

import os
import pathlib
import re
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
from pnx_jax import pool
from pnx_jax.inference import journal
from pnx_jax.prediction.ensemble import Ensemble

_WORKDIR = flags.DEFINE_string('workdir', None, 'Evaluated run.', required=True)
_INPUT = flags.DEFINE_string('input', 'data/phantom', 'Films, at least 4n.')
_NUM_IMAGES = flags.DEFINE_integer('num_images', 8, 'The smaller number n.')
_ROUNDS = flags.DEFINE_integer('rounds', 3, 'Runs of each.')
_TORCH_PYTHON = flags.DEFINE_string(
  'torch_python', '', 'Interpreter with torch; without one, no comparison.'
)

_ROOT = pathlib.Path(__file__).parent.parent
_SECONDS_BETWEEN_LOOKS = 0.5


class Run(NamedTuple):
  """One command: seconds to its first result and its end, and its costs.

  Attributes:
    first: seconds.
    seconds: in all.
    cpu: seconds of all processors and processes.
    memory: MiB of all processes together at their highest.
  """

  first: float
  seconds: float
  cpu: float
  memory: float


def ours(films: pathlib.Path, folder: pathlib.Path) -> Run:
  command = [sys.executable, 'launch.py', '--mode=predict']
  command += [f'--workdir={pathlib.Path(_WORKDIR.value).absolute()}']
  command += [f'--input={films}', f'--output_dir={folder / "ours"}']
  return measured(command, folder / 'ours' / journal.NAME)


def theirs(films: pathlib.Path, folder: pathlib.Path, *, size: int) -> Run:
  command = [_TORCH_PYTHON.value, 'benchmarks/predict_torch.py']
  command += [f'--input={films}', f'--output={folder / "theirs.csv"}']
  command += [f'--size={size}', f'--num_threads={pool.num_cores()}']
  return measured(command, folder / 'theirs.csv')


def measured(command: Sequence[str], results: pathlib.Path) -> Run:
  """Runs a command that writes its results to a file."""
  began, first, memory, looked = time.perf_counter(), 0.0, 0.0, 0.0
  process = subprocess.Popen(
    command, cwd=_ROOT, stdout=subprocess.DEVNULL, start_new_session=True
  )
  while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
    now = time.perf_counter() - began
    if not first and results.exists() and results.stat().st_size:
      first = now
    if now > looked + _SECONDS_BETWEEN_LOOKS:
      memory, looked = max(memory, resident(process.pid)), now
    time.sleep(0.01)
  seconds = time.perf_counter() - began
  _, status, usage = ended
  if status or not first:
    raise RuntimeError(f'{command} failed')
  return Run(first, seconds, usage.ru_utime + usage.ru_stime, memory)


def resident(session: int) -> float:
  """MiB that all processes of a session hold; what they share counts once."""
  total = 0
  for folder in pathlib.Path('/proc').glob('[0-9]*'):
    try:
      if os.getsid(int(folder.name)) == session:
        text = (folder / 'smaps_rollup').read_text()
        total += int(re.search(r'^Pss: +(\d+)', text, re.MULTILINE)[1])
    except OSError:  # It has ended.
      continue
  return total / 2**10


def network(ensemble: Ensemble, times: int = 6) -> float:
  """Processor seconds of the network alone, a film."""
  shape = (1, ensemble.image_size, ensemble.image_size, 1)
  image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  each = []
  for _ in range(times):
    before = time.process_time()
    ensemble(image)['probs'].block_until_ready()
    each.append(time.process_time() - before)
  return statistics.median(each[1:])


def linked(films: Sequence[pathlib.Path], folder: pathlib.Path) -> pathlib.Path:
  """A folder with these films alone."""
  folder.mkdir()
  for number, film in enumerate(films):
    (folder / f'{number}.dcm').symlink_to(film)
  return folder


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
  ensemble = pnx_jax.load(_WORKDIR.value).ensemble
  size = ensemble.image_size
  few, many = _NUM_IMAGES.value, 4 * _NUM_IMAGES.value
  films = sorted(pathlib.Path(_INPUT.value).absolute().rglob('*.dcm'))[:many]
  if len(films) < many:
    sys.exit(f'{_INPUT.value} has {len(films)} films, fewer than {many}')
  sides = {'pnx_jax': ours}
  if _TORCH_PYTHON.value:
    sides['PyTorch loop'] = lambda *paths: theirs(*paths, size=size)
  runs = {(name, count): [] for name in sides for count in (few, many)}
  alone = []
  load = os.getloadavg()[0]
  with tempfile.TemporaryDirectory() as temporary:
    temporary = pathlib.Path(temporary)
    inputs = {n: linked(films[:n], temporary / str(n)) for n in (1, few, many)}
    ours(inputs[1], temporary)  # Fills the compilation cache.
    for number in range(_ROUNDS.value):
      for (name, count), done in runs.items():
        folder = temporary / f'round_{number}_{count}'
        folder.mkdir(exist_ok=True)
        done.append(sides[name](inputs[count], folder))
      alone.append(network(ensemble))

  def each(name, cost):
    pairs = zip(runs[name, few], runs[name, many], strict=True)
    return [
      (getattr(b, cost) - getattr(a, cost)) / (many - few) for a, b in pairs
    ]

  print(
    f'{size} x {size}, {few} and {many} films, {_ROUNDS.value} rounds, '
    f'{pool.num_cores()} cores, load before {load:.1f}'
  )
  first = [run.first for run in runs['pnx_jax', few]]
  print(f'first result of a start, s: {middle(first)}')
  shares = [
    100 * a / b for a, b in zip(alone, each('pnx_jax', 'cpu'), strict=True)
  ]
  print(f'share of the network in processor time: {middle(shares, 0)} %')
  print(f'| | images/s | processor s a film | MiB, {few} | MiB, {many} |')
  print('|---|---|---|---|---|')
  speed = {}
  for name in sides:
    speed[name] = [1 / seconds for seconds in each(name, 'seconds')]
    memory = ' | '.join(
      middle([run.memory for run in runs[name, count]], 0)
      for count in (few, many)
    )
    cpu = middle(each(name, 'cpu'))
    print(f'| {name} | {middle(speed[name])} | {cpu} | {memory} |')
  if len(speed) > 1:
    ratios = [a / b for a, b in zip(*speed.values(), strict=True)]
    print(f'images/s relative to the PyTorch loop: {middle(ratios)}')


if __name__ == '__main__':
  app.run(main)
