"""Networks and ensembles against numpy: mirror images, scales, batches."""

import dataclasses
import gc
import types
import weakref

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from pnx_jax.errors import UserError
from pnx_jax.evaluation import dataset_predictor
from pnx_jax.evaluation.dataset_predictor import DatasetPredictor
from pnx_jax.input import pipeline
from pnx_jax.metrics.dice import THRESHOLDS
from pnx_jax.prediction.deployment import Deployment, Member, NetworkReader
from pnx_jax.prediction.ensemble import Ensemble, digest, version
from pnx_jax.prediction.network import SIZE, Network, known_probability
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

  def read_ahead(self, indices):
    del indices

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
  """Pixel centers at (i + 0.5) / n, edges held."""

  def weights(old):
    center = (np.arange(size) + 0.5) * old / size - 0.5
    low = np.floor(center)
    matrix = np.zeros((size, old))
    for offset, weight in ((0, 1 - center + low), (1, center - low)):
      column = np.clip(low + offset, 0, old - 1).astype(int)
      np.add.at(matrix, (np.arange(size), column), weight)
    return matrix

  return weights(image.shape[0]) @ image @ weights(image.shape[1]).T


def _network(seed=0, **options):
  return Network(
    model=Tiny(),
    variables=_variables(seed),
    **{'image_size': SIDE, 'image_probability': 'presence_head'} | options,
  )


def test_predictions_average_the_image_and_its_mirror_image(films):
  network = _network()
  found = network(films.images[:3, ..., None])
  for row, image in enumerate(films.images[:3] / 255):
    mirrored = _convolution(network.variables, image[:, ::-1])[:, ::-1]
    mean = (_convolution(network.variables, image) + mirrored) / 2
    np.testing.assert_allclose(
      found['probs'][row], _bilinear(mean, SIZE), atol=1e-5
    )
    sides = [4 * part.mean() for part in (image[:, :4], image[:, -4:])]
    np.testing.assert_allclose(
      found['probability'][row], _sigmoid(np.array(sides)).mean(), rtol=1e-5
    )


def test_predictions_average_scales(films):
  network = _network(flip=False, scales=(1.0, 1.7))
  image = films.images[0] / 255
  found = network(films.images[:1, ..., None])
  # 16 x 1.7 is 27.2; the network takes multiples of 4.
  larger = _convolution(network.variables, _bilinear(image, 28))
  same = _convolution(network.variables, image)
  expected = (_bilinear(same, SIZE) + _bilinear(larger, SIZE)) / 2
  np.testing.assert_allclose(found['probs'][0], expected, atol=1e-5)


def test_larger_images_are_resized_to_the_network(films):
  network = _network(flip=False)
  doubled = films.images[:1].repeat(2, 1).repeat(2, 2)[..., None]
  found = network(doubled)
  # Halving with antialiasing weighs four pixels by 1/8, 3/8, 3/8, 1/8.
  image = np.pad(doubled[0, ..., 0] / 255, 1, mode='edge')
  weights = np.array([1, 3, 3, 1]) / 8
  windows = np.lib.stride_tricks.sliding_window_view(image, (4, 4))[::2, ::2]
  halved = np.einsum('hwij,i,j->hw', windows, weights, weights)
  expected = _bilinear(_convolution(network.variables, halved), SIZE)
  margin = 3 * SIZE // SIDE  # The edges have weights of their own.
  inner = slice(margin, -margin)
  np.testing.assert_allclose(
    found['probs'][0, inner, inner], expected[inner, inner], atol=1e-5
  )


def test_an_untrained_presence_head_leaves_the_most_probable_pixel(films):
  found = _network(image_probability='largest_pixel')(films.images[..., None])
  np.testing.assert_array_equal(
    found['probability'], found['probs'].max(axis=(1, 2))
  )


def test_the_mean_probability_is_that_of_presence_head_and_largest_pixel(films):
  images = films.images[..., None]
  found = _network(image_probability='mean')(images)
  head = _network()(images)['probability']
  largest = np.asarray(found['probs']).max(axis=(1, 2))
  assert np.abs(head - largest).max() > 0.01
  np.testing.assert_allclose(
    found['probability'], (head + largest) / 2, rtol=1e-6
  )


