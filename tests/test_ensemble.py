"""Ensembles against numpy: members, mirror images, scales, batches, devices."""

import dataclasses
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from pnx_jax.errors import UserError
from pnx_jax.input import pipeline
from pnx_jax.metrics.dice import THRESHOLDS
from pnx_jax.prediction import ensemble as ensembles
from pnx_jax.prediction.network import SIZE, Member, Network, compiled_predict
from pnx_jax.training import run_files, sharding

SIDE = 16


class Tiny(nn.Module):
  """Not symmetric, so that mirroring shows."""

  depth: int = 2

  @nn.compact
  def __call__(self, image, train):
    return {
      'mask_logits': nn.Conv(1, (3, 3), name='mask')(image) * 9,
      'presence_logit': image[:, :, :4].mean(axis=(1, 2, 3)) * 4,
    }


@dataclasses.dataclass(frozen=True)
class Films:
  """A dataset in memory."""

  images: np.ndarray
  labels: np.ndarray

  @property
  def records(self):
    side = {'height': SIZE, 'width': SIZE, 'pixel_aspect': 1.0}
    return [
      types.SimpleNamespace(image_id=str(i), **side) for i in range(len(self))
    ]

  def __len__(self):
    return len(self.images)

  def image(self, index, size):
    assert size == SIDE
    return self.images[index]

  def label(self, index, size):
    label = self.labels[index]
    return label.repeat(size // SIDE, 0).repeat(size // SIDE, 1)


@pytest.fixture(scope='module')
def films():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (11, SIDE, SIDE), np.uint8)
  return Films(images, rng.random((11, SIDE, SIDE)) < 0.3)


def _variables(seed):
  image = jnp.zeros((1, SIDE, SIDE, 1))
  return Tiny().init(jax.random.key(seed), image, train=False)


def _sigmoid(x):
  return 1 / (1 + np.exp(-x))


def _convolution(variables, image):
  """What Tiny makes of one image f64[S, S], in plain numpy."""
  kernel = np.asarray(variables['params']['mask']['kernel'])[:, :, 0, 0]
  padded = np.pad(image, 1)
  windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
  return _sigmoid(9 * (windows * kernel).sum((2, 3)))


def _bilinear(image, size):
  """Pixel centres at (i + 0.5) / n, edges held."""

  def weights(old):
    centre = (np.arange(size) + 0.5) * old / size - 0.5
    low = np.floor(centre)
    matrix = np.zeros((size, old))
    for offset, weight in ((0, 1 - centre + low), (1, centre - low)):
      column = np.clip(low + offset, 0, old - 1).astype(int)
      np.add.at(matrix, (np.arange(size), column), weight)
    return matrix

  return weights(image.shape[0]) @ image @ weights(image.shape[1]).T


def test_predictions_average_the_image_and_its_mirror_image(films):
  variables = _variables(0)
  answer = compiled_predict()(
    variables,
    films.images[:3, ..., None],
    model=Tiny(),
    presence=True,
    size=64,
  )
  for row, image in enumerate(films.images[:3] / 255):
    mirrored = _convolution(variables, image[:, ::-1])[:, ::-1]
    mean = (_convolution(variables, image) + mirrored) / 2
    np.testing.assert_allclose(
      answer['probs'][row], _bilinear(mean, 64), atol=1e-5
    )
    sides = [4 * part.mean() for part in (image[:, :4], image[:, -4:])]
    np.testing.assert_allclose(
      answer['probability'][row], _sigmoid(np.array(sides)).mean(), rtol=1e-5
    )


def test_predictions_average_scales(films):
  variables = _variables(0)
  image = films.images[:1] / 255
  answer = compiled_predict()(
    variables,
    films.images[:1, ..., None],
    model=Tiny(),
    presence=True,
    size=64,
    flip=False,
    scales=(1.0, 1.7),
  )
  # 16 x 1.7 is 27.2; the network takes multiples of 4.
  larger = _convolution(variables, _bilinear(image[0], 28))
  expected = _bilinear(_convolution(variables, image[0]), 64)
  expected = (expected + _bilinear(larger, 64)) / 2
  np.testing.assert_allclose(answer['probs'][0], expected, atol=1e-5)


def test_where_no_presence_head_was_trained_the_surest_pixel_counts(films):
  answer = compiled_predict()(
    _variables(0),
    films.images[..., None],
    model=Tiny(),
    presence=False,
    size=32,
  )
  np.testing.assert_array_equal(
    answer['probability'], answer['probs'].max(axis=(1, 2))
  )


