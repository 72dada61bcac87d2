"""Batch normalisation with its own gradient (Ioffe 2015, arXiv:1502.03167).

XLA's CPU backend adds over places one value at a time: batch statistics and
their gradient would take a quarter of a training step.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

_FOLDS = 8


class BatchNorm(nn.Module):
  """Normalises channels, by the batch or by the running statistics.

  Attributes:
    use_running_average: normalise by the statistics that were stored.
    momentum: decay of the running statistics.
    epsilon: added to the variance.
    dtype: of the result; what lies between is float32.
  """

  use_running_average: bool
  momentum: float
  epsilon: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x):
    """`[B, H, W, C]` to the same."""
    channels = x.shape[-1:]
    scale = self.param('scale', nn.initializers.ones, channels)
    bias = self.param('bias', nn.initializers.zeros, channels)
    running = [
      self.variable('batch_stats', name, initial, channels)
      for name, initial in (('mean', jnp.zeros), ('var', jnp.ones))
    ]
    if self.use_running_average:
      mean, variance = (statistic.value for statistic in running)
      inverse = jax.lax.rsqrt(variance + self.epsilon)
      return _scaled(x, mean, scale * inverse, bias).astype(self.dtype)
    y, *statistics = normalise(x, scale, bias, self.epsilon)
    if not self.is_initializing():
      for old, new in zip(running, statistics, strict=True):
        old.value = self.momentum * old.value + (1 - self.momentum) * new
    return y.astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalise(x, scale, bias, epsilon):
  """x less its mean, over its deviation, scaled and shifted by channel.

  Args:
    x: `[B, H, W, C]`.
    scale: f32[C].
    bias: f32[C].
    epsilon: added to the variance.

  Returns:
    f32[B, H, W, C], and mean and variance f32[C], which no gradient enters.
  """
  return _forward(x, scale, bias, epsilon)[0]


def _forward(x, scale, bias, epsilon):
  count = math.prod(x.shape[:-1])
  values = x.astype(jnp.float32)
  mean = total(values) / count
  variance = jnp.maximum(total(values * values) / count - mean * mean, 0)
  inverse = jax.lax.rsqrt(variance + epsilon)
  y = _scaled(values, mean, scale * inverse, bias)
  return (y, mean, variance), (x, scale, mean, inverse)


def _backward(epsilon, saved, gradients):
  del epsilon
  x, scale, mean, inverse = saved
  gradient = gradients[0]
  count = math.prod(x.shape[:-1])
  normalised = (x.astype(jnp.float32) - _placed(mean)) * _placed(inverse)
  for_bias = total(gradient)
  for_scale = total(gradient * normalised)
  shared = _placed(for_bias / count) + normalised * _placed(for_scale / count)
  for_x = _placed(scale * inverse) * (gradient - shared)
  return for_x.astype(x.dtype), for_scale, for_bias


normalise.defvjp(_forward, _backward)


def _scaled(x, mean, factor, bias):
  return (x - _placed(mean)) * _placed(factor) + _placed(bias)


def _placed(channels):
  """`[C]` to `[1, 1, 1, C]`."""
  return channels.reshape(1, 1, 1, -1)


def total(x):
  """Sum over all places: f32[B, H, W, C] to f32[C]."""
  return (on_cpu if jax.default_backend() == 'cpu' else direct)(x)


def direct(x):
  """XLA's own reduction."""
  return x.sum(axis=(0, 1, 2))


def on_cpu(x):
  """Blocks of rows are added as whole vectors, the rest by a product."""
  batch, height, width, channels = x.shape
  blocks = math.gcd(height, _FOLDS)
  x = x.reshape(batch, blocks, height // blocks, width, channels)
  x = functools.reduce(jnp.add, [x[:, block] for block in range(blocks)])
  x = x.reshape(-1, channels)
  return jnp.ones(len(x), x.dtype) @ x
