"""What damaged files do to the commands that read them.

  python -m benchmarks.fuzz --seed=0 --num_dicom=4000

changes bytes of headers and of each kind of compressed stream, and gives the
files in folders of 200, beside clean films, to the build, the pictures, the
metadata and a whole prediction; changes csv files, records, the JSON files and
tables of datasets and runs, and checkpoints, and reads them. Of each kind it
counts files that were

  right    read, with the values that another decoder or reader finds,
  wrong    read with other values: there must be none,
  refused  refused with a reason,
  crashed  answered by an exception that is not meant for users: none,
  hung     not answered within --seconds_per_film: none,
  earlier  of checkpoints: passed over with a line for the one before.

A film whose decoder ends or exceeds its worker counts as refused: the command
continues. What only the compressed stream can show, such as a lossy picture, is
compared within 2 gray levels.

The kinds can run one by one, and the DICOM files in parts:

  python -m benchmarks.fuzz --kinds=dicom --first=2000 --num_dicom=2000
"""

import collections
import contextlib
import csv
import dataclasses
import functools
import io
import json
import logging
import multiprocessing
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np
from absl import app, flags
from absl import logging as absl_logging

from benchmarks import damaged_films
from pnx_jax import pool
from pnx_jax.cli import parse_flags
from pnx_jax.errors import UserError
from pnx_jax.formats import (
  built_dataset,
  rle,
  tfrecord,
)

_SEED = flags.DEFINE_integer('seed', 0, 'Of the changes.')
_KINDS = flags.DEFINE_list(
  'kinds',
  ['dicom', 'csv', 'records', 'dataset', 'run', 'checkpoints'],
  'What is damaged.',
)
_FIRST = flags.DEFINE_integer('first', 0, 'Number of the first DICOM file.')
_NUM_DICOM = flags.DEFINE_integer('num_dicom', 4000, 'Damaged DICOM files.')
_NUM_CSV = flags.DEFINE_integer('num_csv', 500, 'Damaged csv files.')
_NUM_OTHERS = flags.DEFINE_integer('num_others', 200, 'Of each other kind.')
_FOLDER = 200
_SIDE = 128
_LIMITS = pool.Limits(seconds=10, gib=2)
# The other decoder takes seconds for some damaged streams.
_COMPARISON_LIMITS = pool.Limits(seconds=60, gib=2)

Counts = collections.Counter[str]


def fuzz_dicom(seed: int, number: int, folder: pathlib.Path) -> Counts:
  """Gives damaged films to every command that reads films."""
  from data_prep import dataset, entries, metadata, view
  from data_prep.request import Request

  counts: Counts = collections.Counter()
  sources = damaged_films.originals()
  run = evaluated_run(folder)
  # Each command starts its own workers: they fork a process that has imported
  # what they need.
  pool._CONTEXT = multiprocessing.get_context('forkserver')
  pool._CONTEXT.set_forkserver_preload(
    ['data_prep.prepare', 'data_prep.view', 'pnx_jax.prediction.decoding']
  )
  clean_readings: dict[str, tuple] = {}
  last = _FIRST.value + number
  for first in range(_FIRST.value, last, _FOLDER):
    films = folder / f'{first}'
    films.mkdir()
    paths = []
    for n in range(first, min(first + _FOLDER, last)):
      rng = np.random.default_rng((seed, n))
      paths.append(films / f'{n}.dcm')
      paths[-1].write_bytes(
        damaged_films.damaged(sources[n % len(sources)], rng)
      )
    for clean in range(4):  # a build needs some
      path = films / f'clean{clean}.dcm'
      path.write_bytes(damaged_films.clean(100 + clean))
    for done in pool.run(
      damaged_films.compared_batch,
      pool.batches(enumerate(map(str, paths)), 20),
      num_workers=1,
      on_death=lambda n, path, death: (
        n,
        'hung' if death.timed_out else 'refused',
      ),
      limits=_COMPARISON_LIMITS,
    ):
      counts.update(outcome for _, outcome in done)
    table = films / 'rle.csv'
    names = [path.stem for path in sorted(films.glob('*.dcm'))]
    rle.write_csv(table, [(name, '3 4') for name in names])
    counts['build crashed'] += _fails(
      lambda films=films, table=table: dataset.build(
        Request(
          dicom_dir=str(films),
          rle_csv=str(table),
          output_dir=str(films / 'records'),
          image_size=64,
          num_folds=2,
          seconds_per_film=_LIMITS.seconds,
          gib_per_film=_LIMITS.gib,
        )
      )
    )
    found = entries.find(films, entries.TRAIN, {})
    shown = [(e.image_id, functools.partial(view.from_film, e)) for e in found]
    counts['view crashed'] += _fails(
      lambda shown=shown, films=films: view.write(
        shown, films / 'pictures', size=64, columns=8, limits=_LIMITS
      )
    )
    counts['metadata crashed'] += _fails(
      lambda films=films: metadata.read_folder(str(films), 'a.csv', 1, _LIMITS)
    )
    out = folder / f'{first}_predicted'
    counts['predict crashed'] += _fails(
      lambda films=films, out=out: _predicted(run, films, out, clean_readings)
    )
    shutil.rmtree(films)
    shutil.rmtree(out, ignore_errors=True)
    # So that what ends the benchmark loses no more than one folder.
    print(f'up to {first + len(paths)}:', json.dumps(counts), flush=True)
  return counts


