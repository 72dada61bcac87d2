"""Every form of an operation against the plain one, values and gradients."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pnx_jax.models import batch_norm, compiled, convolution, cpu, layers


def random(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape, np.float32)


def assert_same(form, plain, *arguments):
  """Equal values and equal gradients of a random projection."""

  def projected(function):
    def value(*arguments):
      y = function(*arguments)
      return jnp.sum(y * random(*y.shape, seed=1)), y

    return jax.jit(
      jax.value_and_grad(
        value, argnums=tuple(range(len(arguments))), has_aux=True
      )
    )(*arguments)

  (_, ours), our_gradients = projected(form)
  (_, theirs), their_gradients = projected(plain)
  for a, b in zip(
    (ours, *our_gradients), (theirs, *their_gradients), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())


@pytest.mark.parametrize(
  ('size', 'stride', 'features'), [(1, 1, 7), (1, 2, 7), (3, 1, 7), (3, 1, 2)]
)
def test_convolution_on_a_cpu(size, stride, features):
  on_cpu, on_gpu = (
    functools.partial(convolution.convolve, platform=platform, stride=stride)
    for platform in ('cpu', 'gpu')
  )
  kernel = random(size, size, 5, features)
  assert_same(on_cpu, on_gpu, random(2, 8, 6, 5), kernel)


@pytest.mark.parametrize('num_skips', [0, 1, 2])
@pytest.mark.parametrize('platform', ['cpu', 'any'])
def test_convolution_of_an_upsampled_map(platform, num_skips):
  skips = [random(2, 8, 6, 2, seed=2 + index) for index in range(num_skips)]

  def form(below, kernel, *skips):
    return convolution.convolve_upsampled(
      below, skips, kernel, platform=platform
    )

  def plain(below, kernel, *skips):
    enlarged = jnp.repeat(jnp.repeat(below, 2, axis=1), 2, axis=2)
    return jax.lax.conv_general_dilated(
      jnp.concatenate([enlarged, *skips], axis=-1),
      kernel,
      window_strides=(1, 1),
      padding='SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )

  kernel = random(3, 3, 5 + 2 * num_skips, 7)
  assert_same(form, plain, random(2, 4, 3, 5), kernel, *skips)


@pytest.mark.parametrize('size', [3, 5])
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('padding', ['symmetric', 'same'])
def test_depthwise(size, stride, padding):
  pads = (
    convolution.padding_of(8, kernel=size, stride=stride, padding=padding),
  ) * 2
  assert_same(
    lambda x, kernel: cpu.depthwise(x, kernel[:, :, 0], stride, pads),
    lambda x, kernel: convolution.direct(
      x, kernel, stride=stride, pads=pads, groups=3
    ),
    random(2, 8, 8, 3),
    random(size, size, 1, 3),
  )


@pytest.mark.parametrize('platform', ['cpu', 'gpu'])
@pytest.mark.parametrize('height', [7, 16])
def test_batch_normalization(platform, height):
  theirs = nn.BatchNorm(use_running_average=False, momentum=0.9, epsilon=1e-3)
  ours = batch_norm.BatchNorm(
    use_running_average=False,
    momentum=0.9,
    epsilon=1e-3,
    dtype=jnp.float32,
    platform=platform,
  )
  x = 3 + 2 * random(2, height, 5, 4)
  variables = theirs.init(jax.random.key(0), x)

  def applied(module):
    def apply(x, scale, bias):
      return module.apply(
        {**variables, 'params': {'scale': scale, 'bias': bias}},
        x,
        mutable='batch_stats',
      )

    return apply

  weights = random(4, seed=2), random(4, seed=3)
  assert_same(
    *(
      lambda *inputs, module=module: applied(module)(*inputs)[0]
      for module in (ours, theirs)
    ),
    x,
    *weights,
  )
  (_, found), (_, wanted) = (applied(m)(x, *weights) for m in (ours, theirs))
  same = functools.partial(np.testing.assert_allclose, rtol=1e-5)
  jax.tree.map(same, found, wanted)


def test_batch_normalization_keeps_the_type_of_its_input():
  x = jnp.asarray(random(2, 7, 5, 4), jnp.bfloat16)

  def projected(x, scale, bias):
    return jnp.sum(batch_norm.normalize(x, scale, bias, 1e-3, 'cpu')[0] ** 3)

  gradient = jax.grad(projected, argnums=(0, 1, 2))
  arguments = random(4, seed=2), random(4, seed=3)
  found = gradient(x, *arguments)
  wanted = gradient(x.astype(jnp.float32), *arguments)
  assert [each.dtype for each in found] == ['bfloat16', 'float32', 'float32']
  for ours, theirs in zip(found, wanted, strict=True):
    largest = np.abs(theirs).max()
    np.testing.assert_allclose(
      ours.astype(jnp.float32), theirs, atol=1e-2 * largest
    )


def test_an_option_unknown_to_xla_is_left_out(monkeypatch):
  compiled._has_options.cache_clear()
  monkeypatch.setattr(compiled, '_CPU_OPTIONS', {'xla_cpu_of_the_future': ''})
  assert compiled.jit(lambda x: x + 1)(1) == 2
  assert not compiled._has_options()
  monkeypatch.undo()
  compiled._has_options.cache_clear()
  assert compiled._has_options()


@pytest.mark.parametrize('stride', [1, 2])
def test_block_diagonal_convolution(monkeypatch, stride):
  monkeypatch.setattr(convolution, '_DENSE_CHANNELS', 4)
  settings = {'stride': stride, 'pads': ((1, 1), (1, 1)), 'groups': 4}
  assert_same(
    lambda *inputs: convolution.block_diagonal(*inputs, **settings),
    lambda *inputs: convolution.direct(*inputs, **settings),
    random(2, 8, 8, 8),
    random(3, 3, 2, 12),
  )


@pytest.mark.parametrize('size', [(16, 8), (7, 3), (1, 1)])
def test_sums_over_the_places_of_an_image(size):
  x = random(2, *size, 3)
  assert_same(cpu.place_sum, lambda x: x.sum(axis=(1, 2), keepdims=True), x)
  weight = random(2, 1, 1, 3, seed=1)
  assert_same(cpu.scale, jnp.multiply, x, weight)


def test_upsample_repeats_each_pixel():
  x = random(2, 3, 4, 2)
  np.testing.assert_array_equal(
    convolution.upsample(x), x.repeat(2, axis=1).repeat(2, axis=2)
  )


def test_depth_to_space_lays_channels_out_as_squares():
  x = random(2, 3, 4, 8)
  larger = convolution.depth_to_space(x, 2)
  assert larger.shape == (2, 6, 8, 2)
  for row in (0, 1):
    for column in (0, 1):
      first = 2 * (2 * row + column)
      np.testing.assert_array_equal(
        larger[:, row::2, column::2], x[..., first : first + 2]
      )
  np.testing.assert_array_equal(convolution.space_to_depth(larger, 2), x)


def test_pooling():
  x = random(2, 8, 12, 3)
  assert_same(
    functools.partial(convolution.max_pool, platform='cpu'),
    lambda x: nn.max_pool(x, (2, 2), (2, 2)),
    x,
  )
  assert_same(
    functools.partial(convolution.max_pool_overlapping, platform='cpu'),
    lambda x: nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))),
    x,
  )


def test_same_padding_equals_tensorflows():
  for size in range(4, 12):
    for kernel in (3, 5):
      x, weights = random(1, size, size, 1), random(kernel, kernel, 1, 1)
      pads = convolution.padding_of(
        size, kernel=kernel, stride=2, padding='same'
      )
      np.testing.assert_allclose(
        convolution.direct(x, weights, stride=2, pads=(pads, pads)),
        jax.lax.conv_general_dilated(
          x, weights, (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
        ),
      )


def test_standardized_kernels_have_no_mean_and_unit_fan_in():
  kernel = layers.standardize(3 + 2 * random(3, 3, 8, 4))
  np.testing.assert_allclose(kernel.mean((0, 1, 2)), 0, atol=1e-6)
  np.testing.assert_allclose(kernel.var((0, 1, 2)) * 72, 1, rtol=1e-3)


def test_drop_path_drops_whole_images_and_keeps_the_mean():
  x = np.ones((4096, 1, 1, 2), np.float32)
  kept = layers.DropPath(0.25).apply(
    {}, x, train=True, rngs={'dropout': jax.random.key(0)}
  )
  np.testing.assert_array_equal(kept[..., 0], kept[..., 1])
  assert set(np.unique(kept)) == {0, np.float32(4 / 3)}
  assert abs(kept.mean() - 1) < 0.05
  np.testing.assert_array_equal(layers.DropPath(0.25).apply({}, x, False), x)


def test_attention_weighs_channels_and_places():
  x = random(2, 4, 4, 32)
  module = layers.SpatialChannelExcite(layers.Style(platform='cpu'))
  variables = module.init(jax.random.key(0), x)
  ours = module.apply(variables, x)

  def sigmoid(x):
    return 1 / (1 + np.exp(-x))

  params = jax.tree.map(np.asarray, variables['params'])
  channels = params['channels']
  hidden = x.mean((1, 2)) @ channels['fc1']['kernel'][0, 0]
  weight = np.maximum(hidden, 0) @ channels['fc2']['kernel'][0, 0]
  place = x @ params['place']['kernel'][0, 0]
  theirs = x * sigmoid(weight)[:, None, None] + x * sigmoid(place)
  np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_frozen_normalization_keeps_its_statistics():
  x = 5 + random(4, 2, 2, 3)
  for kind, changes in (('batch', True), ('frozen', False)):
    norm = layers.Norm(layers.Style(platform='cpu', normalization=kind))
    variables = norm.init(jax.random.key(0), x, train=False)
    _, after = norm.apply(variables, x, train=True, mutable=['batch_stats'])
    before = variables['batch_stats']['batch']['mean']
    assert (after['batch_stats']['batch']['mean'] != before).any() == changes
