"""Areas and Dice on the device against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pycocotools import mask as coco

from pnx_jax.metrics import dice as dice_lib

LEVELS = np.asarray(dice_lib.THRESHOLDS, np.float32)


def _random_batch(shape, seed=0):
  rng = np.random.default_rng(seed)
  probs = rng.beta(0.2, 0.6, shape).astype(np.float32)
  ties = rng.random(shape) < 0.2
  probs[ties] = rng.choice(LEVELS, ties.sum())
  return probs, rng.random(shape) < 0.3


def _numpy_areas(probs, label):
  above = probs[..., None] > LEVELS
  return {
    'truth_area': label.sum((1, 2)),
    'predicted_area': above.sum((1, 2)),
    'intersection': (above & label[..., None]).sum((1, 2)),
  }


def _assert_areas_equal(areas, expected):
  assert areas.keys() == expected.keys()
  for name, value in areas.items():
    assert value.dtype == jnp.int32
    np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_areas_equal_a_plain_comparison_with_every_threshold():
  probs, label = _random_batch((3, 17, 23))
  probs[1], label[1] = 0, False
  probs[2], label[2] = 1, True
  areas = jax.jit(dice_lib.threshold_areas)(probs, label)
  _assert_areas_equal(areas, _numpy_areas(probs, label))


def test_dice_equals_that_of_pycocotools():
  probs, label = _random_batch((4, 40, 30), seed=3)
  label[1] = False
  areas = jax.jit(dice_lib.threshold_areas)(probs, label)
  scores = dice_lib.dice(
    areas['intersection'],
    areas['predicted_area'],
    areas['truth_area'][:, None],
  )
  for level in (3, 14, 25):
    for row in range(4):
      mask, truth = (
        coco.encode(np.asfortranarray(array, np.uint8))
        for array in (probs[row] > LEVELS[level], label[row])
      )
      both = coco.area(coco.merge([mask, truth], intersect=True))
      total = coco.area(mask) + coco.area(truth)
      np.testing.assert_allclose(scores[row, level], 2 * both / total)


def test_areas_are_exact_beyond_float32_integers():
  shape = (1, 1, 2**24 + 5)
  areas = jax.jit(dice_lib.threshold_areas)(
    jnp.full(shape, 0.6), jnp.ones(shape, bool)
  )
  assert int(areas['truth_area'][0]) == 2**24 + 5
  level = dice_lib.THRESHOLDS.index(0.5)
  assert int(areas['predicted_area'][0, level]) == 2**24 + 5
  assert int(areas['intersection'][0, level + 3]) == 0


def test_areas_of_a_sharded_batch_need_no_communication():
  mesh = jax.make_mesh(
    (jax.device_count(),), ('data',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  sharding = jax.NamedSharding(mesh, jax.P('data'))
  probs, label = _random_batch((2 * jax.device_count(), 8, 8))
  step = jax.jit(
    dice_lib.threshold_areas,
    in_shardings=(sharding, sharding),
    out_shardings=sharding,
  )
  _assert_areas_equal(step(probs, label), _numpy_areas(probs, label))
  program = step.lower(probs, label).compile().as_text()
  assert 'all-' not in program and 'collective' not in program


def test_areas_refuse_arrays_of_different_shapes():
  with pytest.raises(ValueError, match='Shapes differ'):
    dice_lib.threshold_areas(jnp.zeros((1, 4, 4)), jnp.zeros((1, 4, 5), bool))


@pytest.mark.parametrize('xp', [np, jnp])
def test_dice_by_the_competition_rule(xp):
  intersection = xp.asarray([0, 0, 0, 30, 0])
  predicted = xp.asarray([0, 7, 0, 60, 40])
  truth = xp.asarray([0, 0, 9, 40, 40])
  scores = dice_lib.dice(intersection, predicted, truth)
  assert type(scores) is type(xp.zeros(1))
  np.testing.assert_allclose(scores, [1, 0, 0, 0.6, 0], rtol=1e-6)


def _collect(dice, label, valid, batch_size):
  metrics = dice_lib.SegmentationMetrics.with_losses(['loss'])
  update = jax.jit(
    lambda **outputs: metrics.single_from_model_output(**outputs)
  )
  total = metrics.empty()
  for start in range(0, len(dice), batch_size):
    part = slice(start, start + batch_size)
    total = total.merge(
      update(
        dice=dice[part],
        label=label[part],
        mask=valid[part],
        loss=2 * dice[part],
      )
    )
  return {name: float(value) for name, value in total.compute().items()}


def test_metrics_ignore_padding_and_batch_size():
  rng = np.random.default_rng(1)
  dice = rng.random(24).astype(np.float32)
  label, valid = rng.random((2, 24)) < 0.5
  dice[~valid] = np.nan
  expected = {
    'dice': dice[valid].mean(),
    'dice_positive': dice[valid & label].mean(),
    'loss': 2 * dice[valid].mean(),
  }
  for batch_size in (24, 8, 1):
    values = _collect(dice, label, valid, batch_size)
    assert values == pytest.approx(expected, rel=1e-6)


def test_dice_on_positives_is_undefined_without_positives():
  ones = np.ones(4, np.float32)
  values = _collect(ones, ones < 0, ones > 0, batch_size=4)
  assert values['dice'] == 1
  assert np.isnan(values['dice_positive'])


def test_a_loss_cannot_hide_a_metric():
  with pytest.raises(ValueError, match="'dice'"):
    dice_lib.SegmentationMetrics.with_losses(['bce', 'dice'])
