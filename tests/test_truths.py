"""What each kind of truth teaches, and what it leaves alone."""

import functools

import jax
import jax.numpy as jnp
import mixed_truths
import numpy as np
import optax
import pytest
import test_losses
from sklearn import metrics as sklearn_metrics

from pnx_jax.input import pipeline
from pnx_jax.input.augment import Augmentation
from pnx_jax.input.sampling import Schedule
from pnx_jax.metrics import dice, rules
from pnx_jax.metrics.dice import SegmentationMetrics
from pnx_jax.models import segmenter
from pnx_jax.training import losses, sharding, steps, train_state, validate

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(scale=2, size=(4, 6, 8, 1)).astype(np.float32)
LABEL = RANDOM.random((4, 6, 8, 1)) < 0.3
UNKNOWN = RANDOM.random((4, 6, 8, 1)) < 0.4
LABEL[1] = False
LABEL[2] &= UNKNOWN[2]  # No known pixel is positive.
UNKNOWN[3] = False
WEIGHTS = {'bce': 3.0, 'dice': 1.0, 'lovasz': 0.5, 'presence': 0.5}
SIDE = 16


@pytest.mark.parametrize('name', sorted({*losses.MASK_LOSSES} - {'batch_dice'}))
def test_unknown_pixels_are_left_out_of_every_sum(name):
  """As if the image consisted of its known pixels alone."""
  reference = getattr(test_losses, f'numpy_{name}')
  known = jnp.asarray(~UNKNOWN, jnp.float32)
  label = jnp.asarray(LABEL, jnp.float32)
  ours = losses.MASK_LOSSES[name](LOGITS, label, known)
  expected = [
    reference(logits[~unknown], label[~unknown])
    for logits, label, unknown in zip(LOGITS, LABEL, UNKNOWN, strict=True)
  ]
  np.testing.assert_allclose(ours, expected, rtol=3e-5)
  gradient = jax.grad(
    lambda x: losses.MASK_LOSSES[name](x, label, known).sum()
  )(jnp.asarray(LOGITS))
  assert (np.asarray(gradient)[UNKNOWN] == 0).all()
  assert np.isfinite(np.asarray(gradient)).all()
  nothing = jnp.zeros_like(known)
  found = losses.MASK_LOSSES[name](LOGITS, label, nothing)
  np.testing.assert_array_equal(found, np.zeros(4))


def test_batch_dice_is_that_of_the_known_pixels_of_known_images():
  outputs = {'mask_logits': LOGITS, 'presence_logit': jnp.zeros(4)}
  truth = losses.Truth(
    mask=jnp.array([1.0, 1, 1, 0]),
    presence=jnp.ones(4),
    unknown=jnp.asarray(UNKNOWN),
  )
  found = losses.compute(
    outputs, jnp.asarray(LABEL), weights={'batch_dice': 1.0}, truth=truth
  )
  known = ~UNKNOWN[:3]
  expected = test_losses.numpy_dice(LOGITS[:3][known], LABEL[:3][known])
  np.testing.assert_allclose(found['batch_dice_loss'], expected, rtol=2e-5)


def test_unknown_pixels_count_at_no_stride():
  label = np.zeros((2, 8, 8, 1), bool)
  unknown = np.zeros_like(label)
  unknown[0, 2:5, 2:5] = True
  deep = [jnp.full((2, 4, 4, 1), -9.0), jnp.full((2, 2, 2, 1), -9.0)]
  outputs = {
    'mask_logits': jnp.full(label.shape, -9.0),
    'presence_logit': jnp.zeros(2),
    # Every coarse pixel that the unknown ones touch is predicted.
    'deep_logits': [deep[0].at[0, 1:3, 1:3].set(9.0), deep[1].at[0].set(9.0)],
  }
  truth = losses.Truth(jnp.ones(2), jnp.ones(2), unknown=jnp.asarray(unknown))
  parts = losses.compute(
    outputs, jnp.asarray(label), weights={'bce': 2.0, 'deep': 1.0}, truth=truth
  )
  np.testing.assert_allclose(parts['deep_loss'], 0, atol=1e-3)


