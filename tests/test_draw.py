"""Drawing against masks, boxes and pixels worked out by hand."""

import numpy as np
import pytest
from scipy import ndimage

from pnx_jax import draw


@pytest.fixture
def disc():
  rows, columns = np.mgrid[:100, :120]
  return (rows - 40) ** 2 + (columns - 70) ** 2 < 20**2


def changed(before, after):
  return (before != after).any(axis=-1)


def test_picture_is_gray_and_keeps_the_shape_of_the_film():
  image = np.arange(200, dtype=np.uint8).reshape(10, 20)
  assert np.array_equal(draw.picture(image), np.stack([image] * 3, -1))
  assert draw.picture(image, 40).shape == (20, 40, 3)
  assert draw.picture(image.T.copy(), 5).shape == (5, 2, 3)


def test_outline_touches_the_rim_only(disc):
  before = np.full((100, 120, 3), 90, np.uint8)
  marks = changed(before, draw.outline(before, disc))
  near = ndimage.binary_dilation(disc, iterations=2)
  far_inside = ndimage.binary_erosion(disc, iterations=3)
  rim = disc & ~ndimage.binary_erosion(disc)
  assert not marks[~near].any()
  assert not marks[far_inside].any()
  assert marks[rim].all()
  assert (before == 90).all()  # the argument is untouched


def test_outline_of_a_smaller_mask_is_scaled(disc):
  before = np.zeros((200, 240, 3), np.uint8)
  large = np.kron(disc, np.ones((2, 2))) > 0
  marks = changed(before, draw.outline(before, disc, fill=1.0))
  assert np.mean(marks == large) > 0.985


def test_fill_mixes_the_color_in(disc):
  before = np.full((100, 120, 3), 100, np.uint8)
  after = draw.outline(before, disc, color=(200, 0, 100), fill=0.5)
  assert after[40, 70].tolist() == [150, 50, 100]


def test_nothing_to_draw_changes_nothing():
  before = np.full((50, 50, 3), 7, np.uint8)
  assert not changed(before, draw.outline(before, np.zeros((50, 50)))).any()
  assert not changed(before, draw.box(before, np.zeros((0, 5), int))).any()


def test_box_surrounds_its_region():
  before = np.zeros((100, 100, 3), np.uint8)
  marks = changed(before, draw.box(before, [[10, 15, 20, 25, 300]], scale=2.0))
  rows, columns = np.nonzero(marks)
  assert not marks[30:80, 20:60].any()
  assert 25 <= rows.min() < 30 and 80 <= rows.max() < 85
  assert 15 <= columns.min() < 20 and 60 <= columns.max() < 65


@pytest.mark.parametrize('at', [(0, 0), (190, 90), (100, 40)])
def test_text_is_legible_wherever_it_is_put(at):
  before = np.full((100, 200, 3), 90, np.uint8)
  after = draw.text(before, '8,630 px', at=at, size=14)
  marks = changed(before, after)
  assert (after[marks] == draw.BACKGROUND).all(-1).mean() > 0.3
  # All of the words is there: as many bright pixels as in the middle.
  middle = draw.text(before, '8,630 px', at=(60, 40), size=14)
  assert (after > 128).sum() == (middle > 128).sum() > 300


def test_caption_adds_a_bar_and_cuts_long_lines():
  before = np.full((50, 120, 3), 7, np.uint8)
  after = draw.caption(before, ['short', 'w' * 200], size=12)
  assert np.array_equal(after[:50], before)
  assert after.shape[0] > 50 + 2 * 12 and after.shape[1] == 120
  assert (after[50:, -6:] == draw.BACKGROUND).all()


def test_caption_without_lines_still_is_a_picture():
  before = np.zeros((10, 10, 3), np.uint8)
  assert draw.caption(before, []).shape[1:] == (10, 3)


def test_panel_shows_three_pictures_in_two_colors(disc):
  image = np.full(disc.shape, 80, np.uint8)
  panel = draw.panel(
    image, disc, np.roll(disc, 9, 1), text='Dice 0.7', size=240
  )
  assert panel.dtype == np.uint8 and panel.shape[1] == 3 * 240

  def has(part, color):
    return (np.abs(part[:200] - np.array(color)).max(-1) < 40).any()

  plain, truth, prediction = np.split(panel, 3, axis=1)
  assert not has(plain, draw.TRUTH) and not has(plain, draw.PREDICTION)
  assert has(truth, draw.TRUTH) and not has(truth, draw.PREDICTION)
  assert has(prediction, draw.PREDICTION) and not has(prediction, draw.TRUTH)
  assert draw.panel(image, disc, size=240).shape[1] == 2 * 240


def test_contact_sheet_holds_every_picture():
  pictures = [np.full((10 + n, 20, 3), 100 + n, np.uint8) for n in range(5)]
  sheet = draw.contact_sheet(pictures, columns=2, gap=3)
  for n in range(5):
    assert (sheet == 100 + n).all(-1).sum() == (10 + n) * 20
  assert sheet.shape == (3 + 14 + 16 + 17, 3 + 2 * 23, 3)