def fuzz_csv(seed: int, number: int, folder: pathlib.Path) -> Counts:
  """Damages tables of annotations; right is what Python's csv module reads."""
  rows = [f'1.2.{n},{"3 4 5 6" if n % 2 else "-1"}' for n in range(40)]
  original = '\n'.join(['ImageId,EncodedPixels', *rows, '']).encode()
  path = folder / 'rle.csv'

  def check() -> bool:
    found = rle.read_csv(path)
    text = path.read_bytes().decode('utf-8-sig')
    lines = csv.reader(io.StringIO(text, newline=''), skipinitialspace=True)
    expected: dict[str, list[str]] = {}
    for row in lines:
      cells = [cell.strip() for cell in row]
      if any(cells) and (expected or cells[1].lower() != 'encodedpixels'):
        annotations = expected.setdefault(cells[0], [])
        annotations += [] if rle.is_empty(cells[1]) else [cells[1]]
    return expected == found

  return _tried(original, path, number, seed, check)


def fuzz_records(seed: int, number: int, folder: pathlib.Path) -> Counts:
  """Damages files of records."""
  path = folder / 'a.tfrecord'
  payloads = [np.random.default_rng(n).bytes(500) for n in range(8)]
  with path.open('wb') as file:
    for payload in payloads:
      tfrecord.write(file, payload)

  def check() -> bool:
    return list(tfrecord.TFRecordSource([path])) == payloads

  return _tried(path.read_bytes(), path, number, seed, check)


def evaluated_run(folder: pathlib.Path) -> pathlib.Path:
  """Trains and evaluates a tiny network; returns the workdir."""
  from configs import default
  from pnx_jax.evaluation import evaluate
  from pnx_jax.training import train

  data, workdir = built(folder / 'of_run', 16), folder / 'run'
  config = default.get_config()
  config.update_from_flattened_dict(
    {
      **{'data_dir': str(data), 'image_size': 64, 'batch_size': 4},
      **{'total_steps': 6, 'log_steps': 3, 'checkpoint_steps': 1},
      **{'model.width': 4, 'model.depth': 2, 'read_threads': 2},
      **{'eval.batch_size': 4, 'eval.bootstrap': 20, 'eval.num_overlays': 0},
      'eval_epochs': 1,
    }
  )
  with contextlib.redirect_stdout(io.StringIO()):
    train.train(config, workdir)
    evaluate.evaluate(config, workdir)
  return workdir


def built(folder: pathlib.Path, number: int) -> pathlib.Path:
  """Builds a dataset of clean films, every second one with a mask."""
  from data_prep import dataset
  from data_prep.request import Request

  films = folder / 'films'
  films.mkdir(parents=True)
  for n in range(number):
    content = damaged_films.clean(n, PatientID=f'{n}')
    (films / f'{n}.dcm').write_bytes(content)
  rle.write_csv(
    folder / 'rle.csv',
    [(f'{n}', '9000 40 88 40' if n % 2 else '-1') for n in range(number)],
  )
  dataset.build(
    Request(
      dicom_dir=str(films),
      rle_csv=str(folder / 'rle.csv'),
      output_dir=str(folder / 'records'),
      image_size=64,
      num_folds=2,
    )
  )
  return folder / 'records'