def test_an_untrained_presence_head_gives_no_probability():
  config = default.get_config()
  for wanted in ('presence_head', 'mean'):
    config.losses.presence = 0.3
    assert known_probability(config, wanted) == wanted
    config.losses.presence = 0.0
    assert known_probability(config, wanted) == 'largest_pixel'


def test_old_versions_of_networks_stay():
  """They stand in worklists: of the weights and these options alone."""
  for kind, trained in (('presence_head', True), ('largest_pixel', False)):
    network = _network(image_probability=kind)
    weights = map(np.asarray, jax.tree.leaves([network.variables]))
    options = [[(SIDE, trained)], True, (1.0,)]
    assert version([network]) == digest(repr(options).encode(), *weights)
  assert version([_network(image_probability='mean')]) not in {
    version([_network(image_probability=kind)])
    for kind in ('presence_head', 'largest_pixel')
  }


@pytest.fixture
def loads(monkeypatch):
  """Networks by fold, and a list of the folds that were loaded."""
  loaded = []

  def load(workdir, fold, *, place, mesh, **options):
    loaded.append(fold)
    network = _network(fold, steps=(fold,), **options)
    put = jax.device_put(network.variables, sharding.replicated(mesh))
    return dataclasses.replace(network, variables=put)

  monkeypatch.setattr(Network, 'load', load)
  monkeypatch.setattr(
    Deployment,
    'members',
    lambda self, workdir, folds=(): [Member('run', n) for n in self.folds],
  )
  return loaded


def _reader(folds, *, mesh=None, **changes):
  deployment = Deployment(
    runs=('.',),
    folds=tuple(folds),
    checkpoints=1,
    flip=True,
    scales=(1.0,),
    window='auto',
  )
  deployment = dataclasses.replace(deployment, **changes)
  return NetworkReader('run', deployment, mesh or sharding.mesh())


def _predictor(folds, *, batch_size=8, mesh=None):
  loader = pipeline.Loader(batch_size=batch_size, threads=2)
  return DatasetPredictor(_reader(folds, mesh=mesh).ensemble(), loader)


def _one_device():
  return jax.make_mesh(
    (1,),
    ('data',),
    axis_types=(jax.sharding.AxisType.Auto,),
    devices=jax.devices()[:1],
  )


