"""Learning from images without annotation, on records of 32 x 32."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_run

from pnx_jax.errors import UserError
from pnx_jax.evaluation import leaks
from pnx_jax.formats import schema
from pnx_jax.input import pipeline
from pnx_jax.input.augment import Augmentation
from pnx_jax.metrics.dice import SegmentationMetrics
from pnx_jax.models import compiled
from pnx_jax.prediction.deployment import Member
from pnx_jax.training import (
  experiment,
  mean_teacher,
  run_files,
  seen_films,
  sharding,
)
from pnx_jax.training.mean_teacher import MeanTeacher, Views
from pnx_jax.training.seen_films import SeenFilm
from pnx_jax.training.train import train

TEACHER = MeanTeacher(weight=2.0, ramp_steps=4, presence=0.3)
FIELDS = {'batch_size': 16, 'mean_teacher.unlabeled_share': 0.5}
# Of `Toy`: the weights and their average differ in every number.
STUDENT = {'params': {'gain': 2.0, 'tilt': 0.5}, 'batch_stats': {'mean': 0.7}}
AVERAGE = {'params': {'gain': 5.0, 'tilt': -2.0}, 'batch_stats': {'mean': 0.2}}


class Toy(nn.Module):
  """Its logits follow the gray levels; mirroring shows."""

  @nn.compact
  def __call__(self, image, train):
    params = {
      name: self.param(name, nn.initializers.constant(value), ())
      for name, value in STUDENT['params'].items()
    }
    start = STUDENT['batch_stats']['mean']
    mean = self.variable('batch_stats', 'mean', lambda: jnp.float32(start))
    if train:
      mean.value = image.mean()
    return toy_outputs(params, mean.value, image)


def toy_outputs(params, mean, image):
  column = np.linspace(-1, 1, image.shape[2], dtype=image.dtype)
  logits = params['gain'] * (image - mean)
  logits = logits + params['tilt'] * column.reshape(1, 1, -1, 1)
  return {
    'mask_logits': logits,
    'presence_logit': logits[:, :, :4].mean(axis=(1, 2, 3)),
  }


def sigmoid(logits):
  return 1 / (1 + np.exp(-np.asarray(logits, float)))


@pytest.fixture
def unlabeled_are_test_films(monkeypatch):
  """The dataset's three films for testing stand for unlabeled ones."""
  monkeypatch.setattr(schema, 'UNLABELED_SPLIT', schema.TEST_SPLIT)


def batches(run, first, last, **processes):
  return list(
    pipeline.training_batches(
      run.dataset,
      run.schedule,
      image_size=32,
      loader=pipeline.Loader(batch_size=8, threads=2, **processes),
      first_step=first,
      last_step=last,
      unlabeled=run.unlabeled,
    )
  )


def build(dataset_dir, **changes):
  config = small_run.config(dataset_dir, **(FIELDS | changes))
  return experiment.Experiment.build(config, platform='cpu')


def consistency(outputs, mask, presence, weight):
  """The formula for each image in float64."""
  ours = sigmoid(outputs['mask_logits'])
  mask = np.asarray(mask, float)
  away, *squares = (
    (x**2).sum(axis=(1, 2, 3)) for x in (ours - mask, ours, mask)
  )
  head = (sigmoid(outputs['presence_logit']) - presence) ** 2
  return away / (sum(squares) + 1) + weight * head


def test_consistency_is_the_squared_difference_over_the_squares():
  random = np.random.default_rng(0)
  logits = random.normal(size=(2, 8, 8, 1)).astype(np.float32)
  presence = random.normal(size=2).astype(np.float32)
  mask = random.random((2, 8, 8, 1)).astype(np.float32)
  views = Views(image=logits, mask=mask, presence=np.float32([0.5, 0.5]))
  outputs = {'mask_logits': jnp.asarray(logits), 'presence_logit': presence}
  np.testing.assert_allclose(
    TEACHER.consistency(outputs, views),
    consistency(outputs, mask, 0.5, TEACHER.presence),
    rtol=1e-5,
  )