def fuzz_run(seed: int, number: int, folder: pathlib.Path) -> Counts:
  """Damages what a run, its evaluation and a prediction have written."""
  from pnx_jax import config
  from pnx_jax.formats import evaluation_files
  from pnx_jax.inference import journal
  from pnx_jax.prediction import deployment
  from pnx_jax.prediction.postprocess import Postprocess
  from pnx_jax.training import run_files, run_seal

  workdir = evaluated_run(folder)
  films = folder / 'films'
  films.mkdir()
  for n in range(4):
    (films / f'clean{n}.dcm').write_bytes(damaged_films.clean(n))
  output = folder / 'predicted'
  _predicted(workdir, films, output, {})
  with journal.Journal(output) as opened:
    expected_readings = {*map(repr, opened.readings())}

  def state() -> tuple:
    evaluation = workdir / 'eval'
    run_seal.check(workdir, 0)
    table = evaluation_files.read_per_image(evaluation / 'per_image.csv')
    with journal.Journal(output) as opened:
      # What a cut took is predicted again; what is left must be right.
      if not {*map(repr, opened.readings())} <= expected_readings:
        raise AssertionError('a changed reading')
      return (
        config.fixed_fields(run_files.load(workdir)),
        run_files.seen(workdir, 0),
        deployment.Deployment.load(workdir),
        Postprocess.load(evaluation / 'postprocess.json'),
        {
          name: column.tolist()
          for name, column in dataclasses.asdict(table).items()
        },
        evaluation_files.read_metrics(evaluation / 'metrics.json'),
      )

  return _each_tried(
    [
      *(workdir / name for name in ('config.json', 'fold0/trained_on.json')),
      *(
        workdir / 'eval' / name
        for name in (
          *('deployment.json', 'postprocess.json', 'metrics.json'),
          *('per_image.csv', evaluation_files.CHECKSUMS),
        )
      ),
      output / journal.NAME,
    ],
    number,
    seed,
    state,
  )


def fuzz_checkpoints(seed: int, number: int, folder: pathlib.Path) -> Counts:
  """Damages one file of the checkpoints of a fold, ours and Orbax' alike."""
  import jax

  from pnx_jax.training import (
    experiment,
    run_files,
    run_seal,
    sharding,
    train_state,
  )
  from pnx_jax.training.checkpoint import Checkpoints

  workdir = evaluated_run(folder)
  config = run_files.load(workdir)
  mesh = sharding.mesh()
  run = experiment.Experiment.build(config, platform=sharding.platform(mesh))
  abstract = train_state.abstract(
    run.create_state,
    jax.random.key(0, impl='rbg'),
    sharding.replicated(mesh),
  )
  lines: list[str] = []
  handler = logging.Handler(logging.ERROR)
  handler.emit = lambda record: lines.append(record.getMessage())
  logging.getLogger('pnx_jax').addHandler(handler)

  def read(workdir: pathlib.Path) -> tuple[tuple, tuple]:
    """The best weights and the newest state, each with its step."""
    run_seal.check(workdir, 0)
    directory = run_files.checkpoint_dir(workdir, 0)
    with Checkpoints(directory) as checkpoints:
      (best,), variables = checkpoints.restore_best(abstract.variables)
      newest = checkpoints.restore_latest(abstract)
    state = jax.tree.map(np.asarray, jax.device_get(newest))
    return (best, _bytes_of(variables)), (int(state.step), _bytes_of(state))

  # What each step holds, read while the newer ones are not there.
  directory = run_files.checkpoint_dir(workdir, 0)
  steps = sorted(int(path.name) for path in directory.glob('[0-9]*'))
  known: set[tuple] = set()
  for step in steps:
    alone = folder / f'{step}'
    shutil.copytree(workdir, alone)
    for other in set(steps) - {step}:
      shutil.rmtree(run_files.checkpoint_dir(alone, 0) / f'{other}')
    known.update(read(alone))
  expected = read(shutil.copytree(workdir, folder / 'all'))
  files = sorted(
    path.relative_to(workdir) for path in directory.rglob('*') if path.is_file()
  )
  counts: Counts = collections.Counter()
  for n in range(number):
    rng = np.random.default_rng((seed, n))
    trial = shutil.copytree(workdir, folder / 'trial')
    path = trial / files[rng.integers(len(files))]
    if rng.integers(5):
      path.write_bytes(_changed(path.read_bytes(), rng))
    else:
      path.unlink()
    lines.clear()
    try:
      found = read(trial)
      if found == expected:
        counts['right'] += 1
      elif lines and set(found) <= known:
        counts['earlier'] += 1
      else:
        counts['wrong'] += 1
        print(f'wrong: {n}, {path}, {found[0][0]}, {found[1][0]}')
    except UserError:
      counts['refused'] += 1
    except Exception as error:
      counts[f'crashed: {path.name}: {error!r}'[:200]] += 1
    shutil.rmtree(trial)
  return counts


