"""One device or eight, one process or two: the same run."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import small_run

from pnx_jax.input import pipeline
from pnx_jax.models import compiled
from pnx_jax.training import experiment, run_files, sharding, train_state
from pnx_jax.training.checkpoint import Checkpoints
from pnx_jax.training.train import train

# What float32 sums in another order change in a step.
STEP_TOLERANCE = 1e-5
SIXTEEN_DEVICES = '--xla_force_host_platform_device_count=16'


def mesh_of(number):
  return sharding.mesh(jax.devices()[:number])


@pytest.fixture(scope='module')
def first_steps(dataset_dir):
  """The loss and the state after one step, by number of devices."""
  run = experiment.Experiment.build(
    small_run.config(dataset_dir), platform='cpu'
  )
  loader = pipeline.Loader(batch_size=8)
  batch = next(
    pipeline.training_batches(
      run.dataset,
      run.schedule,
      image_size=32,
      loader=loader,
      first_step=0,
      last_step=1,
    )
  )
  key = jax.random.key(0, impl='rbg')
  before = jax.device_get(
    jax.jit(run.create_state, out_shardings=sharding.replicated(mesh_of(8)))(
      key
    )
  )
  after = {}
  for number in (1, 8):
    mesh = mesh_of(number)
    whole = sharding.replicated(mesh)
    # Compiled as in training.
    step = compiled.jit(run.train_step, donate_argnums=0, out_shardings=whole)
    moved = step(jax.device_put(before, whole), sharding.put(batch, mesh))
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
  run = experiment.Experiment.build(
    small_run.config(dataset_dir), platform='cpu'
  )
  whole = sharding.replicated(mesh_of(devices))
  abstract = train_state.abstract(run.create_state, jax.random.key(0), whole)
  with Checkpoints(run_files.checkpoint_dir(path, 0)) as checkpoints:
    found = checkpoints.restore_latest(abstract)
  assert len(found.step.sharding.device_set) == devices
  return jax.tree.leaves(jax.device_get(found))


def test_a_checkpoint_of_eight_devices_opens_on_one(trained_run, dataset_dir):
  path = trained_run
  one, eight = (last_state(dataset_dir, path, devices=n) for n in (1, 8))
  for ours, theirs in zip(one, eight, strict=True):
    np.testing.assert_array_equal(ours, theirs)


def two_processes(dataset_dir, path, before='', stderr=None):
  """The run by two processes; they run the lines `before` first."""
  return small_run.two_processes(
    *small_run.flags(dataset_dir),
    f'--workdir={path}',
    before=before,
    stderr=stderr,
  )


@pytest.fixture(scope='module')
def by_two(dataset_dir, tmp_path_factory):
  """The workdir of the whole run by two processes."""
  path = tmp_path_factory.mktemp('by_two')
  small_run.printed(two_processes(dataset_dir, path))
  return path


def test_two_processes_train_like_one(by_two, trained_run):
  small_run.assert_same_course(by_two, trained_run)


LONGER = {'total_steps': 8}


def resumed(run, dataset_dir, path, *, devices, **changes):
  """A copy of a run, trained further by this process on some devices."""
  shutil.copytree(run, path)
  mesh = mesh_of(devices)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sharding, 'mesh', lambda: mesh)
    train(small_run.config(dataset_dir, **LONGER, **changes), path)
  return path


@pytest.fixture(scope='module')
def resumed_on_eight(trained_run, dataset_dir, tmp_path_factory):
  path = tmp_path_factory.mktemp('resumed') / 'on_eight'
  return resumed(trained_run, dataset_dir, path, devices=8)


def test_a_run_on_eight_devices_resumes_on_four(
  trained_run, resumed_on_eight, dataset_dir, tmp_path
):
  four = resumed(trained_run, dataset_dir, tmp_path / 'four', devices=4)
  small_run.assert_same_course(four, resumed_on_eight)


def test_a_run_by_two_processes_resumes_with_one(
  by_two, resumed_on_eight, dataset_dir, tmp_path
):
  one = resumed(by_two, dataset_dir, tmp_path / 'one', devices=8)
  small_run.assert_same_course(one, resumed_on_eight)


@pytest.mark.slow
def test_a_run_on_eight_devices_resumes_on_sixteen(dataset_dir, tmp_path):
  batches = {'batch_size': 16, 'eval.batch_size': 16}
  run, sixteen = tmp_path / 'run', tmp_path / 'sixteen'
  train(small_run.config(dataset_dir, **batches), run)
  eight = resumed(run, dataset_dir, tmp_path / 'eight', devices=8, **batches)
  shutil.copytree(run, sixteen)
  subprocess.run(
    [
      *(sys.executable, 'launch.py', f'--workdir={sixteen}'),
      *small_run.flags(dataset_dir, **batches, **LONGER),
    ],
    cwd=small_run.ROOT,
    env={**os.environ, 'XLA_FLAGS': SIXTEEN_DEVICES},
    check=True,
  )
  small_run.assert_same_course(sixteen, eight)


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
TELL_SAVES = """
from pnx_jax.training.checkpoint import Checkpoints
save = Checkpoints.save
def told(self, step, *arguments, **fields):
  print('Saving step', step)
  save(self, step, *arguments, **fields)
Checkpoints.save = told
"""


def stopped(processes, number, *, when):
  """The step that both saved last and what both printed.

  The second process gets the signal once `when()` holds.
  """
  while processes[1].poll() is None and not when():
    time.sleep(0.05)
  processes[1].send_signal(number)
  texts = small_run.printed(processes, status=75)
  saved = [re.findall(r'Saving step (\d)', text)[-1] for text in texts]
  assert saved[0] == saved[1]
  return int(saved[0]), texts


def flip_a_bit(folder):
  largest = max(folder.iterdir(), key=lambda path: path.stat().st_size)
  content = bytearray(largest.read_bytes())
  content[len(content) // 2] ^= 0x10
  largest.write_bytes(content)


def test_a_run_that_was_stopped_and_damaged_goes_on_bit_for_bit(
  by_two, dataset_dir, tmp_path
):
  """After Ctrl-C in one process, a flipped bit, and SIGTERM in one process."""
  checkpoints = run_files.checkpoint_dir(tmp_path, 0)
  events = tmp_path / 'fold0' / 'events'

  first, texts = stopped(
    two_processes(dataset_dir, tmp_path, SLOWLY + TELL_SAVES),
    signal.SIGINT,
    when=(checkpoints / '2').exists,
  )
  assert f'Stopped and saved at step {first}' in texts[0]
  assert 2 <= first < 6
  assert max(int(each.name) for each in checkpoints.iterdir()) == first

  flip_a_bit(checkpoints / str(first) / 'variables' / 'd')
  second, texts = stopped(
    two_processes(dataset_dir, tmp_path, SLOWLY + TELL_SAVES),
    signal.SIGTERM,
    when=lambda: len(list(events.iterdir())) == 2,
  )
  for text in texts:
    assert f'Checkpoint {first} in' in text
  assert f'step {first - 1} to 6' in texts[0]
  assert f'Stopped and saved at step {second}' in texts[0]
  assert first <= second

  texts = small_run.printed(two_processes(dataset_dir, tmp_path))
  assert f'step {second} to 6' in texts[0]
  assert small_run.events(tmp_path) == small_run.events(by_two)
  found, expected = (
    last_state(dataset_dir, path) for path in (tmp_path, by_two)
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
  assert 'if another process has ended, its output says why' in texts[0][1]
  assert 'Traceback' not in texts[0][1] + texts[1][1]
