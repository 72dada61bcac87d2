"""Max pooling by comparing slices, whose gradient XLA vectorizes on a CPU."""

import jax
import jax.numpy as jnp


def max_pool(x: jax.Array) -> jax.Array:
  """Largest of each 2x2 window; `[B, H, W, C]` to `[B, H/2, W/2, C]`.

  By comparing pairs: the gradient of `max` over an axis is 0 / 0 where XLA
  recomputes its operand and rounds it differently.
  """
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
  x = jnp.maximum(x[:, :, 0], x[:, :, 1])
  return jnp.maximum(x[:, :, :, 0], x[:, :, :, 1])


def max_pool_overlapping(x: jax.Array) -> jax.Array:
  """Largest of each 3x3 window, stride 2, padded by 1 on both sides."""
  for axis in (1, 2):
    pairs = x.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
    even, odd = jnp.split(pairs, 2, axis=axis + 1)
    even, odd = even.squeeze(axis + 1), odd.squeeze(axis + 1)
    pads = [(0, 0, 0)] * 4
    pads[axis] = (1, -1, 0)
    before = jax.lax.pad(odd, jnp.array(-jnp.inf, x.dtype), pads)
    x = jnp.maximum(jnp.maximum(even, odd), before)
  return x
