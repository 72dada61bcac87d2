"""Times the forms of convolution and batch normalization on a CPU.

    python -m benchmarks.layers

Convolutions of 3x3, forward and both gradients, with XLA's default options and
with those of `models.compiled`; batch normalization with ReLU, forward and
gradient, by Flax and by `models.batch_norm`; other layers, forward alone and
with all gradients, in XLA's form and in that of `models.cpu`, by the
processor's time, which other jobs hardly change; repeated blocks of
EfficientNet-B4 one after another and in a scan. Batches of 4.
"""

import functools
import time
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from pnx_jax.models import compiled, convolution, cpu, efficientnet
from pnx_jax.models.batch_norm import BatchNorm
from pnx_jax.models.layers import Norm, Style

_CALLS = flags.DEFINE_integer('calls', 9, 'Of which the fastest counts.')
_TABLES = flags.DEFINE_list(
  'tables',
  ['convolutions', 'normalization', 'forms', 'scan'],
  'What is timed.',
)
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
# Side of the map, and the stage of EfficientNet-B4 at 256.
_STAGES = ((32, 2), (16, 3), (16, 4))
_KINDS = {'epsilon': 1e-5, 'momentum': 0.9, 'use_running_average': False}


def seconds(function, *arguments, clock=time.perf_counter):
  """Of the fastest call, compilation left out."""
  jax.block_until_ready(function(*arguments))
  found = []
  for _ in range(_CALLS.value):
    start = clock()
    jax.block_until_ready(function(*arguments))
    found.append(clock() - start)
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


