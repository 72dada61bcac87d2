"""The Segmenter: shapes, sizes, starting point, options, wrong input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from pnx_jax.errors import UserError
from pnx_jax.models import segmenter

# Less time to compile, more to run: these networks run once.
QUICK = {'xla_backend_optimization_level': 0}
IMAGE = np.random.default_rng(0).random((2, 32, 32, 1), np.float32)


def shapes(model, size=64):
  image = jnp.zeros((1, size, size, 1))
  return jax.eval_shape(
    lambda: model.init(jax.random.key(0), image, train=False)
  )


def count(tree):
  return sum(array.size for array in jax.tree.leaves(tree))


def drawn(shapes):
  """Variables of these shapes, with which few activations are dead."""
  centers = {'scale': 1.0, 'var': 1.0, 'bias': 0.3}
  random = np.random.default_rng(0)

  def draw(path, shape):
    center = centers.get(path[-1].key, 0.0)
    return random.normal(center, 0.1, shape.shape).astype(np.float32)

  return jax.tree.map_with_path(draw, shapes)


@functools.cache
def run(**settings):
  """Outputs and gradients of a small network on IMAGE, in training mode."""
  model = segmenter.create_model(**{'width': 4, 'depth': 2, **settings})
  variables = drawn(shapes(model))

  def loss(params, constants):
    outputs, changed = model.apply(
      {'params': params, **constants},
      IMAGE,
      train=True,
      mutable=['batch_stats'],
      rngs={'dropout': jax.random.key(1)},
    )
    total = sum(jnp.mean(x**2) for x in jax.tree.leaves(outputs))
    return total, (outputs, changed)

  constants = {k: v for k, v in variables.items() if k != 'params'}
  gradients, (outputs, changed) = jax.jit(
    jax.grad(loss, has_aux=True), compiler_options=QUICK
  )(variables['params'], constants)
  return variables, outputs, gradients, changed


@pytest.mark.parametrize(
  'settings',
  [
    {'encoder': 'unet'},
    {'encoder': 'resunet', 'normalization': 'group'},
    {'encoder': '_tiny_resnet', 'attention': True, 'normalization': 'frozen'},
    {'encoder': '_tiny_se_resnext', 'decoder': 'unetpp'},
    {
      'encoder': '_tiny_efficientnet',
      'drop_path': 0.2,
      'deep_supervision': True,
    },
    {'encoder': '_tiny_lite', 'dtype': 'bfloat16'},
    {'encoder': 'unet', 'output_stride': 2},
    {
      'encoder': '_tiny_resnet',
      'decoder': 'unetpp',
      'depth': 4,
      'deep_supervision': True,
      'output_stride': 4,
    },
  ],
  ids=lambda settings: '-'.join(map(str, settings.values())),
)
def test_every_parameter_learns(settings):
  _, outputs, gradients, _ = run(**settings)
  assert outputs['mask_logits'].shape == (2, 32, 32, 1)
  assert outputs['presence_logit'].shape == (2,)
  for output in jax.tree.leaves(outputs):
    assert output.dtype == jnp.float32
    assert np.isfinite(output).all()
  for path, gradient in jax.tree.leaves_with_path(gradients):
    assert gradient.dtype == jnp.float32
    assert np.any(gradient), jax.tree_util.keystr(path)


def test_deep_supervision_has_a_head_at_strides_2_4_and_8():
  model = segmenter.create_model(
    encoder='resnet34', depth=5, deep_supervision=True
  )
  outputs = jax.eval_shape(
    lambda: model.init_with_output(
      jax.random.key(0), jnp.zeros((1, 64, 64, 1)), train=False
    )[0]
  )
  sizes = [logits.shape[1] for logits in outputs['deep_logits']]
  assert sizes == [32, 16, 8]


@pytest.mark.parametrize('encoder', ['unet', 'resunet', 'resnet34'])
@pytest.mark.parametrize('decoder', ['unet', 'unetpp'])
@pytest.mark.parametrize('stride, deep', [(2, [16, 8]), (4, [8])])
def test_masks_have_the_images_size_at_every_output_stride(
  encoder, decoder, stride, deep
):
  model = segmenter.create_model(
    encoder=encoder,
    decoder=decoder,
    depth=5,
    deep_supervision=True,
    output_stride=stride,
  )
  outputs, variables = jax.eval_shape(
    lambda: model.init_with_output(
      jax.random.key(0), jnp.zeros((1, 64, 64, 1)), train=False
    )
  )
  assert outputs['mask_logits'].shape == (1, 64, 64, 1)
  assert [logits.shape[1] for logits in outputs['deep_logits']] == deep
  assert variables['params']['mask']['kernel'].shape[-1] == stride**2
  blocks = variables['params']['decoder']
  assert min(int(name.split('_')[0][6:]) for name in blocks) == stride


def test_published_encoders_do_not_depend_on_the_output_stride():
  """So that published weights load as before."""
  encoders = [
    shapes(
      segmenter.create_model(encoder='resnet34', depth=5, output_stride=stride)
    )['params']['encoder']
    for stride in (1, 2, 4)
  ]
  assert encoders[0] == encoders[1] == encoders[2]


def test_a_sub_pixel_head_starts_without_a_checkerboard():
  model = segmenter.create_model(
    encoder='unet', width=4, depth=2, output_stride=2
  )
  outputs, _ = jax.jit(
    lambda key: model.init_with_output(key, IMAGE, train=False),
    compiler_options=QUICK,
  )(jax.random.key(0))
  logits = outputs['mask_logits']
  squares = np.asarray(logits).reshape(2, 16, 2, 16, 2)
  np.testing.assert_array_equal(squares, squares[:, :, :1, :, :1] + 0 * squares)
  assert np.std(squares[:, :, 0, :, 0]) > 0


@pytest.mark.parametrize('output_stride', [1, 2])
def test_starts_at_the_prevalences(output_stride):
  model = segmenter.create_model(
    encoder='unet',
    width=4,
    depth=2,
    image_prevalence=0.3,
    output_stride=output_stride,
  )
  variables = jax.jit(
    lambda key: model.init(key, IMAGE, train=False), compiler_options=QUICK
  )(jax.random.key(0))
  params = variables['params']
  np.testing.assert_allclose(
    jax.nn.sigmoid(params['mask']['bias']), 0.003, rtol=1e-5
  )
  assert jax.nn.sigmoid(params['presence']['bias']) == pytest.approx(0.3)


def test_presence_can_start_as_the_largest_mask_logit():
  model = segmenter.create_model(
    encoder='unet',
    width=4,
    depth=2,
    pixel_prevalence=0.1,
    image_prevalence=0.3,
    presence_from_mask=True,
  )
  outputs, _ = jax.jit(
    lambda key: model.init_with_output(key, IMAGE, train=False),
    compiler_options=QUICK,
  )(jax.random.key(0))
  largest = outputs['mask_logits'].max(axis=(1, 2, 3))
  # Where no pixel stands out, an image has the prevalence of images.
  wanted = largest - scipy.special.logit(0.1) + scipy.special.logit(0.3)
  np.testing.assert_allclose(outputs['presence_logit'], wanted, rtol=1e-4)


def test_recomputed_activations_change_nothing():
  variables, outputs, gradients, _ = run(encoder='unet')
  again = run(encoder='unet', remat=True)
  assert jax.tree.structure(variables) == jax.tree.structure(again[0])
  for ours, theirs in ((outputs, again[1]), (gradients, again[2])):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), ours, theirs
    )


def test_frozen_normalization_holds_for_the_encoder_alone():
  variables, _, _, changed = run(
    encoder='_tiny_resnet', attention=True, normalization='frozen'
  )
  before, after = variables['batch_stats'], changed['batch_stats']

  def same(part):
    return all(
      jax.tree.leaves(
        jax.tree.map(lambda a, b: (a == b).all(), before[part], after[part])
      )
    )

  assert same('encoder') and not same('decoder')


# Parameters of a U-Net with one input channel and decoder channels 256 to 16:
# segmentation-models-pytorch's own count for ResNet-34, SE-ResNeXt-50 and B0
# (less EfficientNet's unused head), for the others counted here; the presence
# head adds two per bottleneck channel, one for the mask and a bias.
@pytest.mark.parametrize(
  'encoder, unet, bottleneck',
  [
    ('resnet34', 24_430_097, 512),
    ('resnet50', 32_514_833, 2048),
    ('se_resnext50', 34_517_697, 2048),
    ('efficientnet_b0', 5_838_733, 320),
    ('efficientnet_b1', 8_344_369, 320),
    ('efficientnet_b2', 9_547_283, 352),
    ('efficientnet_b3', 12_565_417, 384),
    ('efficientnet_b4', 19_418_425, 448),
    ('efficientnet_b5', 30_162_465, 512),
    ('efficientnet_b6', 42_492_473, 576),
    ('efficientnet_b7', 65_450_657, 640),
    ('efficientnet_lite0', 5_202_193, 320),
    ('efficientnet_lite1', 5_966_865, 320),
    ('efficientnet_lite2', 6_702_673, 352),
    ('efficientnet_lite3', 8_881_937, 384),
    ('efficientnet_lite4', 13_821_457, 448),
  ],
)
def test_parameter_counts_of_the_pretrained_families(encoder, unet, bottleneck):
  model = segmenter.create_model(encoder=encoder, width=16, depth=5)
  assert count(shapes(model)['params']) == unet + 2 * bottleneck + 2


@pytest.mark.parametrize(
  'settings, parameters',
  [
    ({'encoder': 'unet', 'width': 64}, 31_386_243),
    ({'encoder': 'resunet', 'width': 32}, 8_035_651),
    ({'encoder': 'unet', 'decoder': 'unetpp', 'width': 32}, 9_160_387),
  ],
)
def test_parameter_counts_of_the_plain_networks(settings, parameters):
  assert (
    count(shapes(segmenter.create_model(**settings))['params']) == parameters
  )


def test_presence_reads_the_mask_without_changing_it():
  model = segmenter.create_model(encoder='unet', width=4, depth=2)
  image = jax.random.uniform(jax.random.key(0), (2, 16, 16, 1))
  variables = model.init(jax.random.key(1), image, train=False)

  def presence(params):
    outputs = model.apply({**variables, 'params': params}, image, train=False)
    return outputs['presence_logit'].sum()

  params = variables['params']
  raised = jax.tree.map(lambda x: x, params)
  raised['mask']['bias'] = raised['mask']['bias'] + 1.0
  # The last weight of the head is the mask's: two images, one unit each.
  assert presence(raised) - presence(params) == pytest.approx(
    2 * float(params['presence']['kernel'][-1, 0]), rel=1e-3
  )
  gradient = jax.grad(presence)(params)
  assert not any(map(jnp.any, jax.tree.leaves(gradient['mask'])))
  assert jnp.any(gradient['presence']['kernel'][-1])


@pytest.mark.parametrize(
  'settings, words',
  [
    ({'encoder': 'resnet43'}, "'resnet34'"),
    ({'encoder': '_tiny_net'}, '^((?!_tiny_(resnet|lite)).)*$'),
    ({'encoder': 'unet', 'decoder': 'unetplus'}, "'unetpp'"),
    ({'encoder': 'unet', 'normalization': 'batchnorm'}, "'batch'"),
    ({'encoder': 'unet', 'drop_path': 0.1}, 'drop_path'),
    ({'encoder': 'resnet34', 'depth': 6}, 'depth of 1 to 5'),
    ({'encoder': 'unet', 'output_stride': 3}, '1, 2 or 4, not 3'),
    ({'encoder': 'unet', 'depth': 2, 'output_stride': 4}, 'raise depth'),
    (
      {
        'encoder': 'unet',
        'depth': 2,
        'output_stride': 2,
        'deep_supervision': True,
      },
      'deep_supervision has no stride left',
    ),
  ],
)
def test_wrong_settings_are_one_line(settings, words):
  with pytest.raises(UserError, match=words) as error:
    segmenter.create_model(**settings)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'shape, words',
  [
    ((1, 40, 32, 1), '40 is not divisible by 16'),
    ((1, 32, 250, 1), '250 is not divisible by 16.*: 256'),
    ((1, 32, 32, 3), '3 channels'),
  ],
)
def test_wrong_images_are_one_line(shape, words):
  model = segmenter.create_model(encoder='unet', width=4, depth=4)
  with pytest.raises(UserError, match=words):
    jax.eval_shape(
      lambda: model.init(jax.random.key(0), jnp.zeros(shape), train=False)
    )
