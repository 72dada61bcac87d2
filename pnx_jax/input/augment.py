r"""Augmentation on the device, inside the jitted training step.

Crop, distortion, affine map and mirror are composed into one sampling grid,
so that image and label are read once, at the same places. Draw a sheet with

    python -m pnx_jax.input.augment --config=configs/resunet.py \
        --config.data_dir=data/demo --preview=sheet.png
"""

import dataclasses
import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from pnx_jax import draw
from pnx_jax.cli import one_line, parse_flags
from pnx_jax.errors import UserError
from pnx_jax.input import pipeline

_PREVIEW_SIZE = 200
_ELASTIC_CELLS = 6
_GRID_CELLS = 5


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """What is drawn for each image; the fields are those of the config.

  Lengths are shares of the side, angles degrees, intensities shares of white.
  """

  flip: float = 0.0
  affine: float = 0.0
  shift: float = 0.0
  scale: float = 0.0
  rotate: float = 0.0
  distortion: float = 0.0
  displacement: float = 0.0
  intensity: float = 0.0
  strength: float = 0.0
  noise: float = 0.0
  noise_probability: float = 0.0
  crop_size: int = 0

  def __call__(
    self, key: jax.Array, image: jax.Array, label: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Changes every image of a batch in its own way.

    Args:
      key: of this step.
      image: f32[B, H, H, 1] in 0..1.
      label: bool[B, H, H, 1].

    Returns:
      f32[B, C, C, 1] in 0..1 and bool[B, C, C, 1] with C = crop_size or H.
    """
    keys = jax.random.split(key, len(image))
    return jax.vmap(self._one)(keys, image, label)

  def _one(self, key, image, label):
    grid_key, tone_key = jax.random.split(key)
    stacked = jnp.concatenate([image, label.astype(image.dtype)], axis=-1)
    side = image.shape[0]
    grid = self.grid(grid_key, side)
    warped = bilinear(stacked, (grid + 0.5) * side - 0.5)
    image, label = warped[..., :1], warped[..., 1:] > 0.5
    return self._tone(tone_key, image), label

  def grid(self, key: jax.Array, side: int) -> jax.Array:
    """Where each output pixel looks, f32[C, C, 2].

    (y, x) in -0.5..0.5, from one edge of the input to the other.
    """
    crop, distort, affine, mirror = jax.random.split(key, 4)
    out = self.crop_size or side
    axis = (jnp.arange(out) + 0.5) / out - 0.5
    grid = jnp.stack(jnp.meshgrid(axis, axis, indexing='ij'), axis=-1)
    room = 1 - out / side
    offset = jax.random.uniform(crop, (1, 1, 2), minval=-0.5, maxval=0.5)
    grid = grid * (out / side) + offset * room
    grid = grid + self._distortion(distort, grid)
    grid = self._affine(affine, grid)
    flipped = jax.random.bernoulli(mirror, self.flip)
    return grid * jnp.where(flipped, jnp.array([1.0, -1.0]), 1.0)[None, None]

  def _affine(self, key, grid):
    use, shift, scale, rotate = jax.random.split(key, 4)
    drawn = jax.random.bernoulli(use, self.affine)
    angle = jnp.deg2rad(_symmetric(rotate, (), self.rotate) * drawn)
    zoom = 1 + _symmetric(scale, (), self.scale) * drawn
    offset = _symmetric(shift, (1, 1, 2), self.shift) * drawn
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    matrix = jnp.array([[cosine, -sine], [sine, cosine]]) * zoom
    return grid @ matrix + offset

  def _distortion(self, key, grid):
    """Elastic, grid or optical displacement of every point, or none."""
    use, which, elastic, cells, optical = jax.random.split(key, 5)
    coarse = _symmetric(elastic, (_ELASTIC_CELLS, _ELASTIC_CELLS, 2), 1.0)
    smooth = jax.image.resize(coarse, grid.shape, 'cubic')
    knots = jnp.linspace(-0.5, 0.5, _GRID_CELLS + 1)
    steps = _symmetric(cells, (2, _GRID_CELLS + 1), 1.0)
    lines = jnp.stack(
      [jnp.interp(grid[..., i], knots, steps[i]) for i in range(2)], axis=-1
    )
    # A point on the middle of an edge (radius 0.5) moves by at most 1.
    bend = _symmetric(optical, (), 1.0)
    lens = grid * (bend * 8 * jnp.sum(grid**2, axis=-1, keepdims=True))
    chosen = jax.nn.one_hot(jax.random.randint(which, (), 0, 3), 3)
    drawn = jax.random.bernoulli(use, self.distortion)
    moved = jnp.stack([smooth, lines, lens], axis=-1) @ chosen
    return moved * self.displacement * drawn

  def _tone(self, key, image):
    """Brightness, contrast, gamma and noise, each with its probability."""
    uses, brightness, contrast, gamma, grain, noise = jax.random.split(key, 6)
    use = jax.random.bernoulli(uses, self.intensity, (3,))
    image = image + _symmetric(brightness, (), self.strength) * use[0]
    slope = 1 + _symmetric(contrast, (), self.strength) * use[1]
    mean = jnp.mean(image)
    image = jnp.clip((image - mean) * slope + mean, 0, 1)
    power = jnp.exp(_symmetric(gamma, (), 2 * self.strength) * use[2])
    # The power is taken away from 0, where its gradient is infinite.
    image = jnp.maximum(image, 1e-4) ** power
    noisy = jax.random.bernoulli(grain, self.noise_probability)
    added = jax.random.normal(noise, image.shape) * self.noise * noisy
    return jnp.clip(image + added, 0, 1)


def _symmetric(key, shape, limit):
  return jax.random.uniform(key, shape, minval=-limit, maxval=limit)


def bilinear(image: jax.Array, points: jax.Array) -> jax.Array:
  """Reads `image` f32[H, W, C] at `points` f32[..., 2] (y, x) in pixels.

  What lies outside the image is 0, as the film's surroundings are.
  """
  height, width, channels = image.shape
  flat = image.reshape(height * width, channels)
  corner = jnp.floor(points)
  fraction = points - corner
  corner = corner.astype(jnp.int32)
  total = 0.0
  for down in (0, 1):
    for right in (0, 1):
      y, x = corner[..., 0] + down, corner[..., 1] + right
      weight = jnp.abs(1 - down - fraction[..., 0]) * jnp.abs(
        1 - right - fraction[..., 1]
      )
      inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
      index = jnp.where(inside, y * width + x, 0)
      value = jnp.take(flat, index, axis=0, mode='clip')
      total += value * (weight * inside)[..., None]
  return total


def preview(dataset, augmentation: Augmentation, *, rows=4, columns=6):
  """A sheet of radiographs (left) and what training may see of them.

  Args:
    dataset: a `pipeline.Dataset`; its first positives are drawn.
    augmentation: what is drawn for each.
    rows: radiographs.
    columns: pictures of each.

  Returns:
    uint8[H, W, 3].
  """
  size = dataset.stored_size
  drawn = []
  for index in np.flatnonzero(dataset.labels == 1)[:rows]:
    image, label = dataset.image(index, size), dataset.label(index, size)
    batch = [
      np.repeat(x[None, ..., None], columns - 1, 0) for x in (image, label)
    ]
    key = jax.random.fold_in(jax.random.key(0), index)
    images, labels = jax.jit(augmentation)(
      key, batch[0].astype(np.float32) / 255, batch[1]
    )
    images = np.round(np.asarray(images) * 255).astype(np.uint8)
    pairs = [
      (image, label),
      *zip(images[..., 0], np.asarray(labels)[..., 0], strict=True),
    ]
    drawn += [
      draw.outline(draw.picture(one, _PREVIEW_SIZE), mask)
      for one, mask in pairs
    ]
  return draw.contact_sheet(drawn, columns=columns)


def main(_):
  config = flags.FLAGS['config'].value
  with one_line():
    dataset = pipeline.Dataset(config.data_dir, pipeline.folds(config.data_dir))
    sheet = preview(dataset, Augmentation(**config.augmentation))
    path = flags.FLAGS['preview'].value
    if not cv2.imwrite(path, sheet[..., ::-1]):
      raise UserError(f'cannot write {path}')
  print(f'Wrote {path}')


if __name__ == '__main__':
  config_flags.DEFINE_config_file('config', None)
  flags.DEFINE_string('preview', 'augmentation.png', 'Picture to write.')
  app.run(
    main,
    flags_parser=functools.partial(parse_flags, recipe='configs/resunet.py'),
  )
