"""Films, masks and polygons beside DICOM files and run lengths."""

import cv2
import dicom_files
import numpy as np
import pytest
from drawn_masks import SHAPE, blob, polygon_of
from PIL import Image

from pnx_jax.formats import dicom, limits, picture, polygon, refusals, rle


def test_pictures_of_every_kind(tmp_path):
  gray = dicom_files.film(*SHAPE, seed=0)
  high = np.round(gray / 255 * 4000).astype(np.uint16) + 100
  Image.fromarray(gray).save(tmp_path / 'gray.png')
  Image.fromarray(np.stack([gray] * 3, -1)).save(tmp_path / 'rgb.png')
  opaque = np.full_like(gray, 255)
  Image.fromarray(np.stack([gray, gray, gray, opaque], -1)).save(
    tmp_path / 'rgba.png'
  )
  for name in ('gray', 'rgb', 'rgba'):
    pixels = picture.read(tmp_path / f'{name}.png')
    np.testing.assert_array_equal(pixels, gray, err_msg=name)
  Image.fromarray(gray).save(tmp_path / 'gray.jpg', quality=95)
  np.testing.assert_allclose(
    picture.read(tmp_path / 'gray.jpg'), gray.astype(int), atol=3
  )
  cv2.imwrite(str(tmp_path / 'high.png'), high)
  stated = picture.read(tmp_path / 'high.png', window=(100, 4100))
  np.testing.assert_allclose(stated, gray.astype(int), atol=1)
  low, top = np.percentile(high, [0.5, 99.5])
  expected = np.clip((high - low) / (top - low), 0, 1) * 255
  np.testing.assert_allclose(
    picture.read(tmp_path / 'high.png'), expected, atol=2
  )
  # Pillow drops the lower byte where there are channels.
  for colors in ([high] * 3, [*[high] * 3, np.full_like(high, 0xFFFF)]):
    cv2.imwrite(str(tmp_path / 'colors.png'), np.stack(colors, -1))
    np.testing.assert_array_equal(
      picture.read(tmp_path / 'colors.png', window=(100, 4100)), stated
    )
  exif = Image.Exif()
  exif[0x0112] = 6  # to be turned clockwise
  turned = np.ascontiguousarray(np.rot90(gray))
  Image.fromarray(turned).save(tmp_path / 'turned.png', exif=exif)
  np.testing.assert_array_equal(picture.read(tmp_path / 'turned.png'), gray)


def test_masks_of_every_kind(tmp_path):
  mask, path = blob(), tmp_path / 'mask.png'
  one = mask.astype(np.uint8)
  palette = Image.fromarray(one).convert('P')
  palette.putpalette([0, 0, 0, 90, 0, 0])
  for image in (Image.fromarray(mask), palette):
    image.save(path)
    np.testing.assert_array_equal(picture.read_mask(path), mask)
  deep = one.astype(np.uint16)
  for values in (deep, np.stack([deep, 0 * deep, deep], -1)):
    cv2.imwrite(str(path), values)
    np.testing.assert_array_equal(picture.read_mask(path), mask)
  # An overlay; then colors or opacity could be the mask.
  Image.fromarray(np.stack([one, one, one, 99 * one], -1)).save(path)
  np.testing.assert_array_equal(picture.read_mask(path), mask)
  for color in (0, 255):
    colors = [np.full_like(one, color)] * 3
    Image.fromarray(np.stack([*colors, 255 * one], -1)).save(path)
    with pytest.raises(refusals.UnusableFilm, match='transparent pixels'):
      picture.read_mask(path)


def test_a_picture_that_claims_too_much_is_refused(tmp_path, monkeypatch):
  Image.fromarray(dicom_files.film(*SHAPE, seed=0)).save(tmp_path / 'a.png')
  monkeypatch.setattr(limits, 'MOST_PIXELS', 1000)
  with pytest.raises(refusals.UnusableFilm, match='limit: 60 x 80 pixels'):
    picture.read(tmp_path / 'a.png')


def test_polygons_agree_with_brute_force():
  """Every pixel center against each edge, one at a time."""
  rng = np.random.default_rng(0)
  for number in range(30):
    rings = [rng.uniform(-5, 45, (rng.integers(3, 8), 2)) for _ in range(2)]
    if number % 2:
      rings = [np.round(ring) for ring in rings]
    filled = polygon.mask(rings, 32, 40)
    for y, x in np.ndindex(32, 40):
      assert filled[y, x] == inside(rings, x, y), (number, x, y)


def inside(rings, x, y):
  odd = False
  for ring in rings:
    for (x1, y1), (x2, y2) in zip(ring, np.roll(ring, -1, 0), strict=True):
      cross = (x2 - x1) * (y - y1) - (y2 - y1) * (x - x1)
      within = min(x1, x2) <= x <= max(x1, x2) and min(y1, y2) <= y <= max(
        y1, y2
      )
      if abs(cross) < 1e-9 and within:
        return True
      if (y1 <= y) != (y2 <= y):
        odd ^= x < x1 + (y - y1) * (x2 - x1) / (y2 - y1)
  return odd


def test_outlines_of_a_mask_give_it_back_with_its_holes():
  mask = blob()
  rings = [
    np.reshape([float(n) for n in ring.split()], (-1, 2))
    for ring in polygon_of(mask).split(';')
  ]
  assert len(rings) == 2
  np.testing.assert_array_equal(polygon.mask(rings, *SHAPE), mask)


def test_real_films_as_dicom_and_as_pictures(real_data, tmp_path):
  """The same films and masks, in three forms."""
  annotations = rle.read_csv(real_data / 'siim' / 'train-rle.csv')
  paths = sorted((real_data / 'siim' / 'dicom-images-train').rglob('*.dcm'))
  positive = [p for p in paths if annotations.get(p.stem)][:8]
  for path in dict.fromkeys([*positive, *paths[:8]]):
    pixels = dicom.read(path).pixels
    mask = rle.union(annotations.get(path.stem, []), *pixels.shape)
    Image.fromarray(pixels).save(tmp_path / f'{path.stem}.png')
    Image.fromarray(pixels).save(tmp_path / f'{path.stem}.jpg', quality=95)
    back = picture.read(tmp_path / f'{path.stem}.png')
    np.testing.assert_array_equal(back, pixels)
    lossy = picture.read(tmp_path / f'{path.stem}.jpg').astype(int)
    assert np.abs(lossy - pixels).mean() < 1
    Image.fromarray(mask).save(tmp_path / 'mask.png')
    np.testing.assert_array_equal(
      picture.read_mask(tmp_path / 'mask.png'), mask
    )
    if mask.any():
      rings = [
        np.reshape([float(n) for n in ring.split()], (-1, 2))
        for ring in polygon_of(mask).split(';')
        if len(ring.split()) >= 6
      ]
      drawn = polygon.mask(rings, *mask.shape)
      both = np.count_nonzero(drawn & mask)
      assert 2 * both / (drawn.sum() + mask.sum()) >= 0.99
