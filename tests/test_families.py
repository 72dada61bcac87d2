"""Every family of networks, scaled down, through the parts of the trainer."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import small_run

from pnx_jax.input import pipeline
from pnx_jax.training import experiment, losses, sharding, steps, train_state
from pnx_jax.training.checkpoint import Checkpoints

# Less time to compile, more to run: a few steps are taken.
QUICK = {'xla_backend_optimization_level': 0}
FAMILIES = {
  'resunet': {},
  'unet': {'model.decoder': 'unetpp'},
  '_tiny_resnet': {},
  '_tiny_se_resnext': {'model.attention': True},
  '_tiny_efficientnet': {},
  '_tiny_lite': {},
}


def first_batch(run):
  return next(
    pipeline.training_batches(
      run.dataset,
      run.schedule,
      image_size=run.image_size,
      loader=pipeline.Loader(batch_size=8),
      first_step=0,
      last_step=1,
    )
  )


@pytest.mark.parametrize('encoder', FAMILIES)
def test_learns_on_eight_devices_as_on_one_and_is_restored(
  encoder, dataset_dir, tmp_path
):
  fields = {
    'model.encoder': encoder,
    'optimizer.warmup_epochs': 0.0,
  }
  config = small_run.config(dataset_dir, **fields, **FAMILIES[encoder])
  run = dataclasses.replace(
    experiment.Experiment.build(config, platform='cpu'),
    augmentation=lambda key, image, label: (image, label),
  )
  mesh = sharding.mesh()
  whole = sharding.replicated(mesh)
  key = jax.random.key(0, impl='rbg')
  create = jax.jit(
    run.create_state, out_shardings=whole, compiler_options=QUICK
  )
  step = jax.jit(run.train_step, out_shardings=whole, compiler_options=QUICK)
  batch = first_batch(run)
  now = before = create(key)
  found = []
  for _ in range(3):
    now, loss = step(now, sharding.put(batch, mesh))
    found.append(float(loss))
  assert found[0] > found[1] > found[2]

  @functools.partial(jax.jit, compiler_options=QUICK)
  def loss_on_one_device(variables, batch):
    outputs, _ = run.model.apply(
      variables,
      steps.scaled(batch['image']),
      train=True,
      mutable=['batch_stats'],
    )
    parts = losses.compute(outputs, batch['label'], weights=run.loss_weights)
    return parts['loss'].mean()

  loss = loss_on_one_device(jax.device_get(before.variables), batch)
  np.testing.assert_allclose(found[0], loss, rtol=1e-6)

  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(3, now)
    checkpoints.wait()
    restored = checkpoints.restore_latest(
      train_state.abstract(run.create_state, key, whole)
    )
  for ours, saved in zip(
    jax.tree.leaves(restored), jax.tree.leaves(now), strict=True
  ):
    np.testing.assert_array_equal(ours, saved)
