import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pnx_jax.errors import UserError
from pnx_jax.training import optim

PARAMS = {
  'encoder': {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)},
  'decoder': {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)},
}
GRADS = jax.tree.map(lambda x: 0.5 * x, PARAMS)


def run(optimizer, steps, grads=GRADS):
  params, state = PARAMS, optimizer.init(PARAMS)
  update = jax.jit(optimizer.update)
  for _ in range(steps):
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
  return params


def test_learning_rate_warms_up_and_follows_a_cosine_to_zero():
  rate = optim.learning_rate(peak=2.0, warmup_steps=4, total_steps=12)
  values = np.array([rate(step) for step in range(13)])
  np.testing.assert_allclose(values[:5], [0, 0.5, 1, 1.5, 2])
  cosine = 1 + np.cos(np.pi * np.arange(9) / 8)
  np.testing.assert_allclose(values[4:], cosine, atol=1e-6)


def test_a_longer_run_is_the_longer_schedule_at_every_step():
  optimizer = optim.create(
    name='sgd',
    schedule=optim.learning_rate(peak=1.0, warmup_steps=0, total_steps=10),
  )
  state = optimizer.init(PARAMS)
  _, state = optimizer.update(GRADS, state, PARAMS)
  longer = optim.learning_rate(peak=1.0, warmup_steps=0, total_steps=40)
  extended = optim.create(name='sgd', schedule=longer)
  fresh, _ = extended.update(GRADS, extended.init(PARAMS), PARAMS)
  resumed, _ = extended.update(GRADS, state, PARAMS)
  # Momentum 0.9 with Nesterov: the second update is 1 + 0.9 + 0.81 over
  # 1 + 0.9 times the first at the same rate.
  ratio = resumed['decoder']['bias'] / fresh['decoder']['bias']
  expected = longer(1) / longer(0) * 2.71 / 1.9
  np.testing.assert_allclose(ratio, expected, rtol=1e-5)


def test_weight_decay_spares_biases():
  optimizer = optim.create(
    name='adamw', schedule=lambda _: 0.1, weight_decay=0.5
  )
  zero = jax.tree.map(jnp.zeros_like, GRADS)
  params = run(optimizer, 1, zero)
  np.testing.assert_allclose(params['decoder']['kernel'], 0.95)
  np.testing.assert_allclose(params['decoder']['bias'], 1.0)


def test_encoder_is_frozen_then_moves_by_its_factor():
  def make(**kwargs):
    return optim.create(name='sgd', schedule=lambda _: 0.1, **kwargs)

  held = make(encoder_lr_factor=0.1, freeze_encoder_steps=2)
  frozen, moved, free = run(held, 2), run(held, 3), run(make(), 3)
  np.testing.assert_array_equal(frozen['encoder']['kernel'], 1.0)
  assert (np.asarray(moved['encoder']['kernel']) < 1).all()
  np.testing.assert_allclose(moved['decoder']['bias'], free['decoder']['bias'])
  # It begins as at the first step: momentum kept nothing of the freeze.
  first = run(make(), 1)['encoder']['bias'] - 1
  np.testing.assert_allclose(
    moved['encoder']['bias'] - 1, 0.1 * first, rtol=1e-5
  )


def test_accumulated_batches_equal_one_large_batch():
  make = {'name': 'adamw', 'schedule': lambda _: 0.1, 'clip_norm': 0.3}
  halves = [optax.tree.scale(share, GRADS) for share in (0.5, 1.5)]
  optimizer = optim.create(**make, accumulate_steps=2)
  params, state = PARAMS, optimizer.init(PARAMS)
  for grads in halves:
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  whole = run(optim.create(**make), 1)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, whole
  )


def test_clipping_bounds_the_norm():
  optimizer = optim.create(name='sgd', schedule=lambda _: 1.0, clip_norm=0.1)
  updates, _ = optimizer.update(GRADS, optimizer.init(PARAMS), PARAMS)
  # The first Nesterov update is 1.9 times the gradient.
  np.testing.assert_allclose(optax.tree.norm(updates), 0.19, rtol=1e-5)


def test_a_frozen_encoder_takes_no_part_in_clipping():
  optimizer = optim.create(
    name='sgd',
    schedule=lambda _: 1.0,
    clip_norm=0.1,
    freeze_encoder_steps=3,
  )
  steep = GRADS | {'encoder': optax.tree.scale(100.0, GRADS['encoder'])}
  np.testing.assert_array_equal(
    run(optimizer, 2, steep)['decoder']['kernel'],
    run(optimizer, 2)['decoder']['kernel'],
  )


def test_unknown_name_suggests_the_nearest():
  with pytest.raises(UserError, match="'adamw'"):
    optim.create(name='adam', schedule=lambda _: 0.1)
