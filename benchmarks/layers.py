"""Times the forms of convolution and batch normalization on a CPU.

    python -m benchmarks.layers

Convolutions of 3x3, forward and both gradients, with XLA's default options and
with those of `models.compiled`; batch normalization with ReLU, forward and
gradient, by Flax and by `models.batch_norm`. Batches of 4.
"""

import time

import flax.linen as nn
import jax
import numpy as np
from absl import app, flags

from pnx_jax.models import compiled, convolution
from pnx_jax.models.batch_norm import BatchNorm

_CALLS = flags.DEFINE_integer('calls', 9, 'Of which the fastest counts.')
_BATCH = 4
# Side of the map, channels in and out: layers of U-Net / ResNet-34 at 256.
_CONVOLUTIONS = (
  (256, 16, 16),
  (128, 64, 32),
  (64, 128, 64),
  (64, 64, 64),
  (32, 128, 128),
  (16, 256, 256),
  (8, 512, 512),
)
_MAPS = ((256, 16), (128, 64), (64, 64), (32, 128), (16, 256))
_KINDS = {'epsilon': 1e-5, 'momentum': 0.9, 'use_running_average': False}


def seconds(function, *arguments):
  """Of the fastest call, compilation left out."""
  jax.block_until_ready(function(*arguments))
  found = []
  for _ in range(_CALLS.value):
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    found.append(time.perf_counter() - start)
  return min(found)


def random(*shape):
  return np.random.default_rng(0).standard_normal(shape, np.float32)


def convolve(image, kernel):
  return convolution.direct(image, kernel, stride=1, pads=((1, 1), (1, 1)))


def image_gradient(image, kernel, gradient):
  return jax.vjp(lambda image: convolve(image, kernel), image)[1](gradient)


def kernel_gradient(image, kernel, gradient):
  return jax.vjp(lambda kernel: convolve(image, kernel), kernel)[1](gradient)


def convolutions():
  print('GFLOP/s: default, ours')
  print('| map, channels | forward | input gradient | kernel gradient |')
  print('|---|---|---|---|')
  for side, channels, features in _CONVOLUTIONS:
    image = random(_BATCH, side, side, channels)
    kernel = random(3, 3, channels, features)
    gradient = random(_BATCH, side, side, features)
    flops = 2 * kernel.size * _BATCH * side * side
    cells = []
    for function, *arguments in (
      (convolve, image, kernel),
      (image_gradient, image, kernel, gradient),
      (kernel_gradient, image, kernel, gradient),
    ):
      default, ours = (
        flops / 1e9 / seconds(jit(function), *arguments)
        for jit in (jax.jit, compiled.jit)
      )
      cells.append(f'{default:.0f}, {ours:.0f}')
    print(f'| {side}, {channels} to {features} | {" | ".join(cells)} |')


def normalization():
  print('| map | Flax, ms | ours, ms |\n|---|---|---|')
  for side, channels in _MAPS:
    image = random(_BATCH, side, side, channels)
    cells = []
    for module in (
      nn.BatchNorm(**_KINDS),
      BatchNorm(**_KINDS, dtype='float32', platform='cpu'),
    ):
      variables = module.init(jax.random.key(0), image)

      def both(params, image, module=module, variables=variables):
        def applied(params, image):
          y, _ = module.apply(
            {**variables, 'params': params}, image, mutable='batch_stats'
          )
          return nn.relu(y)

        y, gradient = jax.vjp(applied, params, image)
        return y, gradient(image)

      step = compiled.jit(both)
      cells.append(f'{1e3 * seconds(step, variables["params"], image):.1f}')
    print(f'| {side} x {side} x {channels} | {" | ".join(cells)} |')


def main(_):
  convolutions()
  normalization()


if __name__ == '__main__':
  app.run(main)