def test_a_student_that_equals_its_teacher_has_no_consistency_loss():
  logits = jnp.linspace(-4, 4, 64).reshape(1, 8, 8, 1)
  outputs = {'mask_logits': logits, 'presence_logit': jnp.ones(1)}
  views = Views(
    image=logits,
    mask=jax.nn.sigmoid(logits),
    presence=jax.nn.sigmoid(jnp.ones(1)),
  )
  assert float(TEACHER.consistency(outputs, views)[0]) == 0


def test_the_weight_rises_to_its_value_and_stays():
  found = [float(TEACHER.weight_at(step)) for step in (0, 1, 2, 3, 100)]
  expected = [2 * np.exp(-5 * (1 - t) ** 2) for t in (0.25, 0.5, 0.75, 1, 1)]
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  at_once = dataclasses.replace(TEACHER, ramp_steps=0)
  assert float(at_once.weight_at(0)) == 2


@pytest.mark.usefixtures('unlabeled_are_test_films')
def test_unlabeled_images_depend_on_seed_and_step_alone(dataset_dir):
  run = build(dataset_dir)
  whole = batches(run, 0, 4)
  np.testing.assert_array_equal(
    batches(run, 3, 4)[0]['unlabeled'], whole[3]['unlabeled']
  )
  halves = [
    batches(run, 0, 1, process_index=index, process_count=2)[0]['unlabeled']
    for index in range(2)
  ]
  np.testing.assert_array_equal(np.concatenate(halves), whole[0]['unlabeled'])
  # Three films: every one is seen once before any is seen again.
  shown = np.concatenate([batch['unlabeled'] for batch in whole])
  assert all(
    len(np.unique(shown[start : start + 3], axis=0)) == 3
    for start in range(0, 30, 3)
  )


def step_on(number, run, before):
  """State and loss after the first step on so many devices."""
  mesh = sharding.mesh(jax.devices()[:number])
  whole = sharding.replicated(mesh)
  step = compiled.jit(run.train_step, out_shardings=whole)
  batch = sharding.put(batches(run, 0, 1)[0], mesh)
  return jax.device_get(step(jax.device_put(before, whole), batch))


def test_the_mask_of_the_teacher_lies_on_the_view_of_the_student():
  image = np.random.default_rng(0).random((16, 8, 8, 1), np.float32)
  augmentation = Augmentation(
    flip_probability=0.5, affine_probability=1.0, shift=0.1, rotate=20.0
  )

  @jax.jit
  def seen(key):
    found = mean_teacher.views(
      key, image, model=Toy(), variables=AVERAGE, augmentation=augmentation
    )
    return found.image, found.mask

  view, teacher_mask = jax.device_get(seen(jax.random.key(0)))
  assert not np.allclose(view, image, atol=0.1)
  params, mean = AVERAGE['params'], AVERAGE['batch_stats']['mean']
  plain, mirrored = (
    sigmoid(toy_outputs(params, mean, x)['mask_logits'])
    for x in (view, view[:, :, ::-1])
  )
  fits = [
    np.isclose(teacher_mask, mask, atol=1e-5).all(axis=(1, 2, 3))
    for mask in (plain, mirrored[:, :, ::-1])
  ]
  np.testing.assert_array_equal(fits[0], ~fits[1])
  assert 0 < fits[0].sum() < 16


