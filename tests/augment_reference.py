"""The augmentation in other arithmetic, as an independent reference.

It searches knots with `jnp.interp`, multiplies points by matrices and reads
four corners of each point; `pnx_jax.input.augment` draws the same numbers.
"""

import jax
import jax.numpy as jnp

from pnx_jax.input import augment

_ELASTIC_CELLS = 6
_GRID_CELLS = 5


class Augmentation(augment.Augmentation):
  """The same fields and draws, other arithmetic."""

  def _one(
    self, key: jax.Array, image: jax.Array, label: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    grid_key, tone_key = jax.random.split(key)
    stacked = jnp.concatenate([image, label.astype(image.dtype)], axis=-1)
    side = image.shape[0]
    grid = self.grid(grid_key, side)
    warped = bilinear(stacked, (grid + 0.5) * side - 0.5)
    image, label = warped[..., :1], warped[..., 1:] > 0.5
    return self._tone(tone_key, image), label

  def grid(self, key: jax.Array, side: int) -> jax.Array:
    """Points (y, x) of the input, f32[C, C, 2]."""
    crop, distort, affine, mirror = jax.random.split(key, 4)
    out = self.crop_size or side
    axis = (jnp.arange(out) + 0.5) / out - 0.5
    grid = jnp.stack(jnp.meshgrid(axis, axis, indexing='ij'), axis=-1)
    room = 1 - out / side
    offset = jax.random.uniform(crop, (1, 1, 2), minval=-0.5, maxval=0.5)
    grid = grid * (out / side) + offset * room
    grid = grid + self._distortion(distort, grid)
    grid = self._affine(affine, grid)
    flipped = jax.random.bernoulli(mirror, self.flip_probability)
    return grid * jnp.where(flipped, jnp.array([1.0, -1.0]), 1.0)[None, None]

  def _affine(self, key: jax.Array, grid: jax.Array) -> jax.Array:
    use, shift, scale, rotate = jax.random.split(key, 4)
    drawn = jax.random.bernoulli(use, self.affine_probability)
    angle = jnp.deg2rad(_symmetric(rotate, (), self.rotate) * drawn)
    zoom = 1 + _symmetric(scale, (), self.scale) * drawn
    offset = _symmetric(shift, (1, 1, 2), self.shift) * drawn
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    matrix = jnp.array([[cosine, -sine], [sine, cosine]]) * zoom
    return grid @ matrix + offset

  def _distortion(self, key: jax.Array, grid: jax.Array) -> jax.Array:
    """Elastic, grid or optical displacement of every point f32[C, C, 2]."""
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
    drawn = jax.random.bernoulli(use, self.distortion_probability)
    moved = jnp.stack([smooth, lines, lens], axis=-1) @ chosen
    return moved * self.displacement * drawn

  def _tone(self, key: jax.Array, image: jax.Array) -> jax.Array:
    uses, brightness, contrast, gamma, grain, noise = jax.random.split(key, 6)
    brighter, steeper, curved = jax.random.bernoulli(
      uses, self.intensity_probability, (3,)
    )
    added = _symmetric(brightness, (), self.intensity_strength)
    image = jnp.where(brighter, image + added, image)
    slope = 1 + _symmetric(contrast, (), self.intensity_strength)
    about_mean = image * slope + image.mean() * (1 - slope)
    image = jnp.clip(jnp.where(steeper, about_mean, image), 0, 1)
    power = jnp.exp(_symmetric(gamma, (), 2 * self.intensity_strength))
    curve = jnp.exp(power * jnp.log(jnp.clip(image, 1e-4)))
    image = jnp.where(curved, curve, image)
    grains = self.noise_deviation * jax.random.normal(noise, image.shape)
    noisy = jax.random.bernoulli(grain, self.noise_probability)
    return jnp.clip(jnp.where(noisy, image + grains, image), 0, 1)


def kind_of_distortion(key: jax.Array) -> jax.Array:
  """0 elastic, 1 grid or 2 optical, for a key that `grid` takes."""
  which = jax.random.split(jax.random.split(key, 4)[1], 5)[1]
  return jax.random.randint(which, (), 0, 3)


def _symmetric(
  key: jax.Array, shape: tuple[int, ...], limit: float
) -> jax.Array:
  """Uniform numbers from `-limit` to `limit`."""
  return jax.random.uniform(key, shape, minval=-limit, maxval=limit)


def bilinear(image: jax.Array, points: jax.Array) -> jax.Array:
  """f32[H, W, C] at f32[..., 2]; outside it is 0."""
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
