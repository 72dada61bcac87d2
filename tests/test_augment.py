import dataclasses
import functools

import augment_reference
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pnx_jax.input import pipeline, preview
from pnx_jax.input.augment import Augmentation, bilinear

FULL = Augmentation(
  flip_probability=0.5,
  affine_probability=1.0,
  shift=0.1,
  scale=0.15,
  rotate=20,
  distortion_probability=1.0,
  displacement=0.05,
  intensity_probability=0.5,
  intensity_strength=0.2,
  noise_deviation=0.02,
  noise_probability=0.5,
)


def film(batch=4, side=32):
  """A smooth picture with a disc, and the disc as its label."""
  y, x = np.mgrid[:side, :side] / side
  label = (x - 0.6) ** 2 + (y - 0.4) ** 2 < 0.05
  image = 0.2 + 0.6 * label
  image = np.broadcast_to(image, (batch, side, side))[..., None]
  label = np.broadcast_to(label, (batch, side, side))[..., None]
  return jnp.asarray(image, jnp.float32), jnp.asarray(label)


def test_bilinear_equals_opencv():
  random = np.random.default_rng(0)
  image = random.random((9, 12, 1)).astype(np.float32)
  label = random.random((9, 12, 1)) < 0.5
  points = random.uniform(-2, 13, (7, 5, 2)).astype(np.float32)

  def remapped(values):
    return cv2.remap(
      values.astype(np.float32),
      points[..., 1],
      points[..., 0],
      cv2.INTER_LINEAR,
      borderMode=cv2.BORDER_CONSTANT,
    )

  found, found_label = bilinear(
    jnp.asarray(image), jnp.asarray(label), points[..., 0], points[..., 1]
  )
  # OpenCV rounds positions to 1/32 of a pixel.
  np.testing.assert_allclose(found[..., 0], remapped(image), atol=0.04)
  share = remapped(label)
  sure = np.abs(share - 0.5) > 0.04
  np.testing.assert_array_equal(found_label[..., 0][sure], share[sure] > 0.5)
  assert sure.mean() > 0.8


@pytest.mark.parametrize('labels', [1, 2])
def test_images_of_256_levels_are_read_exactly(labels):
  image = jnp.arange(256, dtype=jnp.float32).reshape(16, 16, 1) / 255
  label = jnp.concatenate([image > 0.5, image < 0.3][:labels], axis=-1)
  rows, columns = np.mgrid[:16, :16].astype(np.float32)
  found, found_label = bilinear(image, label, rows, columns)
  np.testing.assert_allclose(found, image, rtol=1e-6)
  np.testing.assert_array_equal(found_label, label)


@pytest.mark.parametrize('crop_size', [0, 24])
def test_equals_the_reference_for_every_key(crop_size):
  augment = dataclasses.replace(FULL, crop_size=crop_size)
  reference = augment_reference.Augmentation(**dataclasses.asdict(augment))
  image, label = film(batch=32, side=40)
  (found, found_label), (expected, expected_label) = (
    jax.jit(form)(jax.random.key(5), image, label)
    for form in (augment, reference)
  )
  np.testing.assert_allclose(found, expected, atol=1e-3)
  assert np.mean(found_label != expected_label) < 1e-3


def grids(augment, number):
  """Many grids of ours and of the reference, with other keys, and the keys."""
  reference = augment_reference.Augmentation(**dataclasses.asdict(augment))
  ours, theirs = (jax.random.split(jax.random.key(i), number) for i in (0, 1))
  found = jax.jit(jax.vmap(functools.partial(augment.grid, side=8)))(ours)
  expected = jax.jit(jax.vmap(functools.partial(reference.grid, side=8)))(
    theirs
  )
  return (np.stack(found, -1), ours), (np.asarray(expected), theirs)