def _bytes_of(tree: object) -> bytes:
  import jax

  return b''.join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree))


def fuzz_dataset(seed: int, number: int, folder: pathlib.Path) -> Counts:
  """Damages build.json, dataset_info.json and folds.csv of a dataset."""
  data = built(folder, 8)

  def state() -> tuple:
    return (
      built_dataset.origin(data),
      built_dataset.split_sizes(data),
      built_dataset.folds_of(data),
      len(built_dataset.split_source(data, ['fold0'])),
    )

  names = ('build.json', 'dataset_info.json', 'folds.csv')
  return _each_tried([data / name for name in names], number, seed, state)


def _each_tried(
  paths: Sequence[pathlib.Path],
  number: int,
  seed: int,
  state: Callable[[], tuple],
) -> Counts:
  """Damages one file after another; `state` must stay as it is."""
  counts: Counts = collections.Counter()
  expected = state()
  for place, path in enumerate(paths):
    original = path.read_bytes()
    counts += _tried(
      original,
      path,
      -(-number // len(paths)),
      seed + place,
      lambda: state() == expected,
    )
    path.write_bytes(original)
  return counts


def _changed(original: bytes, rng: np.random.Generator) -> bytes:
  """Returns bytes that were cut off or changed."""
  data = bytearray(original)
  kind = rng.integers(3)
  if kind == 0 and data:
    del data[rng.integers(len(data)) :]
  for _ in range(rng.integers(1, 4) if kind and data else 0):
    # Any byte, or one that leaves text as text.
    value = rng.integers(256) if kind == 1 else rng.integers(48, 58)
    data[rng.integers(len(data))] = value
  return bytes(data)


def _tried(
  original: bytes,
  path: pathlib.Path,
  number: int,
  seed: int,
  check: Callable[[], bool],
) -> Counts:
  counts: Counts = collections.Counter()
  for n in range(number):
    rng = np.random.default_rng((seed, n))
    path.write_bytes(_changed(original, rng))
    try:
      right = check()
      counts['right' if right else 'wrong'] += 1
      if not right:
        print(f'wrong: {path}, {n}')
    except UserError:
      counts['refused'] += 1
    except AssertionError as error:
      counts['wrong'] += 1
      print(f'wrong: {path}, {n}: {error}')
    except Exception as error:
      counts[f'crashed: {error!r}'[:100]] += 1
  return counts


def _predicted(
  run: pathlib.Path,
  films: pathlib.Path,
  output: pathlib.Path,
  clean_readings: dict[str, tuple],
) -> None:
  """Predicts a folder; the clean films in it must come out as ever."""
  from pnx_jax.inference import predict

  with contextlib.redirect_stdout(io.StringIO()):
    readings = predict.predict([str(films)], output, model=run, limits=_LIMITS)
  if len(readings) != len(list(films.glob('*.dcm'))):
    raise AssertionError(f'{len(readings)} readings')
  for reading in readings:
    if reading.image_id.startswith('clean'):
      found = reading.reason, reading.probability, reading.rle
      if clean_readings.setdefault(reading.image_id, found) != found:
        raise AssertionError(f'{reading.image_id} changed beside other films')


def _fails(call: Callable[[], object]) -> int:
  try:
    call()
  except UserError as error:
    print(f'refused as a whole: {error}')
  except Exception as error:
    print(f'crashed: {error!r}')
    return 1
  return 0


def main(argv: Sequence[str]) -> None:
  del argv
  kinds = {
    'dicom': (fuzz_dicom, _NUM_DICOM.value),
    'csv': (fuzz_csv, _NUM_CSV.value),
    'records': (fuzz_records, _NUM_OTHERS.value),
    'dataset': (fuzz_dataset, _NUM_OTHERS.value),
    'run': (fuzz_run, _NUM_OTHERS.value),
    'checkpoints': (fuzz_checkpoints, _NUM_OTHERS.value),
  }
  absl_logging.set_verbosity(absl_logging.WARNING)  # Orbax tells each step.
  logging.getLogger('pnx_jax').propagate = False  # Each refusal has a line.
  for kind in _KINDS.value:
    run, number = kinds[kind]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
      counts = run(_SEED.value, number, pathlib.Path(folder))
    seconds = time.monotonic() - began
    print(
      kind, number, json.dumps(dict(sorted(counts.items()))), f'{seconds:.0f} s'
    )


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)
