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
  x, kernel = residuals
  size = kernel.shape[0]
  of_kernel = _channel_sums(
    [part * gradient for _, _, part in _taps(x, size, stride, pads)]
  ).reshape(kernel.shape)
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


def _channel_sums(products: list[jax.Array]) -> jax.Array:
  """Sums over all but the last axis, `[len(products), C]`.

  XLA's reduction over leading axes is scalar on a CPU. Most of the summing is
  therefore done as additions of blocks of rows, eight times faster; the
  barrier keeps them apart from the reduction.
  """
  batch, height, width, channels = products[0].shape
  blocks = math.gcd(height, 8)
  shape = (batch, blocks, height // blocks, width, channels)
  partial = jnp.stack(
    [
      functools.reduce(
        jnp.add, [product.reshape(shape)[:, block] for block in range(blocks)]
      )
      for product in products
    ]
  )
  partial = jax.lax.optimization_barrier(partial)
  return partial.sum(axis=(1, 2, 3), dtype=jnp.float32)


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
