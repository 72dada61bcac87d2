"""All metrics of a table of images against scikit-learn and plain loops."""

import numpy as np
import pytest
import sklearn.metrics

from pnx_jax.metrics import bootstrap, summary
from pnx_jax.metrics.curves import curve
from pnx_jax.metrics.dice import dice


def _images(num_images=60, seed=0, prevalence=0.3):
  rng = np.random.default_rng(seed)
  label = rng.random(num_images) < prevalence
  truth = np.where(label, rng.integers(10, 900, num_images), 0)
  predicted = rng.integers(10, 900, num_images) * (rng.random(num_images) < 0.5)
  both = (np.minimum(truth, predicted) * rng.random(num_images)).astype(int)
  return summary.Images(
    label=label,
    probability=rng.integers(0, 12, num_images) / 12,  # with ties
    dice=dice(both, predicted, truth),
    predicted=predicted > 0,
    truth_area=truth,
    predicted_area=predicted,
    intersection=both,
    patient=rng.integers(0, num_images // 3, num_images),
  )


def _expected(images):
  positive = images.label
  union = images.truth_area + images.predicted_area - images.intersection
  iou = [
    both / whole if whole else 1.0
    for both, whole in zip(images.intersection, union, strict=True)
  ]
  areas = images.truth_area.sum() + images.predicted_area.sum()
  return {
    'dice': images.dice.mean(),
    'dice_positive': images.dice[positive].mean(),
    'all_empty_dice': 1 - positive.mean(),
    'dice_gain': images.dice.mean() - 1 + positive.mean(),
    'dice_pooled': 2 * images.intersection.sum() / areas,
    'iou': np.mean(iou),
    'iou_positive': np.mean(np.array(iou)[positive]),
    'sensitivity': (images.predicted_area[positive] > 0).mean(),
    'specificity': (images.predicted_area[~positive] == 0).mean(),
    'auc': sklearn.metrics.roc_auc_score(positive, images.probability),
    'average_precision': sklearn.metrics.average_precision_score(
      positive, images.probability
    ),
    'brier': sklearn.metrics.brier_score_loss(positive, images.probability),
  }


def test_every_metric_equals_its_definition():
  images = _images()
  values = summary.compute(images)
  assert {name: value[0] for name, value in values.items()} == pytest.approx(
    _expected(images), rel=1e-12
  )


def test_metrics_do_not_depend_on_the_order_of_images():
  images = _images()
  shuffled = images[np.random.default_rng(1).permutation(len(images))]
  values, again = summary.compute(images), summary.compute(shuffled)
  for name, value in values.items():
    assert value == pytest.approx(again[name], rel=1e-13), name


def test_a_weight_is_a_repetition():
  images = _images(30)
  weights = np.random.default_rng(2).integers(0, 4, (5, 30)).astype(float)
  values = summary.compute(images, weights)
  for row, counts in enumerate(weights.astype(int)):
    repeated = images[np.repeat(np.arange(30), counts)]
    for name, expected in _expected(repeated).items():
      assert values[name][row] == pytest.approx(expected, rel=1e-12), name


def test_undefined_metrics_are_nan():
  negative = summary.compute(_images(prevalence=-1))
  for name in ('dice_positive', 'iou_positive', 'sensitivity', 'auc'):
    assert np.isnan(negative[name][0]), name
  assert np.isnan(negative['average_precision'][0])
  assert negative['all_empty_dice'][0] == 1
  positive = summary.compute(_images(prevalence=2))
  assert np.isnan(positive['specificity'][0])
  assert np.isnan(positive['auc'][0])


def test_large_bootstraps_are_computed_in_parts(monkeypatch):
  images = _images(20)
  weights = bootstrap.cluster_weights(images.patient, replicates=7)
  whole = summary.compute(images, weights)
  monkeypatch.setattr(summary, '_WEIGHTED_IMAGES', 45)
  parts = summary.compute(images, weights)
  for name in whole:
    np.testing.assert_allclose(parts[name], whole[name], rtol=1e-12)


def test_curves_equal_scikit_learn():
  images = _images(200)
  ours = curve(images.probability, images.label)
  false_rate, true_rate, thresholds = sklearn.metrics.roc_curve(
    images.label, images.probability, drop_intermediate=False
  )
  np.testing.assert_allclose(ours.sensitivity, true_rate[1:], rtol=1e-12)
  np.testing.assert_allclose(1 - ours.specificity, false_rate[1:], atol=1e-12)
  np.testing.assert_array_equal(ours.thresholds, thresholds[1:])
  precision, recall, _ = sklearn.metrics.precision_recall_curve(
    images.label, images.probability
  )
  np.testing.assert_allclose(ours.precision, precision[-2::-1], rtol=1e-12)
  np.testing.assert_allclose(ours.sensitivity, recall[-2::-1], rtol=1e-12)
