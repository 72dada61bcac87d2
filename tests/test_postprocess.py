"""Masks from probabilities, against the rule's definition and scipy."""

import dataclasses
import types

import numpy as np
import pytest
from scipy import ndimage

from pnx_jax.errors import UserError
from pnx_jax.formats import letterbox
from pnx_jax.metrics.calibration import OperatingPoint
from pnx_jax.metrics.rules import Rule
from pnx_jax.prediction.network import SIZE
from pnx_jax.prediction.postprocess import Postprocess


def _probabilities():
  rng = np.random.default_rng(0)
  coarse = rng.random((32, 32)).astype(np.float32)
  return ndimage.zoom(coarse, SIZE / 32, order=1)


def test_the_mask_is_what_the_rule_says():
  probs = _probabilities()
  above = int((probs > np.float32(0.9)).sum())
  mask = Postprocess(Rule(0.9, above - 1, 0.6)).mask(probs, 0.0)
  np.testing.assert_array_equal(mask, probs > np.float32(0.6))
  assert not Postprocess(Rule(0.9, above, 0.6)).mask(probs, 1.0).any()
  gated = Postprocess(Rule(0.9, 0, 0.6, gate=0.5))
  assert gated.mask(probs, 0.51).any() and not gated.mask(probs, 0.5).any()


def test_a_film_of_the_reference_size_gets_the_mask_itself():
  probs = _probabilities()
  post = Postprocess(Rule(0.9, 0, 0.6), min_component=500, fill_holes=True)
  film = types.SimpleNamespace(height=SIZE, width=SIZE, pixel_aspect=1.0)
  np.testing.assert_array_equal(
    post.film_mask(probs, 1.0, film), post.mask(probs, 1.0)
  )


def test_a_film_of_another_shape_gets_its_mask_where_it_lies():
  truth = np.zeros((600, 1500), bool)
  truth[100:300, 900:1400] = True
  probs = letterbox.letterbox(truth, SIZE).astype(np.float32)
  film = types.SimpleNamespace(height=600, width=1500, pixel_aspect=1.0)
  mask = Postprocess().film_mask(probs, 1.0, film)
  assert mask.shape == truth.shape
  overlap = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
  assert overlap > 0.98
  # Beside the film there is nothing to find, however sure the network is.
  beside = 1 - letterbox.letterbox(np.ones_like(truth), SIZE)
  assert beside.any() and not Postprocess().film_mask(beside, 1.0, film).any()
  nothing = Postprocess().film_mask(0 * probs, 1.0, film)
  assert nothing.shape == truth.shape and not nothing.any()


def test_cleaning_equals_scipy():
  probs = _probabilities()
  post = Postprocess(Rule(0.5, 0, 0.7), min_component=900, fill_holes=True)
  filled = ndimage.binary_fill_holes(probs > np.float32(0.7))
  regions, count = ndimage.label(filled, np.ones((3, 3)))
  sizes = ndimage.sum(filled, regions, np.arange(count + 1))
  assert (sizes[1:] < 900).any() and (sizes[1:] >= 900).any()
  expected = filled & (sizes >= 900)[regions]
  np.testing.assert_array_equal(post.mask(probs, 1.0), expected)


def test_what_is_saved_loads_equal(tmp_path):
  point = OperatingPoint('specificity 90%', 0.4, 0.8, 0.91)
  post = Postprocess(Rule(0.7, 600, 0.3, 0.2), 1.5, (point,), 40, True)
  post.save(tmp_path / 'postprocess.json')
  assert Postprocess.load(tmp_path / 'postprocess.json') == post
  assert not dataclasses.replace(post, min_component=0, fill_holes=False).cleans


def test_missing_and_damaged_files_are_one_line(tmp_path):
  with pytest.raises(UserError, match=r'--mode=eval .* writes it'):
    Postprocess.load(tmp_path / 'absent.json')
  for text in ('{', '{"rule": {"top": 0.5}}', '[]'):
    (tmp_path / 'bad.json').write_text(text)
    with pytest.raises(UserError, match='damaged'):
      Postprocess.load(tmp_path / 'bad.json')