def test_affine_transforms_have_the_moments_of_the_references():
  augment = dataclasses.replace(
    FULL, affine_probability=0.5, distortion_probability=0.0
  )
  (found, _), (expected, _) = grids(augment, 2000)
  for moment in (np.mean, np.std):
    np.testing.assert_allclose(
      moment(found, axis=0), moment(expected, axis=0), atol=0.02
    )


def test_each_kind_of_distortion_moves_points_as_the_reference_does():
  augment = Augmentation(distortion_probability=1.0, displacement=0.05)
  straight = np.stack(Augmentation().grid(jax.random.key(0), 8), -1)
  kinds = jax.vmap(augment_reference.kind_of_distortion)
  (found, found_kind), (expected, expected_kind) = (
    (grid - straight, kinds(keys)) for grid, keys in grids(augment, 4000)
  )
  for kind in range(3):
    ours, theirs = found[found_kind == kind], expected[expected_kind == kind]
    assert len(ours) > 1000
    np.testing.assert_allclose(ours.std(), theirs.std(), rtol=0.05)
    np.testing.assert_allclose(
      ours.std(axis=0), theirs.std(axis=0), rtol=0.1, atol=1e-4
    )
    np.testing.assert_allclose(ours.mean(axis=0), 0, atol=0.003)


def test_nothing_asked_is_nothing_done():
  image, label = film()
  same_image, same_label = jax.jit(Augmentation())(
    jax.random.key(0), image, label
  )
  np.testing.assert_allclose(same_image, image, atol=1e-3)
  np.testing.assert_array_equal(same_label, label)


def test_flip_mirrors_left_and_right_only():
  image, label = film()
  flipped, flipped_label = jax.jit(Augmentation(flip_probability=1.0))(
    jax.random.key(0), image, label
  )
  np.testing.assert_allclose(flipped, image[:, :, ::-1], atol=1e-3)
  np.testing.assert_array_equal(flipped_label, label[:, :, ::-1])


def test_rotation_equals_opencv():
  image, label = film(batch=1, side=64)
  augment = Augmentation(affine_probability=1.0, rotate=25)
  key = jax.random.key(3)
  turned, _ = jax.jit(augment)(key, image, label)
  # The angle follows from where the picture's right end has gone.
  grid = augment.grid(jax.random.split(jax.random.split(key, 1)[0])[0], 64)
  dy, dx = (float(axis[32, 63] - axis[32, 0]) for axis in grid)
  angle = np.degrees(np.arctan2(dy, dx))
  assert 1 < abs(angle) <= 25
  matrix = cv2.getRotationMatrix2D((31.5, 31.5), float(angle), 1.0)
  expected = cv2.warpAffine(np.asarray(image[0, ..., 0]), matrix, (64, 64))
  assert np.abs(turned[0, ..., 0] - expected).mean() < 0.01


def test_image_and_label_move_together():
  image, label = film(batch=16, side=64)
  geometric = dataclasses.replace(
    FULL, intensity_probability=0.0, noise_probability=0.0
  )
  moved, moved_label = jax.jit(geometric)(jax.random.key(1), image, label)
  disagree = (np.asarray(moved) > 0.5) != np.asarray(moved_label)
  assert disagree.mean() < 0.005
  assert (np.asarray(moved_label) != np.asarray(label)).mean() > 0.02
  assert len({row.tobytes() for row in np.asarray(moved)}) == 16


def test_distortion_stays_within_its_displacement():
  augment = Augmentation(distortion_probability=1.0, displacement=0.05)
  straight = Augmentation()
  keys = jax.random.split(jax.random.key(0), 64)
  moved, still = (
    jax.vmap(lambda key, form=form: jnp.stack(form.grid(key, 32), -1))(keys)
    for form in (augment, straight)
  )
  inner = np.abs(np.asarray(moved - still))[:, 8:24, 8:24]
  assert 0.02 < inner.max() <= 0.065