def test_label_only_images_change_no_mask_loss_of_the_others():
  """The mean over a batch is that over the images that have the truth."""
  outputs = {
    'mask_logits': jnp.asarray(LOGITS),
    'presence_logit': jnp.array([0.3, -1.0, 2.0, 0.5]),
  }
  present = np.array([1.0, 0, 1, 1], np.float32)
  truth = losses.Truth(
    mask=jnp.array([2.0, 2, 0, 0]),
    presence=jnp.ones(4),
    label=jnp.asarray(present),
  )
  label = jnp.asarray(LABEL)
  mixed = losses.compute(outputs, label, weights=WEIGHTS, truth=truth)
  head = np.log1p(np.exp([-0.3, -1.0, -2.0, -0.5]))
  np.testing.assert_allclose(mixed['presence_loss'], head, rtol=1e-5)
  masks = {
    name: weight for name, weight in WEIGHTS.items() if name != 'presence'
  }
  alone = losses.compute(
    jax.tree.map(lambda x: x[:2], outputs), label[:2], weights=masks
  )
  np.testing.assert_allclose(
    mixed['loss'].mean(), alone['loss'].mean() + 0.5 * head.mean(), rtol=1e-5
  )


@functools.cache
def network():
  return segmenter.create_model(
    encoder='unet', width=4, depth=2, platform='cpu', dtype='float32'
  )


@functools.cache
def first_state():
  return jax.jit(new_state)(jax.random.key(0, impl='rbg'))


OPTIMIZER = optax.sgd(1.0)
METRICS = SegmentationMetrics.with_losses(
  (*losses.names(WEIGHTS), 'gradient_norm')
)


def new_state(key):
  return train_state.create(
    key,
    model=network(),
    optimizer=OPTIMIZER,
    metrics=METRICS,
    image_size=SIDE,
    ema=False,
  )


@functools.cache
def compiled_step(num_devices):
  """The training step, and the state before it, on that many devices."""
  mesh = sharding.mesh(jax.devices()[:num_devices])
  whole = sharding.replicated(mesh)
  step = functools.partial(
    steps.train_step,
    model=network(),
    optimizer=OPTIMIZER,
    loss_weights=WEIGHTS,
    augmentation=Augmentation(),
    ema_decay=0.0,
    seed=0,
  )
  state = jax.device_put(first_state(), whole)
  return mesh, jax.jit(step, out_shardings=whole), state


def stepped(batch, num_devices):
  """The state and the loss after one step."""
  mesh, step, state = compiled_step(num_devices)
  return step(state, sharding.put(batch, mesh))


def batch_of(*kinds):
  """Images of random numbers, of which the given is known."""
  number = len(kinds)
  random = np.random.default_rng(1)
  shape = number, SIDE, SIDE, 1
  label = np.zeros(shape, bool)
  label[[kind == 'mask' for kind in kinds], 4:9, 3:12] = True
  unknown = np.zeros(shape, bool)
  unknown[[kind == 'exhaustive box' for kind in kinds], 4:9, 3:12] = True
  mask = np.isin(kinds, ['mask', 'negative', 'exhaustive box'])
  presence = np.array(kinds) != 'none'
  return {
    'image': random.integers(0, 256, shape, np.uint8),
    'label': label,
    'unknown': unknown,
    'mask_weight': np.float32(mask * number / max(1, mask.sum())),
    'presence_weight': np.float32(presence * number / max(1, presence.sum())),
    'presence': np.float32(np.array(kinds) != 'negative'),
  }


@pytest.mark.parametrize(
  ('kind', 'parts'),
  [
    ('mask', {'encoder', 'decoder', 'mask', 'presence'}),
    ('negative', {'encoder', 'decoder', 'mask', 'presence'}),
    ('exhaustive box', {'encoder', 'decoder', 'mask', 'presence'}),
    ('label', {'encoder', 'presence'}),
    ('box', {'encoder', 'presence'}),
    ('none', set()),
  ],
)
def test_the_parameters_that_each_kind_of_truth_trains(kind, parts):
  # Eight, as in the test below, whose program this is.
  after, _ = stepped(batch_of(*[kind] * 8), 1)
  before, after = (
    jax.device_get(state.variables['params'])
    for state in (first_state(), after)
  )
  changed = {
    name
    for name in before
    if any(
      not np.array_equal(one, other)
      for one, other in zip(
        jax.tree.leaves(before[name]), jax.tree.leaves(after[name]), strict=True
      )
    )
  }
  assert set(before) == {'encoder', 'decoder', 'mask', 'presence'}
  assert changed == parts


