import numpy as np
import pytest

from pnx_jax.formats import letterbox


def test_a_square_film_of_that_size_is_untouched():
  image = np.arange(64, dtype=np.uint8).reshape(8, 8)
  assert letterbox.letterbox(image, 8) is image
  np.testing.assert_array_equal(letterbox.unletterbox(image, 8, 8), image)


def test_halving_averages_blocks():
  image = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
  blocks = image.reshape(4, 2, 4, 2).mean(axis=(1, 3))
  small = letterbox.letterbox(image, 4)
  assert np.abs(small - blocks).max() <= 0.5
  mask = image > 127
  share = mask.reshape(4, 2, 4, 2).mean(axis=(1, 3))
  np.testing.assert_array_equal(letterbox.letterbox(mask, 4), share >= 0.5)


@pytest.mark.parametrize('order', ['C', 'F'])
@pytest.mark.parametrize('aspect', [0.2, 1.0])
def test_no_mask_is_too_small_to_stay(order, aspect):
  mask = np.zeros((300, 150), bool, order)
  assert not letterbox.letterbox(mask, 32, pixel_aspect=aspect).any()
  mask[200, 70:74] = True
  ((row, column),) = np.argwhere(
    letterbox.letterbox(mask, 32, pixel_aspect=aspect)
  )
  inner = letterbox.place(300, 150, 32, pixel_aspect=aspect)
  assert row == inner.top + 200 * inner.height // 300
  assert column == inner.left + 72 * inner.width // 150


@pytest.mark.parametrize(
  ('height', 'width', 'aspect', 'expected'),
  [
    (20, 10, 1.0, (0, 4, 16, 8)),
    (10, 20, 1.0, (4, 0, 8, 16)),
    (10, 10, 2.0, (0, 4, 16, 8)),
    (20, 10, 0.5, (0, 0, 16, 16)),
    (1, 1000, 1.0, (7, 0, 1, 16)),
  ],
)
def test_place(height, width, aspect, expected):
  assert letterbox.place(height, width, 16, pixel_aspect=aspect) == expected


@pytest.mark.parametrize('dtype', [bool, np.uint8, np.float32])
@pytest.mark.parametrize(
  ('height', 'width', 'aspect'), [(40, 24, 1.0), (25, 31, 1.0), (30, 20, 1.5)]
)
def test_a_mask_returns_to_its_own_pixels(dtype, height, width, aspect):
  mask = np.zeros((height, width), bool)
  mask[height // 4 : height // 2, width // 3 : width // 3 * 2] = True
  value = mask.astype(dtype) * dtype(1 if dtype != np.uint8 else 255)
  square = letterbox.letterbox(value, 64, pixel_aspect=aspect)
  assert square.shape == (64, 64)
  assert square.dtype == dtype
  back = letterbox.unletterbox(square, height, width, pixel_aspect=aspect)
  assert back.shape == mask.shape
  threshold = {bool: 0, np.uint8: 127, np.float32: 0.5}[dtype]
  wrong = (back > threshold) != mask
  assert wrong.mean() < 0.03
