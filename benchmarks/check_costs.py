"""What the checks of films and records cost.

  git worktree add /tmp/before 4713113
  python -m benchmarks.check_costs --dicom_dir=FILMS --before=/tmp/before

reads the same films for a build and for a prediction, in alternating processes
of an earlier commit, which checked less, and of this one, and compares the
processor time (user and system) of the work on the films, without starting
Python. Then it counts each check for itself. Pairs give a ratio each; its
interval is Student's, on the logarithm.
"""

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import google_crc32c
import numpy as np
from absl import app, flags
from scipy import stats

from pnx_jax import pool
from pnx_jax.cli import parse_flags
from pnx_jax.formats import dicom

_DICOM_DIR = flags.DEFINE_string('dicom_dir', None, 'Films.', required=True)
_BEFORE = flags.DEFINE_string('before', None, 'Checkout of an earlier commit.')
_PAIRS = flags.DEFINE_integer('pairs', 12, 'Alternating pairs.')
_FILMS = flags.DEFINE_integer('films', 60, 'Number of films.')
# The least of so many counts: other jobs evict what caches hold.
_PASSES = 5
_MB = 1 << 20

# Both measure in the same way; what they call has had two names.
_COMMON = """
import glob, json, resource, sys, tempfile
import cv2
cv2.setNumThreads(1)
paths = sorted(glob.glob(sys.argv[1] + '/**/*.dcm', recursive=True))
paths = paths[: int(sys.argv[2])]

def spent():
  used = resource.getrusage(resource.RUSAGE_SELF)
  return used.ru_utime + used.ru_stime

def seconds(work):
  work(paths[:4])
  times = []
  for _ in range(int(sys.argv[3])):
    before = spent()
    work(paths)
    times.append(spent() - before)
  return min(times)

def report():
  print(json.dumps([seconds(build), seconds(predict)]))
"""
_HERE = (
  _COMMON
  + """
from data_prep import entries, prepare
from pnx_jax.prediction import decoding
options = prepare.RecordOptions(512, 'auto', ('CR', 'DX'), ('CHEST',))
read_options = decoding.ReadOptions(512, 'auto', picture_size=640)

def build(paths):
  films = [entries.Entry(p, p[-60:], 'train', ()) for p in paths]
  with tempfile.TemporaryDirectory() as folder:
    prepare.run_batch(
      list(enumerate(films)), options=options, folder=folder, salt=b'salt')

def predict(paths):
  jobs = [(path, '') for path in paths]
  decoding._read_batch(list(enumerate(jobs)), options=read_options)

report()
"""
)
_THERE = (
  _COMMON
  + """
from data_prep import prepare, sources
from pnx_jax.inference import films, studies
options = prepare.Options(512, 'auto', ('CR', 'DX'), ('CHEST',))
looks = films.Looks(512, 'auto', ('CR', 'DX'))

def build(paths):
  found = [sources.Source(p, p[-60:], 'train', ()) for p in paths]
  with tempfile.TemporaryDirectory() as folder:
    prepare.run_batch(
      list(enumerate(found)), options=options, folder=folder, salt=b'salt')

def predict(paths):
  found = [studies.Source(path, path, path, '') for path in paths]
  films._read_batch(list(enumerate(found)), looks=looks, seconds_per_file=60)

report()
"""
)


def measured(code: str, checkout: str | os.PathLike[str]) -> np.ndarray:
  """Returns seconds of processor time per film: of build and prediction."""
  done = subprocess.run(
    [
      *(sys.executable, '-c', code, _DICOM_DIR.value),
      *(str(_FILMS.value), str(_PASSES)),
    ],
    cwd=checkout,
    env=os.environ | {'PYTHONPATH': os.fspath(checkout)},
    capture_output=True,
    text=True,
    check=True,
  )
  return np.array(json.loads(done.stdout)) / _FILMS.value


def compare(before: str, pairs: int) -> None:
  """Prints the ratios of this code's times to those before."""
  here = pathlib.Path(__file__).parents[1]
  times = []
  for pair in range(pairs):
    sides = [(_THERE, before), (_HERE, here)]
    if pair % 2:
      sides.reverse()
    found = [measured(*side) for side in sides]
    times.append(found if pair % 2 == 0 else found[::-1])
  seconds = np.array(times)  # f64[pair, before and after, build and predict]
  for column, name in enumerate(('build', 'predict')):
    old, new = 1000 * np.median(seconds[:, :, column], axis=0)
    ratios = np.log(seconds[:, 1, column] / seconds[:, 0, column])
    low, high = stats.t.interval(
      0.95, pairs - 1, ratios.mean(), stats.sem(ratios)
    )
    middle, low, high = 100 * np.expm1([ratios.mean(), low, high])
    print(
      f'{name}: {old:.2f} ms per film before, {new:.2f} after: '
      f'{middle:+.1f} % [{low:+.1f}, {high:+.1f}], {pairs} pairs'
    )


def count() -> None:
  """Prints what each check costs for itself."""
  data = np.random.default_rng(0).bytes(4 * _MB)
  per_mb = {
    'SHA-256 of the bytes of a film': lambda: hashlib.sha256(data).digest(),
    'CRC-32C of a record': lambda: google_crc32c.value(data),
  }
  for name, function in per_mb.items():
    print(f'{name}: {_milliseconds(function) / 4:.3f} ms per MB')
  path = next(iter(dicom.find(_DICOM_DIR.value)))
  with tempfile.TemporaryDirectory() as folder:
    copy = pathlib.Path(folder, 'film.dcm')
    copy.write_bytes(pathlib.Path(path).read_bytes())
    print(
      f'stat of a film: {1000 * _milliseconds(lambda: os.stat(copy)):.1f} us'
    )
    content = _milliseconds(lambda: dicom.content(copy))
    print(f'its bytes in one read: {content:.3f} ms')
    header = _milliseconds(lambda: dicom.read_header(copy))
    print(f'its header alone: {header:.3f} ms')
    whole = _milliseconds(lambda: dicom.read(copy))
    print(f'header and pixels: {whole:.3f} ms, {copy.stat().st_size:,} bytes')
  entries = list(enumerate(range(1000)))
  print(f'pool.each: {_milliseconds(lambda: list(pool.each(entries))):.3f} us')


def _milliseconds(function: Callable[[], object], repeats: int = 30) -> float:
  """Returns the median processor time of a call."""
  function()
  times = []
  for _ in range(repeats):
    began = time.process_time()
    function()
    times.append(time.process_time() - began)
  return 1000 * float(np.median(times))


def main(argv: Sequence[str]) -> None:
  del argv
  if _BEFORE.value:
    compare(_BEFORE.value, _PAIRS.value)
  count()


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)
