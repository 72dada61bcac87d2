"""Convolutions in forms whose gradients XLA's CPU backend computes fast."""

import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from pnx_jax.models.cpu.gradients import with_gradient

Pads = tuple[tuple[int, int], tuple[int, int]]
# Of a 3x3 convolution that keeps the map's size.
_SAME = ((1, 1), (1, 1))


def pointwise(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """A 1x1 convolution as a matrix product.

  The gradient of the kernel is then a matrix product, too. As a convolution its
  operands are transposed first, which takes longer than to multiply them.

  Args:
    x: `[B, H, W, C]`.
    kernel: `[C, F]`.
    stride: Step along both axes.

  Returns:
    `[B, H / stride, W / stride, F]`.
  """
  x = x[:, ::stride, ::stride]
  return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:3], -1)


def _convolve_3x3_backward(
  x: jax.Array, kernel: jax.Array, gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
  turned = jax.lax.optimization_barrier(
    kernel[::-1, ::-1].transpose(0, 1, 3, 2)
  )
  (of_kernel,) = jax.linear_transpose(
    lambda kernel: _dense(x, kernel, _SAME), kernel
  )(gradient)
  return _dense(gradient, turned, _SAME), of_kernel


@with_gradient(_convolve_3x3_backward)
def convolve_3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """A 3x3 convolution with stride 1.

  For the gradient the transposed kernel is computed on its own. XLA would make
  it in a slower loop before each convolution.

  Args:
    x: `[B, H, W, C]`.
    kernel: `[3, 3, C, F]`.

  Returns:
    `[B, H, W, F]`.
  """
  return _dense(x, kernel, _SAME)


def _dense(x: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
  """XLA's own convolution with stride 1."""
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(1, 1),
    padding=pads,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def _convolve_narrow_backward(
  x: jax.Array, kernel: jax.Array, gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
  _, height, width, channels = x.shape
  features = kernel.shape[-1]
  padded = jnp.pad(gradient, ((0, 0), (1, 1), (1, 1), (0, 0)))
  taps = jnp.concatenate(
    [
      padded[:, 2 - row : 2 - row + height, 2 - column : 2 - column + width]
      for row, column, _ in _places(features)
    ],
    axis=-1,
  ).reshape(-1, 9 * features)
  of_x = (taps @ _side_by_side(kernel).T).reshape(x.shape)
  of_kernel = x.reshape(-1, channels).T @ taps
  of_kernel = of_kernel.reshape(channels, 3, 3, features)
  return of_x, of_kernel.transpose(1, 2, 0, 3)


@with_gradient(_convolve_narrow_backward)
def convolve_narrow(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """A 3x3 convolution to few channels, as a product with all nine taps.

  Args:
    x: `[B, H, W, C]`.
    kernel: `[3, 3, C, F]`.

  Returns:
    `[B, H, W, F]`.
  """
  batch, height, width, channels = x.shape
  features = kernel.shape[-1]
  taps = x.reshape(-1, channels) @ _side_by_side(kernel)
  taps = taps.reshape(batch, height, width, 9 * features)
  taps = jnp.pad(taps, ((0, 0), (1, 1), (1, 1), (0, 0)))
  parts = [
    taps[:, row : row + height, column : column + width, start:][..., :features]
    for row, column, start in _places(features)
  ]
  return functools.reduce(jnp.add, parts)


def _side_by_side(kernel: jax.Array) -> jax.Array:
  """`[3, 3, C, F]` to `[C, 9 * F]`."""
  return kernel.transpose(2, 0, 1, 3).reshape(kernel.shape[2], -1)


def _places(features: int) -> Iterator[tuple[int, int, int]]:
  """Row, column and first channel of each tap in `_side_by_side`."""
  for tap in range(9):
    yield tap // 3, tap % 3, tap * features


def convolve_upsampled(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """A 3x3 convolution of x enlarged by two, on the small map.

  Of the nine pixels that a place of the large map sees, several are one pixel
  of the small map. Each of the four phases of the result is thus a 2x2
  convolution of the small map: 4/9 of the products.

  Args:
    x: `[B, H, W, C]`.
    kernel: `[3, 3, C, F]`.

  Returns:
    `[B, 2 * H, 2 * W, F]`.
  """

  def phase(row: int, column: int) -> jax.Array:
    taps = _phase(_phase(kernel, row, axis=0), column, axis=1)
    return _dense(x, taps, ((1 - row, row), (1 - column, column)))

  rows = [
    jnp.stack([phase(row, column) for column in range(2)], axis=3)
    for row in range(2)
  ]
  batch, height, width, _ = x.shape
  return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, -1)


def _phase(kernel: jax.Array, phase: int, *, axis: int) -> jax.Array:
  """Three taps along an axis, on the two pixels that a phase sees."""
  first, middle, last = jnp.split(kernel, 3, axis)
  pair = (first + middle, last) if phase else (first, middle + last)
  return jnp.concatenate(pair, axis)


def _depthwise_backward(
  x: jax.Array,
  kernel: jax.Array,
  stride: int,
  pads: Pads,
  gradient: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  # Computed once, instead of again in the loop of every tap.
  x, gradient = jax.lax.optimization_barrier((x, gradient))
  of_kernel = _kernel_gradient(
    x, gradient, size=kernel.shape[0], stride=stride, pads=pads
  )
  # A position of x, stride * i + phase, was seen by the taps of one residue.
  phases = [
    [
      _input_gradient(gradient, kernel, stride, pads, phase=(row, column))
      for column in range(stride)
    ]
    for row in range(stride)
  ]
  of_x = jnp.stack([jnp.stack(row, axis=3) for row in phases], axis=2)
  return of_x.reshape(x.shape), of_kernel.astype(kernel.dtype)


@with_gradient(_depthwise_backward)
def depthwise(
  x: jax.Array, kernel: jax.Array, stride: int, pads: Pads
) -> jax.Array:
  """One filter per channel.

  Args:
    x: `[B, H, W, C]`.
    kernel: `[K, K, C]`.
    stride: Step along both axes, a divisor of H and W.
    pads: Zeros before and after each axis.

  Returns:
    `[B, H / stride, W / stride, C]`.
  """
  parts = _taps(x, kernel.shape[0], stride, pads)
  products = [
    part * kernel[row, column].reshape(1, 1, 1, -1)
    for row, column, part in parts
  ]
  return functools.reduce(jnp.add, products)


def _taps(
  x: jax.Array, size: int, stride: int, pads: Pads
) -> Iterator[tuple[int, int, jax.Array]]:
  """What each tap of the kernel sees: row, column, `[B, H/s, W/s, C]`."""
  x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  last_row, last_column = ((length - size) // stride for length in x.shape[1:3])
  for row in range(size):
    for column in range(size):
      part = x[
        :,
        row : row + stride * last_row + 1 : stride,
        column : column + stride * last_column + 1 : stride,
      ]
      yield row, column, part


def _kernel_gradient(
  x: jax.Array, gradient: jax.Array, *, size: int, stride: int, pads: Pads
) -> jax.Array:
  """The gradient `[size, size, C]` of the kernel, in float32.

  A loop over the taps compiles in a fifth of the time of its `size * size`
  bodies side by side, and runs no slower. XLA's reduction over leading axes is
  scalar on a CPU, so most of the summing is done as additions of blocks of
  rows; the barrier keeps them apart from the reduction.
  """
  batch, height, width, channels = gradient.shape
  x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  seen = (batch, stride * (height - 1) + 1, stride * (width - 1) + 1, channels)
  blocks = math.gcd(height, 8)

  def sum_of(tap: jax.Array) -> jax.Array:
    start = (0, tap // size, tap % size, 0)
    part = jax.lax.dynamic_slice(x, start, seen)[:, ::stride, ::stride]
    product = (part * gradient).reshape(
      batch, blocks, height // blocks, width, channels
    )
    partial = functools.reduce(
      jnp.add, [product[:, block] for block in range(blocks)]
    )
    partial = jax.lax.optimization_barrier(partial)
    return partial.sum(axis=(0, 1, 2), dtype=jnp.float32)

  sums = jax.lax.map(sum_of, jnp.arange(size * size))
  return sums.reshape(size, size, channels)


def _input_gradient(
  gradient: jax.Array,
  kernel: jax.Array,
  stride: int,
  pads: Pads,
  *,
  phase: tuple[int, int],
) -> jax.Array:
  """The gradient at every `stride`-th position, from `phase` on."""
  size = kernel.shape[0]
  padded = jnp.pad(gradient, ((0, 0), (size, size), (size, size), (0, 0)))
  rows, columns = gradient.shape[1:3]

  def seen(axis: int) -> Iterator[tuple[int, int]]:
    """Taps that saw the phase, and where in `padded` they wrote it."""
    for tap in range(size):
      shift, rest = divmod(phase[axis] + pads[axis][0] - tap, stride)
      if not rest:
        yield tap, size + shift

  products = [
    padded[:, row : row + rows, column : column + columns]
    * kernel[tap, other].reshape(1, 1, 1, -1)
    for tap, row in seen(0)
    for other, column in seen(1)
  ]
  return functools.reduce(jnp.add, products)
