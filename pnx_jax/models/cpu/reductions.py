"""Sums over the places of feature maps."""

import functools
import math

import jax
import jax.numpy as jnp

from pnx_jax.models.cpu.gradients import with_gradient

_BLOCKS = 8


def place_sum(x: jax.Array) -> jax.Array:
  """Sum over the places of each image, `[B, H, W, C]` to `[B, 1, 1, C]`.

  Rows and then columns are added in blocks, as whole vectors; XLA's CPU backend
  would add one value at a time. The barriers keep the steps apart.
  """
  total = x.astype(jnp.float32)
  for axis in (1, 2):
    total = jax.lax.optimization_barrier(_added_in_blocks(total, axis))
  return total.sum(axis=(1, 2), keepdims=True).astype(x.dtype)


def _scale_backward(
  x: jax.Array, weight: jax.Array, gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
  return gradient * weight, place_sum(gradient * x)


@with_gradient(_scale_backward)
def scale(x: jax.Array, weight: jax.Array) -> jax.Array:
  """`x * weight`, `[B, H, W, C]` and `[B, 1, 1, C]`, with a fast gradient."""
  return x * weight


def channel_sum(x: jax.Array) -> jax.Array:
  """Sum over all places: f32[B, H, W, C] to f32[C].

  XLA's CPU backend adds over leading axes one value at a time. Here blocks of
  rows are added as whole vectors, and a matrix product adds the rest.
  """
  x = _added_in_blocks(x, 1).reshape(-1, x.shape[-1])
  return jnp.ones(len(x), x.dtype) @ x


def _added_in_blocks(x: jax.Array, axis: int) -> jax.Array:
  """The sum of up to `_BLOCKS` equal parts of an axis."""
  parts = jnp.split(x, math.gcd(x.shape[axis], _BLOCKS), axis)
  return functools.reduce(jnp.add, parts)
