"""One device or eight, one process or two: the same run."""

import functools
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny

from pnx_jax.input import pipeline
from pnx_jax.input.augment import Augmentation
from pnx_jax.training import (
  experiment,
  sharding,
  state,
  steps,
  workdir,
)
from pnx_jax.training.checkpoint import Checkpoints

ROOT = pathlib.Path(__file__).parent.parent
# float32 sums in another order; what a step and what six steps may differ by.
STEP_TOLERANCE, RUN_TOLERANCE = 1e-5, 2e-3


def mesh_of(number):
  return jax.make_mesh(
    (number,),
    ('data',),
    axis_types=(jax.sharding.AxisType.Auto,),
    devices=jax.devices()[:number],
  )


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
  step = functools.partial(
    steps.train_step,
    model=run.model,
    optimiser=run.optimiser,
    loss_weights=experiment.loss_weights(config),
    augmentation=Augmentation(**config.augmentation),
    ema_decay=run.ema_decay,
    seed=0,
  )
  after = {}
  for number in (1, 8):
    mesh = mesh_of(number)
    whole = sharding.replicated(mesh)
    before = jax.jit(run.create_state, out_shardings=whole)(jax.random.key(0))
    moved = jax.jit(step, out_shardings=whole)(
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


def test_a_checkpoint_of_eight_devices_opens_on_one(uninterrupted, dataset_dir):
  path, _ = uninterrupted
  run = experiment.Experiment.build(tiny.config(dataset_dir))
  restored = {}
  for number in (1, 8):
    whole = sharding.replicated(mesh_of(number))
    abstract = state.abstract(run.create_state, jax.random.key(0), whole)
    with Checkpoints(workdir.checkpoint_dir(path, 0)) as checkpoints:
      found = checkpoints.restore_latest(abstract)
    assert len(found.step.sharding.device_set) == number
    restored[number] = jax.tree.leaves(jax.device_get(found))
  for one, eight in zip(restored[1], restored[8], strict=True):
    np.testing.assert_array_equal(one, eight)


def test_two_processes_train_like_one(dataset_dir, uninterrupted, tmp_path):
  expected = tiny.events(uninterrupted[0])
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    port = probe.getsockname()[1]
  environment = {**os.environ, 'XLA_FLAGS': ''}
  processes = [
    subprocess.Popen(
      [
        *(sys.executable, 'launch.py', *tiny.flags(dataset_dir)),
        f'--workdir={tmp_path}',
        f'--coordinator_address=127.0.0.1:{port}',
        '--num_processes=2',
        f'--process_id={i}',
      ],
      cwd=ROOT,
      env=environment,
    )
    for i in range(2)
  ]
  assert [process.wait(timeout=300) for process in processes] == [0, 0]
  found = tiny.events(tmp_path)
  assert found.keys() == expected.keys()
  for name in ('train/loss', 'train/dice', 'validation/loss'):
    steps_found, values = zip(*found[name], strict=True)
    steps_expected, values_expected = zip(*expected[name], strict=True)
    assert steps_found == steps_expected
    np.testing.assert_allclose(values, values_expected, rtol=RUN_TOLERANCE)
