"""Kept masks against those of the probabilities themselves."""

import types

import numpy as np
import pytest

from pnx_jax.errors import UserError
from pnx_jax.evaluation import kept_masks
from pnx_jax.formats import letterbox
from pnx_jax.metrics.rules import Rule
from pnx_jax.prediction.network import SIZE
from pnx_jax.prediction.postprocess import Postprocess


def _film(height, width, pixel_aspect=1.0):
  return types.SimpleNamespace(
    height=height, width=width, pixel_aspect=pixel_aspect
  )


@pytest.fixture(scope='module')
def films():
  """A film of the square's size, one of another, and their probabilities."""
  rng = np.random.default_rng(0)
  coarse = rng.random((2, 16, 16), np.float32)
  probs = np.stack([letterbox.resized(each, SIZE, SIZE) for each in coarse])
  return [_film(SIZE, SIZE), _film(500, 700, 1.1)], probs


def test_masks_of_every_rule_are_those_of_the_probabilities(films):
  records, probs = films
  kept = kept_masks.KeptMasks(lowest=0.1)
  kept.add(records, probs)
  for index, record in enumerate(records):
    inside = letterbox.blanked(
      probs[index],
      record.height,
      record.width,
      pixel_aspect=record.pixel_aspect,
    )
    for bottom in (0.1, 0.5, 0.7, 0.99):
      post = Postprocess(Rule(bottom, 0, bottom))
      level = kept_masks.level(bottom)
      np.testing.assert_array_equal(
        kept.levels(index) >= level, post.mask(inside, 1.0)
      )
      np.testing.assert_array_equal(
        kept.film_levels(index) >= level,
        post.film_mask(probs[index], 1.0, record),
      )
  kept.close()


def test_reading_does_not_disturb_adding(films):
  records, probs = films
  kept = kept_masks.KeptMasks(lowest=0.5)
  kept.add(records[:1], probs[:1])
  first = kept.levels(0)
  kept.add(records[1:], probs[1:])
  assert len(kept) == 2
  np.testing.assert_array_equal(kept.levels(0), first)
  assert kept.levels(1).shape == (SIZE, SIZE)
  assert kept.film_levels(1).shape == (500, 700)
  # Uncompressed maps would take a byte a pixel.
  assert kept.num_bytes < 0.1 * 2 * SIZE**2
  kept.close()


def test_thresholds_without_areas_are_errors():
  with pytest.raises(UserError, match='nearest is'):
    kept_masks.KeptMasks(lowest=0.31)


def test_the_file_is_closed_with_its_block():
  with kept_masks.KeptMasks(lowest=0.5) as kept:
    assert kept.num_bytes == 0
  with pytest.raises(ValueError, match='closed'):
    _ = kept.num_bytes