def test_eight_devices_average_over_the_same_images_as_one():
  """One device has masks alone, others none of them."""
  kinds = ['mask', 'mask', 'negative', 'exhaustive box', *['label'] * 3, 'box']
  batch = batch_of(*kinds)
  (one, loss_of_one), (eight, loss_of_eight) = (
    stepped(batch, 1),
    stepped(batch, 8),
  )
  np.testing.assert_allclose(loss_of_one, loss_of_eight, rtol=1e-6)
  for left, right in zip(
    jax.tree.leaves(one.variables),
    jax.tree.leaves(eight.variables),
    strict=True,
  ):
    np.testing.assert_allclose(left, right, atol=2e-6)
  metrics = eight.metrics.compute()
  # The Dice is that of the two masks and the negative; here none is marked.
  assert (
    eight.metrics.dice.count == 3 and eight.metrics.dice_positive.count == 2
  )
  assert eight.metrics.bce_loss.count == 4
  assert eight.metrics.presence_loss.count == 8
  np.testing.assert_allclose(metrics['loss'], loss_of_eight, rtol=1e-5)


def test_unknown_pixels_move_with_the_image():
  augmentation = Augmentation(
    flip_probability=0.5, affine_probability=1.0, shift=0.2, rotate=30.0
  )
  unknown = np.zeros((4, 32, 32, 1), bool)
  unknown[:, 4:14, 18:28] = True
  image = unknown.astype(np.float32)
  other = np.roll(unknown, 7, axis=1)
  _, labels = augmentation(
    jax.random.key(1),
    jnp.asarray(image),
    jnp.asarray(np.concatenate([other, unknown], axis=-1)),
  )
  key = jax.random.key(1)
  moved, expected = augmentation(key, jnp.asarray(image), jnp.asarray(unknown))
  np.testing.assert_array_equal(labels[..., 1:], expected)
  np.testing.assert_array_equal(
    labels[..., :1],
    augmentation(key, jnp.asarray(image), jnp.asarray(other))[1],
  )
  assert ((np.asarray(moved) > 0.5) == np.asarray(expected)).all()
  assert not np.array_equal(expected, unknown)


@pytest.fixture(scope='module')
def mixed(dataset_dir, tmp_path_factory):
  """Two folds of which some positives have a label or boxes alone."""
  folder = tmp_path_factory.mktemp('mixed') / 'data'
  data_dir = mixed_truths.write(dataset_dir, folder)
  return pipeline.Dataset(data_dir, ['fold0', 'fold1'])


def batches(data, count, **options):
  schedule = Schedule(data.labels, positive_share=((0, 0.6),), seed=0)
  return schedule, list(
    pipeline.training_batches(
      data, schedule, image_size=32, first_step=0, last_step=count, **options
    )
  )


def test_weights_average_over_all_images_of_an_update(mixed):
  """Over three accumulated batches of four, and in one of two processes."""
  loader = pipeline.Loader(batch_size=4)
  schedule, whole = batches(mixed, 6, loader=loader, accumulate_steps=3)
  values = RANDOM.random(len(mixed))
  for update in (whole[:3], whole[3:]):
    joined = {
      name: np.concatenate([batch[name] for batch in update])
      for name in update[0]
    }
    index = joined['index']
    known = (mixed.mask_known | mixed.partly_known)[index]
    assert 0 < known.sum() < 12
    means = [
      (batch['mask_weight'] * values[batch['index']]).mean() for batch in update
    ]
    np.testing.assert_allclose(
      np.mean(means), values[index][known].mean(), rtol=1e-5
    )
    np.testing.assert_array_equal(joined['presence'], mixed.labels[index])
    np.testing.assert_array_equal(joined['presence_weight'], np.ones(12))
  half = pipeline.Loader(batch_size=4, process_index=1, process_count=2)
  _, parts = batches(mixed, 6, loader=half, accumulate_steps=3)
  for batch, part in zip(whole, parts, strict=True):
    for name, value in part.items():
      np.testing.assert_array_equal(value, batch[name][2:])
  assert schedule.record(0) == whole[0]['index'][0]


def test_a_crop_tells_nothing_of_the_presence_in_a_label_only_image(mixed):
  loader = pipeline.Loader(batch_size=8)
  _, (batch,) = batches(mixed, 1, loader=loader, cropped=True)
  known = mixed.mask_known[batch['index']]
  assert 'presence' not in batch
  np.testing.assert_array_equal(batch['presence_weight'] > 0, known)


