"""Augmentation on the device, inside the jitted training step.

Crop, distortion, affine transform and mirroring are composed into one sampling
grid, so that image and label are interpolated once, at the same points.
`python -m pnx_jax.input.preview` draws what it does to some radiographs.

Written for accelerators: rows and columns of the grid are arrays of their own
(a last axis of 2 would be padded to a TPU's 128 lanes), displacements come from
coarse grids by matrix products and arithmetic instead of searches, and there is
one gather, of words that hold two neighboring pixels of image and labels.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from pnx_jax.cli import one_line
from pnx_jax.errors import UserError

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
      label: bool[B, H, H, L], for L labels of each pixel.

    Returns:
      Image f32[B, C, C, 1] in 0..1 and label bool[B, C, C, L] with C =
      crop_size or H.
    """
    keys = jax.random.split(key, len(image))
    return jax.vmap(self._one)(keys, image, label)

  def two_views(
    self, key: jax.Array, image: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Augments every image twice: the same points, other intensities.

    Args:
      key: Random key of this step.
      image: f32[B, H, H, 1] in 0..1.

    Returns:
      Two images f32[B, C, C, 1] in 0..1 with C = crop_size or H.
    """
    keys = jax.random.split(key, len(image))
    return jax.vmap(self._two)(keys, image)

  def _one(
    self, key: jax.Array, image: jax.Array, label: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    grid_key, tone_key = jax.random.split(key)
    image, label = self._sampled(grid_key, image, label)
    return self._tone(tone_key, image), label

  def _two(
    self, key: jax.Array, image: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    grid_key, tone_key, other_tone_key = jax.random.split(key, 3)
    image, _ = self._sampled(grid_key, image, jnp.zeros(image.shape, bool))
    return self._tone(tone_key, image), self._tone(other_tone_key, image)

  def _sampled(
    self, key: jax.Array, image: jax.Array, label: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Image and label at the points of a grid that is drawn."""
    side = image.shape[0]
    rows, columns = ((axis + 0.5) * side - 0.5 for axis in self.grid(key, side))
    return bilinear(image, label, rows, columns)

  def grid(self, key: jax.Array, side: int) -> tuple[jax.Array, jax.Array]:
    """Draws the sampling grid of one image.

    Args:
      key: Random key of this image.
      side: H of the input.

    Returns:
      Rows and columns f32[C, C]: the point of the input that each output pixel
      takes its value from; -0.5 is one edge of the input and 0.5 the other.
    """
    crop, distort, affine, mirror = jax.random.split(key, 4)
    out = self.crop_size or side
    axis = ((jnp.arange(out) + 0.5) / out - 0.5) * (out / side)
    offset = _symmetric(crop, (2,), 0.5)
    row, column = (axis + offset[i] * (1 - out / side) for i in (0, 1))
    rows, columns = self._distorted(distort, row, column)
    rows, columns = self._transformed(affine, rows, columns)
    flipped = jax.random.bernoulli(mirror, self.flip_probability)
    return rows, columns * jnp.where(flipped, -1.0, 1.0)

  def _transformed(
    self, key: jax.Array, rows: jax.Array, columns: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """The grid after rotation, scaling and shift."""
    use, shift, scale, rotate = jax.random.split(key, 4)
    drawn = jax.random.bernoulli(use, self.affine_probability)
    angle = jnp.deg2rad(_symmetric(rotate, (), self.rotate) * drawn)
    zoom = 1 + _symmetric(scale, (), self.scale) * drawn
    offset = _symmetric(shift, (2,), self.shift) * drawn
    cosine, sine = jnp.cos(angle) * zoom, jnp.sin(angle) * zoom
    # No matrix product: a TPU would round the points to bfloat16 for it.
    return (
      rows * cosine + columns * sine + offset[0],
      columns * cosine - rows * sine + offset[1],
    )

  def _distorted(
    self, key: jax.Array, row: jax.Array, column: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """The grid of rows and columns f32[C], distorted: twice f32[C, C].

    Elastic: random displacements on a coarse grid, cubic in between. Grid:
    displacements of rows and of columns, linear in between. Optical: radial.
    """
    use, which, elastic, cells, optical = jax.random.split(key, 5)
    shape = (len(row), len(column))
    coarse = _symmetric(elastic, (_ELASTIC_CELLS, _ELASTIC_CELLS, 2), 1.0)
    steps = _symmetric(cells, (2, _GRID_CELLS + 1), 1.0)
    # A point on the middle of an edge (radius 0.5) moves by at most 1.
    bend = _symmetric(optical, (), 1.0)
    chosen = jax.nn.one_hot(jax.random.randint(which, (), 0, 3), 3)
    drawn = jax.random.bernoulli(use, self.distortion_probability)
    chosen = chosen * self.displacement * drawn
    places = (
      jnp.broadcast_to(row[:, None], shape),
      jnp.broadcast_to(column[None], shape),
    )
    lens = bend * 8 * (places[0] ** 2 + places[1] ** 2)
    lines = (
      _between_knots(row, steps[0])[:, None],
      _between_knots(column, steps[1])[None],
    )
    rows, columns = (
      place
      + chosen[0] * jax.image.resize(coarse[..., i], shape, 'cubic')
      + chosen[1] * line
      + chosen[2] * lens * place
      for i, (place, line) in enumerate(zip(places, lines, strict=True))
    )
    return rows, columns

  def _tone(self, key: jax.Array, image: jax.Array) -> jax.Array:
    """Brightness, contrast, gamma and noise, each with its probability."""
    uses, brightness, contrast, gamma, grain, noise = jax.random.split(key, 6)
    use = jax.random.bernoulli(uses, self.intensity_probability, (3,))
    image = image + _symmetric(brightness, (), self.intensity_strength) * use[0]
    slope = 1 + _symmetric(contrast, (), self.intensity_strength) * use[1]
    mean = jnp.mean(image)
    image = jnp.clip((image - mean) * slope + mean, 0, 1)
    power = jnp.exp(_symmetric(gamma, (), 2 * self.intensity_strength) * use[2])
    # Without the bound black would differ from that of earlier versions.
    image = jnp.maximum(image, 1e-4) ** power
    noisy = jax.random.bernoulli(grain, self.noise_probability)
    added = jax.random.normal(noise, image.shape) * self.noise_deviation * noisy
    return jnp.clip(image + added, 0, 1)


def _symmetric(
  key: jax.Array, shape: tuple[int, ...], limit: float
) -> jax.Array:
  """Uniform numbers from `-limit` to `limit`."""
  return jax.random.uniform(key, shape, minval=-limit, maxval=limit)


def _between_knots(places: jax.Array, values: jax.Array) -> jax.Array:
  """Linear interpolation between knots at equal distances.

  `jnp.interp` would search the knots for every place, on a TPU in a loop.

  Args:
    places: f32[C] in -0.5..0.5, the first and the last knot.
    values: f32[K] at the knots.

  Returns:
    The values at the places, f32[C].
  """
  position = (places + 0.5) * (len(values) - 1)
  hats = [
    jax.nn.relu(1 - jnp.abs(position - knot)) * values[knot]
    for knot in range(len(values))
  ]
  return functools.reduce(jnp.add, hats)


def bilinear(
  image: jax.Array, label: jax.Array, rows: jax.Array, columns: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Interpolates image and labels at points; outside, all are 0.

  A point reads two words, each with two pixels of a row: 16 - L bits of the
  image and 1 of each label. Images of 256 levels are read exactly, others to
  3e-5 with one label, twice that with two.

  Args:
    image: f32[H, W, 1] in 0..1.
    label: bool[H, W, L], for at most 8 labels of each pixel.
    rows: f32[...], in pixels.
    columns: f32[...], in pixels.

  Returns:
    Image f32[..., 1], and labels bool[..., L] where more than half is label.
  """
  height, width, labels = label.shape
  image_bits = 16 - labels
  white = 255 << (image_bits - 8)
  pixels = jnp.round(image[..., 0] * white).astype(jnp.uint32)
  for place in range(labels):
    bit = label[..., place].astype(jnp.uint32)
    pixels = pixels | bit << (image_bits + place)
  pixels = jnp.pad(pixels, 1)
  words = pixels[:, :-1] | pixels[:, 1:] << 16
  row, column = jnp.floor(rows), jnp.floor(columns)
  down, right = rows - row, columns - column
  row, column = row.astype(jnp.int32), column.astype(jnp.int32)
  inside = (row >= -1) & (row < height) & (column >= -1) & (column < width)
  index = jnp.where(inside, (row + 1) * (width + 1) + column + 1, 0)
  index = jnp.stack([index, index + width + 1])
  upper, lower = jnp.take(words.reshape(-1), index, mode='clip')

  def mean(value: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The mean of a value of the four pixels, by their distances."""
    above, below = (
      value(word) * (1 - right) + value(word >> 16) * right
      for word in (upper, lower)
    )
    return (above * (1 - down) + below * down) * inside

  def bits(first: int, number: int) -> jax.Array:
    mask = (1 << number) - 1
    return mean(lambda word: (word >> first & mask).astype(jnp.float32))

  shares = [bits(image_bits + place, 1) for place in range(labels)]
  return bits(0, image_bits)[..., None] / white, jnp.stack(shares, -1) > 0.5


if __name__ == '__main__':
  with one_line():
    raise UserError(
      '`python -m pnx_jax.input.augment --preview=FILE` is now '
      '`python -m pnx_jax.input.preview --output=FILE`'
    )
