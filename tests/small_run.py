"""A run small enough for tests: 6 steps of a U-Net of width 4."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
from tensorboard.backend.event_processing import event_accumulator

from configs import default
from pnx_jax.training import run_files, run_seal

ROOT = pathlib.Path(__file__).parent.parent
# What float32 sums in another order change in six steps.
TOLERANCE = 2e-3
# Of a process with one device; compiling shall not take it long.
ONE_DEVICE = {'XLA_FLAGS': '--xla_backend_optimization_level=0'}
FIELDS = {
  'image_size': 32,
  'batch_size': 8,
  'eval.batch_size': 8,
  'total_steps': 6,
  'log_steps': 4,
  'checkpoint_steps': 1,
  'model.width': 4,
  'model.depth': 2,
  'read_threads': 2,
}


def config(data_dir, **changes):
  made = default.get_config()
  made.update_from_flattened_dict({'data_dir': data_dir, **FIELDS, **changes})
  return made


def flags(data_dir, **changes):
  """The same run as flags of launch.py."""
  fields = {'data_dir': data_dir, **FIELDS, **changes}
  return [
    '--config=configs/unet.py',
    *(f'--config.{name}={value}' for name, value in fields.items()),
  ]


def seal(workdir):
  """Makes the checkpoints record the run's files as they are now.

  A fold without a list of its images is one of an old run: it has no record.
  """
  config = run_files.load(workdir)
  for fold in run_files.trained_folds(workdir):
    images = run_files.seen(workdir, fold)
    folder = run_files.checkpoint_dir(workdir, fold)
    for path in folder.glob('*/checksums/metadata'):
      sums = json.loads(path.read_text())
      for name in ('seal', 'digest'):  # As in older checkpoints.
        sums.pop(name, None)
      if images:
        sums['seal'] = run_seal.record(config, images)
      path.write_text(json.dumps(sums))


def events(path, fold=0):
  """(step, value) of every scalar but timings, by name."""
  folder = run_files.fold_dir(path, fold) / 'events'
  accumulator = event_accumulator.EventAccumulator(
    str(folder), size_guidance={'scalars': 0}
  )
  accumulator.Reload()
  return {
    tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
    for tag in accumulator.Tags()['scalars']
    if not tag.startswith('speed/')
  }


def assert_same_course(run, other):
  found, expected = events(run), events(other)
  assert found.keys() == expected.keys()
  for name in ('train/loss', 'train/dice', 'validation/loss'):
    steps_found, values = zip(*found[name], strict=True)
    steps_expected, values_expected = zip(*expected[name], strict=True)
    assert steps_found == steps_expected
    np.testing.assert_allclose(values, values_expected, rtol=TOLERANCE)


def two_processes(
  *words, before='', stderr=None, environments=({}, {})
) -> list[subprocess.Popen]:
  """launch.py in two processes that train together, with these flags.

  They run the lines `before` first; each has its further variables.
  """
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    port = probe.getsockname()[1]
  code = f"""
{before}
import runpy
runpy.run_path('launch.py', run_name='__main__')
"""
  return [
    subprocess.Popen(
      [
        *(sys.executable, '-c', code, *words),
        f'--coordinator_address=127.0.0.1:{port}',
        '--num_processes=2',
        f'--process_id={process}',
      ],
      cwd=ROOT,
      env=os.environ | ONE_DEVICE | variables,
      stdout=subprocess.PIPE,
      stderr=stderr,
      text=True,
    )
    for process, variables in enumerate(environments)
  ]


def printed(processes, *, status=0):
  """What they print, once all have ended with that exit code."""
  texts = [process.communicate(timeout=300)[0] for process in processes]
  codes = [process.returncode for process in processes]
  assert codes == [status] * len(processes), texts
  return texts