def test_statistics_are_those_of_the_probabilities(films, loads):
  together = _predictor([0])
  statistics = together.statistics(films)
  predictions = list(together.probabilities(films))
  assert len(predictions) == len(films) == len(statistics['truth_area'])
  for row, (probs, probability) in enumerate(predictions):
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
  everywhere = _predictor([0]).statistics(films)
  monkeypatch.setattr(Films, 'records', [wide] * len(films))
  inside = _predictor([0]).statistics(films)
  for row, (probs, _) in enumerate(_predictor([0]).probabilities(films)):
    film = probs[SIZE // 4 : 3 * SIZE // 4]
    for level in (3, 14, 25):
      area = (film > np.float32(THRESHOLDS[level])).sum()
      assert inside['predicted_area'][row, level] == area
  assert np.all(inside['predicted_area'] <= everywhere['predicted_area'])
  assert np.any(inside['predicted_area'] < everywhere['predicted_area'])


def test_statistics_do_not_depend_on_batches_and_devices(films, loads):
  expected = _predictor([0]).statistics(films)
  found = _predictor([0], batch_size=3, mesh=_one_device()).statistics(films)
  assert found.keys() == expected.keys()
  for name in ('truth_area', 'predicted_area', 'intersection'):
    # Counting is exact; a network's last bits may depend on the batch.
    np.testing.assert_allclose(found[name], expected[name], atol=20)
  np.testing.assert_allclose(found['probability'], expected['probability'])


def test_an_ensemble_is_the_mean_of_its_networks(films):
  networks = [_network(seed) for seed in range(3)]
  ensemble = Ensemble(networks=networks)
  images = films.images[:2, ..., None]
  alone = [network(images) for network in networks]
  found = ensemble(images)
  for name in ('probs', 'probability'):
    expected = np.mean([each[name] for each in alone], axis=0)
    np.testing.assert_allclose(found[name], expected, atol=1e-6)
  expected = np.std([each['probability'] for each in alone], axis=0, ddof=1)
  np.testing.assert_allclose(found['spread'], expected, atol=1e-6)
  assert 'spread' not in Ensemble(networks=networks[:1])(images)
  (one,) = [ensemble.networks[0]]
  single = dataclasses.replace(ensemble, networks=[one])
  np.testing.assert_array_equal(single(images)['probs'], alone[0]['probs'])


def test_chunks_of_a_dataset_have_the_mean_of_the_networks(
  films, loads, monkeypatch, caplog
):
  alone = [list(_predictor([fold]).probabilities(films)) for fold in (0, 1, 2)]
  loads.clear()
  monkeypatch.setattr(dataset_predictor, '_CHUNK', 4)
  monkeypatch.setattr(dataset_predictor, '_LOG_SECONDS', 0)
  with caplog.at_level('INFO', dataset_predictor.__name__):
    together = list(_predictor([0, 1, 2]).probabilities(films))
  assert [line.rpartition(',')[0] for line in caplog.messages] == [
    f'Predicted {done} of 11 images' for done in (4, 8, 11)
  ]
  assert caplog.messages[-1].endswith(', 0:00:00 left.')
  # One chunk after the other, and in each one network after the other.
  assert loads == [0, 1, 2] * 3
  for row, (probs, probability) in enumerate(together):
    expected = np.mean([each[row][0] for each in alone], axis=0)
    np.testing.assert_allclose(probs, expected, atol=1e-6)
    expected = np.mean([each[row][1] for each in alone])
    assert probability == pytest.approx(expected, abs=1e-6)


def test_one_network_at_a_time_is_in_memory(films, loads, monkeypatch):
  loaded, in_memory = [], []
  load = Network.load

  def counted(*arguments, **options):
    gc.collect()
    in_memory.append(sum(weights() is not None for weights in loaded))
    network = load(*arguments, **options)
    loaded.append(weakref.ref(jax.tree.leaves(network.variables)[0]))
    return network

  monkeypatch.setattr(Network, 'load', counted)
  _predictor([0, 1, 2]).statistics(films)
  assert in_memory == [0, 0, 0]  # When the next one is read.


def test_steps_are_noted_and_others_than_the_evaluated_are_refused(loads):
  reader = _reader([0, 1])
  assert [network.steps for network in reader.ensemble().networks] == [
    (0,),
    (1,),
  ]
  assert reader.steps == {Member('run', 0): (0,), Member('run', 1): (1,)}
  same = _reader([0, 1], steps=((0,), (1,)))
  assert len(list(same.ensemble().networks)) == 2
  other = _reader([0, 1], steps=((0,), (2,)))
  with pytest.raises(UserError, match='trained on since it was evaluated'):
    list(other.ensemble().networks)
  with pytest.raises(UserError, match='trained on since it was evaluated'):
    _reader([0, 1], steps=((0,),))


def _deployment(runs, folds, checkpoints=1):
  return Deployment(
    runs=tuple(runs),
    folds=tuple(folds),
    checkpoints=checkpoints,
    flip=True,
    scales=(1.0,),
    window='auto',
  )


@pytest.fixture
def runs(tmp_path):
  """Runs a, b and c of two folds; c has no loss of the presence head."""
  for name, weight in (('a', 0.3), ('b', 0.5), ('c', 0.0)):
    config = default.get_config()
    config.losses.presence = weight
    run_files.write(tmp_path / name, config, ['image'])
    for fold in (0, 1):
      (tmp_path / name / f'fold{fold}/checkpoints/1').mkdir(parents=True)
  return tmp_path


def test_runs_whose_probabilities_differ_in_kind_are_not_ensembled(runs):
  assert _deployment(['.', '../b'], [0]).members(runs / 'a')
  assert _deployment(['.'], [0]).members(runs / 'c')
  with pytest.raises(UserError, match=r'cannot ensemble .*a and .*c: the prob'):
    _deployment(['.', '../b', '../c'], [0]).members(runs / 'a')


def test_members_are_all_that_were_trained(runs):
  found = _deployment(['.', '../b'], [1]).members(runs / 'a')
  assert found == [Member(str(runs / name), 1, None) for name in 'ab']
  deployment = _deployment(['.', '../b'], [0, 1], checkpoints=3)
  assert len(set(deployment.members(runs / 'a'))) == 12
  assert len(set(deployment.members(runs / 'a', [1]))) == 6
  with pytest.raises(UserError, match='no checkpoint of fold 2: train it'):
    _deployment(['.'], [0, 2]).members(runs / 'a')