@pytest.fixture
def loads(monkeypatch):
  """Networks by member, and a list of what was loaded."""
  loaded = []

  def load(member, mesh):
    loaded.append(member.fold)
    put = jax.device_put(_variables(member.fold), sharding.replicated(mesh))
    return Network(Tiny(), put, SIDE, (1,), presence=True)

  monkeypatch.setattr(Network, 'load', load)
  return loaded


def _ensemble(folds, *, batch_size=8, mesh=None, **options):
  return ensembles.Ensemble(
    [Member('run', fold) for fold in folds],
    mesh=mesh or sharding.mesh(),
    reading=pipeline.Loader(batch_size=batch_size, threads=2),
    **options,
  )


def _one_device():
  return jax.make_mesh(
    (1,),
    ('data',),
    axis_types=(jax.sharding.AxisType.Auto,),
    devices=jax.devices()[:1],
  )


def test_statistics_are_those_of_the_probabilities(films, loads):
  together = _ensemble([0])
  statistics = together.statistics(films)
  answers = list(together.probabilities(films))
  assert len(answers) == len(films) == len(statistics['truth_area'])
  for row, (probs, probability) in enumerate(answers):
    truth = films.label(row, SIZE)
    assert statistics['truth_area'][row] == truth.sum()
    assert statistics['probability'][row] == np.float32(probability)
    for level in (3, 14, 25):
      mask = probs > np.float32(THRESHOLDS[level])
      assert statistics['predicted_area'][row, level] == mask.sum()
      assert statistics['intersection'][row, level] == (mask & truth).sum()
  assert loads == [0]


def test_nothing_is_found_beside_a_film(films, loads, monkeypatch):
  wide = types.SimpleNamespace(
    image_id='wide', height=SIZE // 2, width=SIZE, pixel_aspect=1.0
  )
  everywhere = _ensemble([0]).statistics(films)
  monkeypatch.setattr(Films, 'records', [wide] * len(films))
  inside = _ensemble([0]).statistics(films)
  for row, (probs, _) in enumerate(_ensemble([0]).probabilities(films)):
    film = probs[SIZE // 4 : 3 * SIZE // 4]
    for level in (3, 14, 25):
      area = (film > np.float32(THRESHOLDS[level])).sum()
      assert inside['predicted_area'][row, level] == area
  assert np.all(inside['predicted_area'] <= everywhere['predicted_area'])
  assert np.any(inside['predicted_area'] < everywhere['predicted_area'])


def test_statistics_do_not_depend_on_batches_and_devices(films, loads):
  expected = _ensemble([0]).statistics(films)
  found = _ensemble([0], batch_size=3, mesh=_one_device()).statistics(films)
  assert found.keys() == expected.keys()
  for name in ('truth_area', 'predicted_area', 'intersection'):
    # Counting is exact; a network's last bits may depend on the batch.
    np.testing.assert_allclose(found[name], expected[name], atol=20)
  np.testing.assert_allclose(found['probability'], expected['probability'])


def test_an_ensemble_answers_with_the_mean(films, loads, monkeypatch):
  alone = [list(_ensemble([fold]).probabilities(films)) for fold in (0, 1, 2)]
  loads.clear()
  monkeypatch.setattr(ensembles, '_CHUNK', 4)
  together = list(_ensemble([0, 1, 2]).probabilities(films))
  # One chunk after the other, and in each one member after the other.
  assert loads == [0, 1, 2] * 3
  for row, (probs, probability) in enumerate(together):
    expected = np.mean([answers[row][0] for answers in alone], axis=0)
    np.testing.assert_allclose(probs, expected, atol=1e-6)
    expected = np.mean([answers[row][1] for answers in alone])
    assert probability == pytest.approx(expected, abs=1e-6)


def test_probabilities_of_two_kinds_are_not_averaged(tmp_path):
  runs = [str(tmp_path / name) for name in 'abc']
  for run, weight in zip(runs, (0.3, 0.5, 0.0), strict=True):
    config = default.get_config()
    config.losses.presence = weight
    run_files.write(run, config, ['image'])
  ensembles.check_alike(runs[:2])
  with pytest.raises(UserError, match='c cannot answer together'):
    ensembles.check_alike(runs)


def test_members_are_all_that_were_trained(tmp_path):
  for run in ('a', 'b'):
    for fold in (0, 1):
      (tmp_path / run / f'fold{fold}' / 'checkpoints' / '1').mkdir(parents=True)
  runs = [str(tmp_path / run) for run in ('a', 'b')]
  found = ensembles.members(runs, folds=[1])
  assert found == [Member(run, 1, None) for run in runs]
  found = ensembles.members(runs, folds=[0, 1], checkpoints=3)
  assert len(set(found)) == 12
  with pytest.raises(UserError, match='no checkpoint of fold 2: train it'):
    ensembles.members(runs, folds=[0, 2])
