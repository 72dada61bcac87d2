"""How long a start takes, and how much memory, with and without an index.

  python -m benchmarks.start --num_records=12000,120000 --only_index=1000000

Records hold images of 64 x 64 and, for a fifth of them, run lengths as long as
the challenge's. Without an index every record is read, as before there was one;
files are in the system's cache. With --only_index 4,000 records are repeated in
the index, and the record files are as long as they would be, but sparse.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import cv2
import numpy as np
from absl import app, flags

from pnx_jax.formats import (
  built_dataset,
  files,
  record_index,
  rle,
  schema,
  seal,
  tfrecord,
)

_NUM_RECORDS = flags.DEFINE_list('num_records', ['12000'], 'Of each dataset.')
_ONLY_INDEX = flags.DEFINE_list('only_index', [], 'Of others, without records.')
_ROUNDS = flags.DEFINE_integer('rounds', 3, 'Starts of each kind.')
_PER_SHARD = 4096
_POSITIVE = 0.22
# As long as half a million records of 150 kB.
_SPARSE = 75 << 30

_START = """
import sys, time
from benchmarks.memory import peak_megabytes
from pnx_jax.formats import record_index
from pnx_jax.input import pipeline
from pnx_jax.input.sampling import Schedule
before = peak_megabytes()
began = time.perf_counter()
dataset = pipeline.Dataset(sys.argv[1], ['fold0', 'fold1'])
dataset.labels, dataset.sources
seconds = time.perf_counter() - began
after = peak_megabytes()
schedule = Schedule(dataset.labels, positive_share=((0, 0.5),), seed=0)
batches = pipeline.training_batches(
  dataset,
  schedule,
  image_size=64,
  loader=pipeline.Loader(batch_size=16),
  first_step=5000,
  last_step=5001,
)
next(batches)
to_batch = time.perf_counter() - began
megabytes = (after - before, after, peak_megabytes())
print(len(dataset), seconds, to_batch, *megabytes)
"""


def make_dataset(folder: pathlib.Path, num_records: int) -> None:
  """Writes a dataset of two folds with an index."""
  random_state = np.random.default_rng(0)
  sizes = [num_records // 2, num_records - num_records // 2]
  lengths: list[list[int]] = []
  for fold, size in enumerate(sizes):
    lengths.append([])
    for first in range(0, size, _PER_SHARD):
      lengths[-1].append(min(_PER_SHARD, size - first))
      number = len(lengths[-1]) - 1
      name = f'siim-fold{fold}.tfrecord-{number:05}-of-00000'
      with (folder / name).open('wb') as file:
        for place in range(lengths[-1][-1]):
          record = _record(random_state, f'{fold}.{first + place}')
          tfrecord.write(file, tfrecord.serialize(record))
  _write_reports(folder, lengths, built_dataset.checksum(folder))
  record_index.write(record_index.scan(folder))


def make_index(folder: pathlib.Path, num_records: int) -> None:
  """Writes the index of a dataset that repeats few records in sparse files."""
  with tempfile.TemporaryDirectory() as small:
    make_dataset(pathlib.Path(small), 4000)
    index = record_index.scan(small)
    contents = [(index.folder / name).read_bytes() for name in index.shards]
    repeats = num_records // len(index)
    columns: dict[str, np.ndarray] = {}
    texts = {}
    for name, column in index.columns.items():
      tiled = np.tile(column, (repeats, *[1] * (column.ndim - 1)))
      if name.endswith('.ends'):
        step = column[-1] if len(column) else 0
        tiled = tiled + np.repeat(np.arange(repeats) * step, len(column))
      columns[name] = tiled
    for name, part in index.texts.items():
      whole = part(0, int(index.columns[f'{name}.ends'][-1])) * repeats
      texts[name] = _Bytes(whole)
  half = len(index) * repeats // 2
  shards = []
  for fold, content in enumerate(contents):
    shards.append(f'siim-fold{fold}.tfrecord-00000-of-00001')
    with (folder / shards[-1]).open('wb') as file:
      file.write(content)
      file.truncate(_SPARSE)
  _write_reports(folder, [[half], [half]], '0' * 64)
  record_index.write(
    dataclasses.replace(
      index,
      folder=folder,
      shards=tuple(shards),
      splits={'fold0': (0, half), 'fold1': (half, 2 * half)},
      columns=columns,
      texts=texts,
    )
  )


class _Bytes:
  def __init__(self, content: bytes):
    self._content = content

  def __call__(self, start: int, stop: int) -> bytes:
    return self._content[start:stop]


def _record(random_state: np.random.Generator, name: str) -> schema.Record:
  image = random_state.integers(90, 110, (64, 64), np.uint8)
  mask = np.zeros((1024, 1024), bool)
  positive = random_state.random() < _POSITIVE
  if positive:
    left, top = random_state.integers(0, 700, 2)
    cv2.ellipse(
      mask.view(np.uint8),
      (int(left) + 150, int(top) + 150),
      (90, 140),
      20,
      0,
      360,
      1,
      -1,
    )
  return schema.Record(
    image=cv2.imencode('.png', image)[1].tobytes(),
    mask=cv2.imencode('.png', np.zeros((64, 64), np.uint8))[1].tobytes(),
    rle=rle.encode(mask),
    image_id=f'1.2.276.0.7230010.3.1.4.8323329.{name}',
    patient=int(random_state.integers(0, 1 << 20)),
    label=int(positive),
    height=1024,
    width=1024,
    pixel_aspect=1.0,
    view='PA',
    sex='F',
    age=int(random_state.integers(0, 90)),
    pixel_spacing=(0.4, 0.4),
    spacing_plane='patient',
    mirrored=0,
    num_annotations=int(positive),
    agreement=-1.0,
    boxes=np.array([[1, 2, 3, 4, 12]] * int(positive), np.int32).reshape(-1, 5),
    source='synthetic',
    fingerprint=random_state.bytes(128).hex(),
    patient_digest=random_state.bytes(16).hex(),
  )


def _write_reports(
  folder: pathlib.Path, lengths: Sequence[Sequence[int]], checksum: str
) -> None:
  splits = [
    {'name': f'fold{fold}', 'shardLengths': list(map(str, counts))}
    for fold, counts in enumerate(lengths)
  ]
  info = {'name': schema.NAME, 'version': schema.VERSION, 'splits': splits}
  files.write_json(folder / 'dataset_info.json', info)
  number = sum(map(sum, lengths))
  report = {
    'options': {'window': 'auto'},
    'patient_safe': True,
    'written': number,
    'positive': 0,
    'patients': number,
    'patients_from': 'nothing',
    'checksum': checksum,
  }
  files.write_json(folder / 'build.json', seal.sealed(report))


def _measure(folder: pathlib.Path, name: str) -> None:
  runs = []
  for _ in range(_ROUNDS.value):
    done = subprocess.run(
      [sys.executable, '-c', _START, str(folder)],
      capture_output=True,
      text=True,
      check=True,
    )
    runs.append(list(map(float, done.stdout.split())))
  seconds = [run[1] for run in runs]
  print(
    json.dumps(
      {
        'start': name,
        'records': int(runs[0][0]),
        'seconds': [round(min(seconds), 3), round(max(seconds), 3)],
        'seconds_to_the_first_batch': [
          round(min(run[2] for run in runs), 3),
          round(max(run[2] for run in runs), 3),
        ],
        'megabytes_of_the_dataset': round(min(run[3] for run in runs), 1),
        'megabytes_of_the_process': round(min(run[4] for run in runs), 1),
        'megabytes_after_the_batch': round(min(run[5] for run in runs), 1),
      }
    ),
    flush=True,
  )


def main(argv: Sequence[str]) -> None:
  del argv
  for number in map(int, _NUM_RECORDS.value):
    with tempfile.TemporaryDirectory() as name:
      folder = pathlib.Path(name)
      make_dataset(folder, number)
      _measure(folder, 'with the index')
      (folder / record_index.FILE).unlink()
      _measure(folder, 'without it')
  for number in map(int, _ONLY_INDEX.value):
    with tempfile.TemporaryDirectory() as name:
      make_index(pathlib.Path(name), number)
      _measure(pathlib.Path(name), 'with the index')


if __name__ == '__main__':
  app.run(main)
