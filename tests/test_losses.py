import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from pnx_jax.training import losses, steps

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(scale=2, size=(3, 6, 8, 1)).astype(np.float32)
LABEL = RANDOM.random((3, 6, 8, 1)) < 0.3
LABEL[1] = False  # No pneumothorax.
LABEL[2] = True
WEIGHTS = {'bce': 3.0, 'dice': 1.0, 'focal': 4.0, 'presence': 0.5}


def numpy_bce(logits, label):
  probs = scipy.special.expit(logits.astype(np.float64))
  return -np.log(np.where(label, probs, 1 - probs)).mean()


def numpy_focal(logits, label):
  probs = scipy.special.expit(logits.astype(np.float64))
  right = np.where(label, probs, 1 - probs)
  return (-((1 - right) ** 2) * np.log(right)).mean()


def numpy_dice(logits, label):
  probs = scipy.special.expit(logits.astype(np.float64))
  return 1 - (2 * probs[label].sum() + 1) / (probs.sum() + label.sum() + 1)


def numpy_tversky(logits, label):
  probs = scipy.special.expit(logits.astype(np.float64))
  both = probs[label].sum()
  false_positive, missed = probs[~label].sum(), (1 - probs[label]).sum()
  return 1 - (both + 1) / (both + 0.3 * false_positive + 0.7 * missed + 1)


def jaccard_loss(wrong, label):
  """1 - Jaccard when exactly the pixels in `wrong` are misclassified."""
  intersection = (label & ~wrong).sum()
  union = (label | wrong).sum()
  return 1 - intersection / union if union else 0.0


def numpy_lovasz(logits, label):
  """The Lovasz extension by its definition: a walk through nested sets."""
  total = 0.0
  for sign, truth in ((1, label), (-1, ~label)):
    truth = truth.ravel()
    errors = 1 - sign * logits.ravel() * np.where(truth, 1.0, -1.0)
    wrong, before = np.zeros(truth.shape, bool), 0.0
    for pixel in np.argsort(-errors, kind='stable'):
      wrong[pixel] = True
      now = jaccard_loss(wrong, truth)
      total += max(errors[pixel], 0) * (now - before)
      before = now
  return total / 2


@pytest.mark.parametrize(
  ('name', 'reference'),
  [
    ('bce', numpy_bce),
    ('focal', numpy_focal),
    ('dice', numpy_dice),
    ('tversky', numpy_tversky),
    ('lovasz', numpy_lovasz),
  ],
)
def test_loss_equals_its_numpy_form(name, reference):
  ours = losses.MASK_LOSSES[name](LOGITS, jnp.asarray(LABEL, jnp.float32))
  expected = [
    reference(logits, label)
    for logits, label in zip(LOGITS, LABEL, strict=True)
  ]
  assert ours.shape == (3,)
  np.testing.assert_allclose(ours, expected, rtol=2e-5)


def test_batch_dice_is_that_of_one_image_made_of_all():
  ours = losses.batch_dice(LOGITS, jnp.asarray(LABEL, jnp.float32))
  np.testing.assert_allclose(ours, [numpy_dice(LOGITS, LABEL)] * 3, rtol=2e-5)


@pytest.mark.parametrize('name', losses.MASK_LOSSES)
def test_gradient_is_right_and_never_dies_on_an_empty_mask(name):
  loss = losses.MASK_LOSSES[name]
  label = jnp.asarray(LABEL[:2, :2, :4], jnp.float32)
  logits = jnp.asarray(LOGITS[:2, :2, :4])
  gradient = jax.grad(lambda x: loss(x, label).sum())(logits)
  direction = RANDOM.normal(size=logits.shape).astype(np.float32)
  step = 1e-2
  numeric = (
    loss(logits + step * direction, label).sum()
    - loss(logits - step * direction, label).sum()
  ) / (2 * step)
  np.testing.assert_allclose(
    (gradient * direction).sum(), numeric, rtol=2e-2, atol=1e-4
  )
  # The second image is empty; lower logits must be better everywhere the
  # network still sees something.
  assert (np.asarray(gradient[1]) >= 0).all()
  assert (np.asarray(gradient[1]) > 0).any()


def test_a_perfect_prediction_costs_nothing():
  label = jnp.asarray(LABEL, jnp.float32)
  for loss in losses.MASK_LOSSES.values():
    np.testing.assert_allclose(loss(60 * (2 * label - 1), label), 0, atol=1e-5)


def test_weighted_sum_and_what_is_not_asked_for():
  outputs = {
    'mask_logits': jnp.asarray(LOGITS),
    'presence_logit': jnp.array([0.3, -1.0, 2.0]),
  }
  weights = {**WEIGHTS, 'lovasz': 0.0}
  parts = losses.compute(outputs, jnp.asarray(LABEL), weights=weights)
  assert (
    set(parts)
    == set(losses.names(weights))
    == {
      'loss',
      *(f'{name}_loss' for name in WEIGHTS),
    }
  )
  expected = sum(
    WEIGHTS[name] * np.asarray(parts[f'{name}_loss']) for name in WEIGHTS
  )
  np.testing.assert_allclose(parts['loss'], expected, rtol=1e-6)
  probs = scipy.special.expit([0.3, -1.0, 2.0])
  np.testing.assert_allclose(
    parts['presence_loss'],
    -np.log([probs[0], 1 - probs[1], probs[2]]),
    rtol=1e-5,
  )


def test_deep_supervision_sees_the_label_at_every_stride():
  label = np.zeros((2, 8, 8, 1), bool)
  label[0, 5, 6] = True
  deep = [jnp.full((2, 4, 4, 1), -9.0), jnp.full((2, 2, 2, 1), -9.0)]
  deep[0] = deep[0].at[0, 2, 3].set(9.0)
  deep[1] = deep[1].at[0, 1, 1].set(9.0)
  outputs = {
    'mask_logits': jnp.full((2, 8, 8, 1), -9.0),
    'presence_logit': jnp.zeros(2),
    'deep_logits': deep,
  }
  weights = {'bce': 2.0, 'deep': 1.0}
  parts = losses.compute(outputs, jnp.asarray(label), weights=weights)
  np.testing.assert_allclose(parts['deep_loss'], 0, atol=1e-3)
  moved = {**outputs, 'deep_logits': [-deep[0], deep[1]]}
  parts = losses.compute(moved, jnp.asarray(label), weights=weights)
  assert (np.asarray(parts['deep_loss']) > 5).all()


class _Fixed(nn.Module):
  """Logits that are the image's intensities, and a head that says nothing."""

  @nn.compact
  def __call__(self, image, train):
    return {'mask_logits': image, 'presence_logit': jnp.zeros(len(image))}


@pytest.mark.parametrize('head', [False, True])
def test_an_untrained_presence_head_is_not_asked(head):
  image = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
  batch = {
    'image': jnp.asarray(image),
    'label': jnp.asarray(image > 200),
    'valid': jnp.ones(3, bool),
    'index': jnp.arange(3),
  }
  weights = {'bce': 1.0} | ({'presence': 1.0} if head else {})
  found = steps.eval_step({}, batch, model=_Fixed(), loss_weights=weights)
  surest = scipy.special.expit(image.max(axis=(1, 2, 3)) / 255)
  wanted = np.full(3, 0.5) if head else surest
  np.testing.assert_allclose(found['probability'], wanted, rtol=1e-6)