@pytest.mark.usefixtures('unlabeled_are_test_films')
def test_the_student_learns_from_labels_and_from_its_average(dataset_dir):
  run = dataclasses.replace(
    build(
      dataset_dir,
      **{
        'losses.presence': 0.3,
        'mean_teacher.weight': 2.0,
        'mean_teacher.ramp_epochs': 2.0,
      },
    ),
    model=Toy(),
    optimizer=optax.sgd(1.0),
    loss_weights={'bce': 1.0},
    augmentation=Augmentation(),
    metrics=SegmentationMetrics.with_losses(
      ['loss', 'bce_loss', 'gradient_norm', 'consistency_loss']
    ),
  )
  before = jax.device_get(jax.jit(run.create_state)(jax.random.key(0)))
  before = before.replace(
    step=np.int32(1), ema=jax.tree.map(np.float32, AVERAGE)
  )
  state, loss = step_on(8, run, before)
  batch = batches(run, 0, 1)[0]
  image, unlabeled = batch['image'] / 255, batch['unlabeled'] / 255
  mean = np.concatenate([image, unlabeled]).mean()
  teacher = toy_outputs(
    AVERAGE['params'], AVERAGE['batch_stats']['mean'], unlabeled
  )
  mask, presence = map(sigmoid, teacher.values())

  def parts(params):
    logits = toy_outputs(params, mean, image)['mask_logits']
    supervised = np.logaddexp(0, logits) - batch['label'] * logits
    outputs = toy_outputs(params, mean, unlabeled)
    return (
      supervised.mean(),
      consistency(outputs, mask, presence, 0.3).mean(),
    )

  share = 2 / run.durations.ramp_steps
  weights = [1, 2 * np.exp(-5 * (1 - share) ** 2)]
  params = STUDENT['params']
  found = state.metrics.compute()
  np.testing.assert_allclose(
    [found['loss'], found['consistency_loss']], parts(params), rtol=1e-5
  )
  np.testing.assert_allclose(loss, np.dot(weights, parts(params)), rtol=1e-5)
  for name, value in params.items():
    above, below = (
      np.dot(weights, parts(params | {name: value + change}))
      for change in (1e-4, -1e-4)
    )
    np.testing.assert_allclose(
      value - state.variables['params'][name],
      (above - below) / 2e-4,
      rtol=1e-4,
      err_msg=name,
    )


@pytest.mark.usefixtures('unlabeled_are_test_films')
def test_a_step_of_a_real_network_keeps_the_state_as_it_is(dataset_dir):
  run = build(dataset_dir)
  before = jax.eval_shape(run.create_state, jax.random.key(0))
  after, _ = jax.eval_shape(run.train_step, before, batches(run, 0, 1)[0])
  assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, before)
  assert after.metrics.consistency_loss.total.shape == ()


@pytest.mark.slow
@pytest.mark.usefixtures('unlabeled_are_test_films')
def test_one_device_takes_the_same_step_as_eight(dataset_dir):
  run = build(dataset_dir)
  before = jax.device_get(jax.jit(run.create_state)(jax.random.key(0)))
  (_, one), (_, eight) = (step_on(number, run, before) for number in (1, 8))
  np.testing.assert_allclose(one, eight, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures('unlabeled_are_test_films')
def test_a_run_with_a_teacher_trains_and_logs_it(dataset_dir, tmp_path):
  config = small_run.config(
    dataset_dir, **(FIELDS | {'total_steps': 2, 'log_steps': 1})
  )
  scores = train(config, tmp_path)
  assert np.isfinite(scores['dice'])
  logged = small_run.events(tmp_path)['train/consistency_loss']
  assert [step for step, _ in logged] == [1, 2]
  assert all(0 < value < 2 for _, value in logged)


def test_a_submission_says_which_of_its_films_were_seen(tmp_path):
  films = [
    SeenFilm('annotated'),
    SeenFilm('seen', use=seen_films.UNLABELED),
    SeenFilm('of another set', use=seen_films.UNLABELED),
  ]
  config = small_run.config('data')
  run_files.write(tmp_path, config, films)
  test = [SeenFilm('seen'), SeenFilm('annotated'), SeenFilm('new')]
  members = [Member(str(tmp_path), 0, place) for place in (0, 1)]
  assert leaks.seen_in_training(test, members) == {'seen', 'annotated'}


def test_without_unlabeled_images_a_teacher_is_refused(dataset_dir):
  with pytest.raises(UserError, match="has no split 'unlabeled'"):
    build(dataset_dir)


@pytest.mark.usefixtures('unlabeled_are_test_films')
@pytest.mark.parametrize('share', [0.01, 0.99])
def test_a_batch_has_images_of_both_kinds(dataset_dir, share):
  with pytest.raises(UserError, match='leaves no image without'):
    build(dataset_dir, **{'mean_teacher.unlabeled_share': share})