def test_intensity_leaves_the_label_and_stays_in_range():
  image, label = film(batch=32)
  augment = Augmentation(
    intensity_probability=1.0,
    intensity_strength=0.3,
    noise_deviation=0.1,
    noise_probability=1.0,
  )
  changed, same = jax.jit(augment)(jax.random.key(2), image, label)
  np.testing.assert_array_equal(same, label)
  assert changed.min() >= 0 and changed.max() <= 1
  assert np.asarray(changed).mean(axis=(1, 2, 3)).std() > 0.02


def test_crop_is_a_window_of_the_input():
  side, crop = 32, 16
  ramp = np.arange(side * side, dtype=np.float32).reshape(1, side, side, 1)
  image = jnp.asarray(np.repeat(ramp / ramp.size, 8, axis=0))
  label = image > 0.5
  augment = Augmentation(crop_size=crop)
  out, out_label = jax.jit(augment)(jax.random.key(5), image, label)
  assert out.shape == out_label.shape == (8, crop, crop, 1)
  steps = np.diff(np.asarray(out) * ramp.size, axis=2)
  # 1024 levels are rounded to 15 bits.
  np.testing.assert_allclose(steps, 1, atol=0.04)
  assert len(np.unique(np.asarray(out)[:, 0, 0])) > 4


def test_the_key_alone_decides_on_the_pictures():
  image, label = film()
  run = jax.jit(FULL)
  first, second, other = (
    run(jax.random.key(seed), image, label) for seed in (7, 7, 8)
  )
  for drawn, same, different in zip(first, second, other, strict=True):
    np.testing.assert_array_equal(drawn, same)
    assert (drawn != different).any(axis=(1, 2, 3)).all()


def test_preview_shows_each_radiograph_beside_its_changes(dataset_dir):
  dataset = pipeline.Dataset(dataset_dir, ['fold0'])
  sheet = preview.sheet(
    dataset, Augmentation(flip_probability=1.0), rows=2, columns=3
  )
  # Two rows of three pictures of 200 and gaps of 8.
  assert sheet.shape == (2 * 208 + 8, 3 * 208 + 8, 3)
  tiles = [sheet[8:208, left : left + 200] for left in (8, 216, 424)]
  np.testing.assert_array_equal(tiles[1], tiles[2])
  mirrored = np.abs(tiles[0][:, ::-1].astype(int) - tiles[1])
  plain = np.abs(tiles[0].astype(int) - tiles[1])
  assert mirrored.mean() < plain.mean() / 2


def test_two_views_show_the_same_places_in_other_intensities():
  image, _ = film()
  geometry = dataclasses.replace(
    FULL, intensity_probability=0.0, noise_probability=0.0
  )
  one, other = geometry.two_views(jax.random.key(3), image)
  np.testing.assert_array_equal(one, other)
  assert not np.array_equal(one, image)
  changed, again = FULL.two_views(jax.random.key(3), image)
  assert not np.array_equal(changed, again)
  # Brightness, contrast and gamma keep the order of places; noise is small.
  for view in (changed, again):
    for number in range(len(image)):
      correlation = np.corrcoef(view[number].ravel(), one[number].ravel())
      assert correlation[0, 1] > 0.8


def test_a_second_label_is_read_by_the_same_gather():
  image, label = film()
  image = jnp.round(image * 255) / 255
  both = jnp.concatenate([label, label[:, ::-1]], axis=-1)
  cropped = jax.jit(
    functools.partial(
      dataclasses.replace(FULL, crop_size=16), jax.random.key(4)
    )
  )
  assert str(jax.make_jaxpr(cropped)(image, both)).count(' gather[') == 1
  one, found = cropped(image, label)
  two, found_both = cropped(image, both)
  _, found_other = cropped(image, label[:, ::-1])
  np.testing.assert_array_equal(one, two)
  assert found_both.shape == (4, 16, 16, 2)
  np.testing.assert_array_equal(found_both[..., :1], found)
  np.testing.assert_array_equal(found_both[..., 1:], found_other)
