"""Augmentation on the device, inside the jitted training step.

Crop, distortion, affine transform and mirroring are composed into one sampling
grid, so that image and label are interpolated once, at the same points.
`python -m pnx_jax.input.preview` draws what it does to some radiographs.
"""

import dataclasses
import sys

import jax
import jax.numpy as jnp

_ELASTIC_CELLS = 6
_GRID_CELLS = 5


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """Random changes of a training batch, as `config.augmentation` asks for them.

  Attributes:
    flip_probability: Of mirroring left and right.
    affine_probability: Of shift, scale and rotation.
    shift: Largest shift, as a share of the side.
    scale: Largest change of the scale, as a share.
    rotate: Largest rotation, in degrees.
    distortion_probability: Of one of elastic, grid and optical distortion.
    displacement: Largest displacement by it, as a share of the side.
    intensity_probability: Of each of brightness, contrast and gamma.
    intensity_strength: Largest change of brightness and contrast, as a share
      of white; half the largest change of the gamma's logarithm.
    noise_probability: Of pixel noise.
    noise_deviation: Standard deviation of the noise, as a share of white.
    crop_size: Side of the random square that is cut out; 0 keeps the image.
  """

  flip_probability: float = 0.0
  affine_probability: float = 0.0
  shift: float = 0.0
  scale: float = 0.0
  rotate: float = 0.0
  distortion_probability: float = 0.0
  displacement: float = 0.0
  intensity_probability: float = 0.0
  intensity_strength: float = 0.0
  noise_probability: float = 0.0
  noise_deviation: float = 0.0
  crop_size: int = 0

  def __call__(
    self, key: jax.Array, image: jax.Array, label: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Augments every image of a batch independently.

    Args:
      key: Random key of this step.
      image: f32[B, H, H, 1] in 0..1.
      label: bool[B, H, H, 1].

    Returns:
      Image f32[B, C, C, 1] in 0..1 and label bool[B, C, C, 1] with C =
      crop_size or H.
    """
    keys = jax.random.split(key, len(image))
    return jax.vmap(self._one)(keys, image, label)

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
    """Draws the sampling grid of one image.

    Args:
      key: Random key of this image.
      side: H of the input.

    Returns:
      f32[C, C, 2]: for each output pixel the point (y, x) of the input that it
      takes its value from; -0.5 is one edge of the input and 0.5 the other.
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
    """Brightness, contrast, gamma and noise, each with its probability."""
    uses, brightness, contrast, gamma, grain, noise = jax.random.split(key, 6)
    use = jax.random.bernoulli(uses, self.intensity_probability, (3,))
    image = image + _symmetric(brightness, (), self.intensity_strength) * use[0]
    slope = 1 + _symmetric(contrast, (), self.intensity_strength) * use[1]
    mean = jnp.mean(image)
    image = jnp.clip((image - mean) * slope + mean, 0, 1)
    power = jnp.exp(_symmetric(gamma, (), 2 * self.intensity_strength) * use[2])
    # At 0 the gradient of the power is infinite.
    image = jnp.maximum(image, 1e-4) ** power
    noisy = jax.random.bernoulli(grain, self.noise_probability)
    added = jax.random.normal(noise, image.shape) * self.noise_deviation * noisy
    return jnp.clip(image + added, 0, 1)


def _symmetric(
  key: jax.Array, shape: tuple[int, ...], limit: float
) -> jax.Array:
  """Uniform numbers from `-limit` to `limit`."""
  return jax.random.uniform(key, shape, minval=-limit, maxval=limit)


def bilinear(image: jax.Array, points: jax.Array) -> jax.Array:
  """Interpolates an image at points; outside it, the image is 0 (black).

  Args:
    image: f32[H, W, C].
    points: f32[..., 2], (y, x) in pixels.

  Returns:
    f32[..., C].
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


if __name__ == '__main__':
  sys.exit('error: the command is `python -m pnx_jax.input.preview` now')
