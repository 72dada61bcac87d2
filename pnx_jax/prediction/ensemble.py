"""Several networks whose predictions are averaged, and the rule that follows.

Memory does not grow with the number of networks: each needs to be there only
while it predicts, and of the predictions only the sums are kept.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from pnx_jax.prediction import evaluation_seal
from pnx_jax.prediction.network import Network, Probabilities
from pnx_jax.prediction.postprocess import Postprocess

_VERSION_LENGTH = 12

# Of one batch, by name; `image` is uint8[B, S, S, 1].
Batch = dict[str, Any]


class TrainedNetwork(Protocol):
  """A `Network`, or one that was exported."""

  @property
  def image_size(self) -> int:
    """Side of the square image that it takes."""
    ...

  def __call__(self, images: Any) -> Probabilities:
    """Predicts uint8[B, S, S, 1]."""
    ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ensemble:
  """Networks whose predictions are averaged, and what is done with the mean.

  Attributes:
    networks: at least one; may be read from disk when they are asked for.
    window: how gray levels are made of stored values, see
      `grayscale.to_uint8`.
    mesh: the devices that batches are split over; None for one device.
    postprocess: from the mean to a mask and a calibrated probability.
    version: tells networks apart: a digest of weights and augmentation.
    data: what the networks were trained and scored on, in words.
    seal: whether all this is as it was written, see `evaluation_seal`.
  """

  networks: Sequence[TrainedNetwork]
  window: str = 'auto'
  mesh: jax.sharding.Mesh | None = None
  postprocess: Postprocess = dataclasses.field(default_factory=Postprocess)
  version: str = ''
  data: str = ''
  seal: str = evaluation_seal.NOT_SEALED

  def __call__(self, images: Any) -> Probabilities:
    """The mean over all networks for uint8[B, S, S, 1]."""
    ((_, mean),) = self.means(lambda *_: [{'image': images}])
    return mean

  def means(
    self, batches: Callable[[TrainedNetwork, bool], Iterable[Batch]]
  ) -> Iterator[tuple[Batch, Probabilities]]:
    """The means over all networks of several batches.

    One network after the other predicts all batches; what is kept meanwhile
    are the sums. The last one streams: a single network keeps nothing.

    Args:
      batches: the same images for every network; takes the network and
        whether it is the last one.

    Yields:
      Each batch as it was made for the last network, and its mean.
    """
    sums = itertools.repeat(None)
    last = len(self.networks) - 1
    for number in range(last):
      sums = [each for _, each in self._added(number, batches, sums)]
    for batch, each in self._added(last, batches, sums, is_last=True):
      yield batch, _divided(each, last + 1) if last else each

  def _added(self, number, batches, sums, is_last=False):
    """Batches, and the sums with one more network's predictions."""
    network = self.networks[number]
    for batch, each in zip(batches(network, is_last), sums, strict=False):
      found = network(batch['image'])
      if each is None:
        yield batch, _first(found) if self._several else found
      else:
        yield batch, _sum(each, found, number)

  @property
  def _several(self) -> bool:
    return len(self.networks) > 1

  @property
  def image_size(self) -> int:
    """Side of the largest square image that a network takes."""
    return max(network.image_size for network in self.networks)

  @property
  def rules_version(self) -> str:
    """Tells rules and operating points apart."""
    return digest(repr(self.postprocess).encode())


def version(networks: Sequence[Network]) -> str:
  """The same for the same weights, sizes and augmentation, on any device."""
  first = networks[0]
  # Old versions stand in files: they only told whether the head was trained.
  known = {'presence_head': True, 'largest_pixel': False}
  options = [
    [
      (
        network.image_size,
        known.get(network.image_probability, network.image_probability),
      )
      for network in networks
    ],
    first.flip,
    first.scales,
  ]
  weights = jax.tree.leaves([network.variables for network in networks])
  return digest(repr(options).encode(), *map(np.asarray, weights))


def digest(*parts: bytes | np.ndarray) -> str:
  """The first digits of a SHA-256."""
  sha = hashlib.sha256()
  for part in parts:
    sha.update(part)
  return sha.hexdigest()[:_VERSION_LENGTH]


@jax.jit
def _first(found):
  """The sums over one network; `spread` holds squared deviations."""
  return {**found, 'spread': jnp.zeros_like(found['probability'])}


@jax.jit
def _divided(total, count):
  return {
    'probs': total['probs'] / count,
    'probability': total['probability'] / count,
    'spread': jnp.sqrt(total['spread'] / (count - 1)),
  }


def _added_up(total, found, count):
  """The sums over `count` networks and one more (Welford 1962)."""
  change = found['probability'] - total['probability'] / count
  return {
    'probs': total['probs'] + found['probs'],
    'probability': total['probability'] + found['probability'],
    'spread': total['spread'] + change**2 * (count / (count + 1)),
  }


_sum = jax.jit(_added_up, donate_argnums=0)