def test_the_inside_of_exhaustive_boxes_is_unknown(mixed):
  """Films of 128 x 128, images of 32 x 32: every pixel that a box touches."""
  loader = pipeline.Loader(batch_size=8)
  _, some = batches(mixed, 4, loader=loader)
  for batch in some:
    for unknown, index in zip(batch['unknown'], batch['index'], strict=True):
      expected = np.zeros((32, 32), bool)
      if mixed.records[index].boxes_exhaustive:
        for x, y, width, height, _ in mixed.records[index].boxes:
          rows = slice(y // 4, -(-(y + height) // 4))
          expected[rows, x // 4 : -(-(x + width) // 4)] = True
      np.testing.assert_array_equal(unknown[..., 0], expected)
  assert any(batch['unknown'].any() for batch in some)


def test_batches_of_masks_alone_have_no_more_than_before(dataset_dir):
  data = pipeline.Dataset(dataset_dir, ['fold0', 'fold1'])
  _, (batch,) = batches(data, 1, loader=pipeline.Loader(batch_size=4))
  assert set(batch) == {'image', 'label', 'valid', 'index'}


def test_the_validation_scores_each_source_and_tells_its_n():
  random_state = np.random.default_rng(0)
  sources = np.array(['a'] * 30 + ['b'] * 20 + ['c'] * 5)
  label = random_state.random(55) < 0.5
  label[50:] = True
  known = random_state.random(55) < 0.7
  known[50:] = False
  thresholds = len(dice.THRESHOLDS)
  predicted = np.sort(random_state.integers(0, 500, (55, thresholds)))[:, ::-1]
  truth = np.where(label, 300, 0)
  statistics = {
    'label': label,
    'probability': random_state.random(55),
    'mask_known': known,
    'truth_area': truth,
    'predicted_area': predicted,
    'intersection': np.minimum(predicted, truth[:, None]) // 2,
  }
  rule = rules.PLAIN
  found = validate.scores_by_source(
    statistics, sources, rule, image_size=validate.REFERENCE_SIZE
  )
  level = rules.column(rule.bottom)
  area, both = (
    statistics[x][:, level] for x in ('predicted_area', 'intersection')
  )
  total = area + truth
  of_film = np.where(total > 0, 2 * both / np.maximum(total, 1), 1.0)
  for name in 'ab':
    own = sources == name
    masks = own & known
    expected = {
      'num_images': own.sum(),
      'num_masks': masks.sum(),
      'auc': sklearn_metrics.roc_auc_score(
        label[own], statistics['probability'][own]
      ),
      'dice': of_film[masks].mean(),
      'dice_positive': of_film[masks & label].mean(),
    }
    assert found[name] == pytest.approx(expected), name
  # Without masks and negatives nothing but the number of films is known.
  assert (found['c'].pop('num_images'), found['c'].pop('num_masks')) == (5, 0)
  assert len(found['c']) == 3 and np.isnan([*found['c'].values()]).all()
  one = np.full(55, 'a')
  assert not validate.scores_by_source(statistics, one, rule, image_size=1024)


def test_the_validation_counts_masks_alone_but_for_the_auc(mixed):
  statistics = {
    'label': mixed.labels == 1,
    'mask_known': mixed.mask_known,
    'probability': RANDOM.random(len(mixed)),
    'dice': RANDOM.random(len(mixed)),
    'truth_area': RANDOM.integers(0, 90, len(mixed)) * (mixed.labels == 1),
    'bce_loss': RANDOM.random(len(mixed)),
    'presence_loss': RANDOM.random(len(mixed)),
  }
  areas = np.sort(RANDOM.integers(0, 90, (len(mixed), 30)), axis=1)[:, ::-1]
  statistics |= {'predicted_area': areas, 'intersection': areas // 2}
  found, rule = validate.scores(statistics, image_size=32)
  known = {name: x[mixed.mask_known] for name, x in statistics.items()}
  alone, same_rule = validate.scores(
    {name: x for name, x in known.items() if name != 'mask_known'},
    image_size=32,
  )
  assert rule == same_rule
  whole, _ = validate.scores(
    {name: x for name, x in statistics.items() if name != 'mask_known'},
    image_size=32,
  )
  for name in ('dice', 'dice_positive', 'all_empty_dice', 'bce_loss'):
    np.testing.assert_allclose(found[name], alone[name], rtol=1e-6)
  for name in ('auc', 'presence_loss'):
    assert found[name] == whole[name] != alone[name]
