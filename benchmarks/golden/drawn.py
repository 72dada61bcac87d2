"""Weights and images drawn by numpy from a seed and a name.

PyTorch's networks and ours are filled from here, so that both compute with
the same numbers without a file of weights between them.
"""

import zlib

import numpy as np

SIZE = 64
SAMPLES = 2048


def _generator(name):
  return np.random.default_rng([0, zlib.crc32(name.encode())])


def weight(name, shape):
  """The array PyTorch calls `name`, f32[shape]."""
  generator = _generator(name)
  if len(shape) == 4:
    deviation = np.sqrt(2 / np.prod(shape[1:]))
    array = generator.normal(0, deviation, shape)
  elif name.endswith('running_var'):
    array = generator.uniform(0.5, 1.5, shape)
  elif name.endswith('weight'):
    array = generator.uniform(0.5, 1, shape)
  else:
    array = generator.normal(0, 0.1, shape)
  return array.astype(np.float32)


def image(size=SIZE, batch=2):
  """Waves of many lengths, f32[batch, size, size, 1] in 0..1."""
  generator = _generator('image')
  y, x = np.mgrid[:size, :size] / size
  total = np.zeros((batch, size, size))
  for _ in range(12):
    frequency = generator.normal(0, 8, (2, batch, 1, 1))
    phase = generator.uniform(0, 2 * np.pi, (batch, 1, 1))
    total += np.sin(2 * np.pi * (frequency[0] * y + frequency[1] * x) + phase)
  total = (total - total.min()) / (total.max() - total.min())
  return total[..., None].astype(np.float32)


def sample(name, feature):
  """A fixed random choice of the values of `[B, H, W, C]`."""
  flat = np.asarray(feature).reshape(-1)
  chosen = _generator(f'{name}.sample').permutation(flat.size)[:SAMPLES]
  return flat[np.sort(chosen)]
