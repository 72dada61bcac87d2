"""One device or eight, one process or two: the same run."""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tiny

from pnx_jax.input import pipeline
from pnx_jax.training import experiment, sharding, state, workdir
from pnx_jax.training.checkpoint import Checkpoints

ROOT = pathlib.Path(__file__).parent.parent
# float32 sums in another order; what a step and what six steps may differ by.
STEP_TOLERANCE, RUN_TOLERANCE = 1e-5, 2e-3


def mesh_of(number):
  return sharding.mesh(jax.devices()[:number])


@pytest.fixture(scope='module')
def first_steps(dataset_dir):
  """The loss and the state after one step, by number of devices."""
  config = tiny.config(dataset_dir)
  run = experiment.Experiment.build(config)
  reading = pipeline.Reading(batch_size=8)
  batch = next(
    pipeline.training_batches(
      run.dataset,
      run.schedule,
      image_size=32,
      reading=reading,
      first_step=0,
      last_step=1,
    )
  )
  after = {}
  for number in (1, 8):
    mesh = mesh_of(number)
    whole = sharding.replicated(mesh)
    before = jax.jit(run.create_state, out_shardings=whole)(jax.random.key(0))
    moved = jax.jit(run.train_step, out_shardings=whole)(
      before, sharding.put(batch, mesh)
    )
    after[number] = jax.device_get(moved)
  return after


def test_eight_devices_take_the_same_step_as_one(first_steps):
  (one_state, one_loss), (state_of_8, loss_of_8) = (
    first_steps[1],
    first_steps[8],
  )
  np.testing.assert_allclose(loss_of_8, one_loss, rtol=1e-6)
  for one, eight in zip(
    jax.tree.leaves(one_state.variables['batch_stats']),
    jax.tree.leaves(state_of_8.variables['batch_stats']),
    strict=True,
  ):
    np.testing.assert_allclose(eight, one, atol=STEP_TOLERANCE)


def last_state(dataset_dir, path, devices=8):
  """The arrays of the newest checkpoint, read onto some devices."""
  run = experiment.Experiment.build(tiny.config(dataset_dir))
  whole = sharding.replicated(mesh_of(devices))
  abstract = state.abstract(run.create_state, jax.random.key(0), whole)
  with Checkpoints(workdir.checkpoint_dir(path, 0)) as checkpoints:
    found = checkpoints.restore_latest(abstract)
  assert len(found.step.sharding.device_set) == devices
  return jax.tree.leaves(jax.device_get(found))


def test_a_checkpoint_of_eight_devices_opens_on_one(uninterrupted, dataset_dir):
  path, _ = uninterrupted
  one, eight = (last_state(dataset_dir, path, devices=n) for n in (1, 8))
  for ours, theirs in zip(one, eight, strict=True):
    np.testing.assert_array_equal(ours, theirs)


def two_processes(dataset_dir, path, before='', stderr=None):
  """A training by two processes; they run the lines `before` first."""
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
        *(sys.executable, '-c', code, *tiny.flags(dataset_dir)),
        f'--workdir={path}',
        f'--coordinator_address=127.0.0.1:{port}',
        '--num_processes=2',
        f'--process_id={process}',
      ],
      cwd=ROOT,
      env={**os.environ, 'XLA_FLAGS': ''},
      stdout=subprocess.PIPE,
      stderr=stderr,
      text=True,
    )
    for process in range(2)
  ]


def printed(processes):
  """What they print, once both have ended well."""
  texts = [process.communicate(timeout=300)[0] for process in processes]
  assert [process.returncode for process in processes] == [0, 0], texts
  return texts


@pytest.fixture(scope='module')
def by_two(dataset_dir, tmp_path_factory):
  """The workdir of the whole run by two processes."""
  path = tmp_path_factory.mktemp('by_two')
  printed(two_processes(dataset_dir, path))
  return path


def test_two_processes_train_like_one(by_two, uninterrupted):
  found, expected = tiny.events(by_two), tiny.events(uninterrupted[0])
  assert found.keys() == expected.keys()
  for name in ('train/loss', 'train/dice', 'validation/loss'):
    steps_found, values = zip(*found[name], strict=True)
    steps_expected, values_expected = zip(*expected[name], strict=True)
    assert steps_found == steps_expected
    np.testing.assert_allclose(values, values_expected, rtol=RUN_TOLERANCE)


# JAX looks once a second whether a signal has come.
SLOWLY = """
import time
from pnx_jax.input import pipeline
plain = pipeline.training_batches
def slow(*arguments, **fields):
  for batch in plain(*arguments, **fields):
    time.sleep(1)
    yield batch
pipeline.training_batches = slow
"""


@pytest.fixture(scope='module')
def stopped(dataset_dir, tmp_path_factory):
  """Workdir and last step of a run of which one process got Ctrl-C."""
  path = tmp_path_factory.mktemp('stopped')
  processes = two_processes(dataset_dir, path, SLOWLY)
  checkpoints = workdir.checkpoint_dir(path, 0)
  while processes[1].poll() is None and not (checkpoints / '1').exists():
    time.sleep(0.05)
  processes[1].send_signal(signal.SIGINT)
  text, _ = printed(processes)
  step = int(re.search(r'Stopped and saved at step (\d)', text)[1])
  assert 1 <= step < 6
  assert max(int(each.name) for each in checkpoints.iterdir()) == step
  return path, step


@pytest.mark.parametrize('damaged', [False, True])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(
  damaged, stopped, by_two, dataset_dir, tmp_path
):
  path, step = stopped
  shutil.copytree(path, tmp_path / 'run')
  last = workdir.checkpoint_dir(tmp_path / 'run', 0) / str(step)
  if damaged:
    largest = max(last.glob('variables/d/*'), key=lambda x: x.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 0x10
    largest.write_bytes(content)
  texts = printed(two_processes(dataset_dir, tmp_path / 'run'))
  for text in texts:
    assert (f'Checkpoint {step} in' in text) == damaged
  assert f'step {step - damaged} to 6' in texts[0]
  assert tiny.events(tmp_path / 'run') == tiny.events(by_two)
  found, expected = (
    last_state(dataset_dir, each) for each in (tmp_path / 'run', by_two)
  )
  for ours, theirs in zip(found, expected, strict=True):
    np.testing.assert_array_equal(ours, theirs)


def test_an_error_in_one_process_ends_both_soon(dataset_dir, tmp_path):
  fail = """
import sys
from pnx_jax.errors import UserError
from pnx_jax.input import pipeline
if '--process_id=1' in sys.argv:
  def damaged(*arguments, **fields):
    raise UserError('the image of x does not decode')
    yield
  pipeline.training_batches = damaged
"""
  processes = two_processes(dataset_dir, tmp_path, fail, stderr=subprocess.PIPE)
  # Below the 300 s that an orderly end would wait.
  texts = [process.communicate(timeout=120) for process in processes]
  assert all(process.returncode for process in processes)
  assert 'error: the image of x does not decode' in texts[1][1]