def operations() -> dict[str, tuple[Callable, tuple[np.ndarray, ...]]]:
  """Functions of arrays and of the `platform`, by what they are."""
  found = {}
  for side, below, skip, features in (
    (128, 64, 64, 32),
    (64, 128, 64, 64),
    (32, 256, 128, 128),
    (16, 512, 256, 256),
    (256, 32, 0, 16),
  ):
    name = f'{side} x {side}: {below} upsampled and {skip} to {features}'
    found[name] = (
      _upsampled,
      (
        random(_BATCH, side // 2, side // 2, below),
        random(_BATCH, side, side, skip),
        random(3, 3, below + skip, features),
      ),
    )
  for side, channels, features, size, groups in (
    (128, 32, 4, 3, 1),
    (256, 16, 1, 3, 1),
    (8, 512, 512, 3, 1),
    (32, 512, 256, 1, 1),
    (64, 128, 128, 3, 32),
    (32, 256, 256, 3, 32),
    (64, 144, 144, 3, 144),
    (32, 240, 240, 5, 240),
    (16, 480, 480, 5, 480),
  ):
    kind = f'{groups} groups, ' if groups > 1 else ''
    found[f'{side} x {side}: {kind}{channels} to {features}, {size}x{size}'] = (
      functools.partial(convolution.convolve, groups=groups),
      (
        random(_BATCH, side, side, channels),
        random(size, size, channels // groups, features),
      ),
    )
  for side, channels in ((256, 16), (128, 64), (32, 128)):
    found[f'{side} x {side} x {channels}: batch normalization'] = (
      _normalized,
      (random(_BATCH, side, side, channels), *random(2, channels)),
    )
  found['128 x 128 x 64: 3x3 max pooling'] = (
    convolution.max_pool_overlapping,
    (random(_BATCH, 128, 128, 64),),
  )
  found['256 x 256 x 32: 2x2 max pooling'] = (
    convolution.max_pool,
    (random(_BATCH, 256, 256, 32),),
  )
  found['32 x 32 x 512: mean over places'] = (
    _mean,
    (random(_BATCH, 32, 32, 512),),
  )
  found['16 x 16 x 1024: weights of channels'] = (
    _scaled,
    (random(_BATCH, 16, 16, 1024), random(_BATCH, 1, 1, 1024)),
  )
  return found


def _upsampled(below, skip, kernel, *, platform):
  skips = [skip] if skip.shape[-1] else []
  return convolution.convolve_upsampled(below, skips, kernel, platform=platform)


def _normalized(x, scale, bias, *, platform):
  variables = {
    'params': {'batch': {'scale': scale, 'bias': bias}},
    'batch_stats': {'batch': {'mean': bias, 'var': scale}},
  }
  norm = Norm(Style(platform=platform, dtype=x.dtype))
  y, _ = norm.apply(variables, x, train=True, mutable='batch_stats')
  return nn.relu(y)


def _mean(x, *, platform):
  total = (
    cpu.place_sum(x) if platform == 'cpu' else x.sum((1, 2), keepdims=True)
  )
  return total / (x.shape[1] * x.shape[2])


def _scaled(x, weight, *, platform):
  return cpu.scale(x, weight) if platform == 'cpu' else x * weight


def with_gradients(function, platform):
  """A function that returns what `function` does, and all gradients."""

  def both(*arrays):
    y, backward = jax.vjp(
      functools.partial(function, platform=platform), *arrays
    )
    return y, backward(y)

  return both


def forms():
  print('ms of the processor: forward, forward and all gradients')
  print("| layer | XLA's form | ours |\n|---|---|---|")
  for name, (function, arrays) in operations().items():
    cells = []
    for platform in ('gpu', 'cpu'):
      forward = functools.partial(function, platform=platform)
      times = [
        1e3 * seconds(compiled.jit(f), *arrays, clock=time.process_time)
        for f in (forward, with_gradients(function, platform))
      ]
      cells.append(', '.join(f'{each:.1f}' for each in times))
    print(f'| {name} | {" | ".join(cells)} |', flush=True)


def scan():
  print('processor: s to compile, ms a call; forward and all gradients')
  print('| blocks | one after another | scan |\n|---|---|---|')
  style = Style(platform='cpu', padding='same', activation=nn.swish)
  for side, index in _STAGES:
    stage = efficientnet.stages(efficientnet.VARIANTS['efficientnet_b4'])[1][
      index
    ]
    block = efficientnet.Block(
      stage, stride=1, squeeze=True, drop_path=0.0, style=style
    )
    image = random(_BATCH, side, side, stage.features)
    count = stage.repeats - 1
    keys = jax.random.split(jax.random.key(0), count)
    variables = [block.init(key, image, False) for key in keys]
    cells = []
    for function in (_in_turn, _scanned):
      step = compiled.jit(functools.partial(_block_gradients, function, block))
      start = time.process_time()
      jax.block_until_ready(step(variables, image))
      compilation = time.process_time() - start
      call = seconds(step, variables, image, clock=time.process_time)
      cells.append(f'{compilation:.1f}, {1e3 * call:.0f}')
    name = f'{count}, {stage.kernel}x{stage.kernel}, {stage.features} channels'
    print(f'| {side} x {side}: {name} | {" | ".join(cells)} |', flush=True)


def _block_gradients(function, block, variables, image):
  def total(variables, image):
    y, statistics = function(block, variables, image)
    return (y * y).sum(), statistics

  return jax.grad(total, argnums=(0, 1), has_aux=True)(variables, image)


def _in_turn(block, variables, image):
  statistics = []
  for each in variables:
    image, changed = block.apply(each, image, True, mutable=['batch_stats'])
    statistics.append(changed)
  return image, statistics


def _scanned(block, variables, image):
  return jax.lax.scan(
    lambda image, each: block.apply(each, image, True, mutable=['batch_stats']),
    image,
    jax.tree.map(lambda *arrays: jnp.stack(arrays), *variables),
  )


def main(_):
  tables = {
    'convolutions': convolutions,
    'normalization': normalization,
    'forms': forms,
    'scan': scan,
  }
  for name in _TABLES.value:
    tables[name]()


if __name__ == '__main__':
  app.run(main)
