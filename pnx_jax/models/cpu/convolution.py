"""Depthwise convolution as a sum of shifted products, with its own gradient."""

import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp

Pads = tuple[tuple[int, int], tuple[int, int]]


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
  return _depthwise(x, kernel, stride, pads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise(
  x: jax.Array, kernel: jax.Array, stride: int, pads: Pads
) -> jax.Array:
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


def _forward(
  x: jax.Array, kernel: jax.Array, stride: int, pads: Pads
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return _depthwise(x, kernel, stride, pads), (x, kernel)


def _backward(
  stride: int,
  pads: Pads,
  residuals: tuple[jax.Array, jax.Array],
  gradient: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  # Computed once, instead of again in the loop of every tap.
  x, gradient = jax.lax.optimization_barrier((residuals[0], gradient))
  kernel = residuals[1]
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


_depthwise.defvjp(_forward, _backward)
