"""A trained network with its test-time augmentation."""

import dataclasses
import functools
import os
from typing import Any, Literal, NotRequired, TypedDict

import jax
import ml_collections

from pnx_jax.models import compiled
from pnx_jax.models.segmenter import Segmenter
from pnx_jax.training import (
  compilation,
  experiment,
  run_files,
  sharding,
  steps,
)
from pnx_jax.training.checkpoint import Checkpoints

# Rules count areas on a square of this side; the competition scores on it.
SIZE = 1024

# What gives the probability of an image: the mean is that of presence head and
# largest pixel, which may lie in the padding beside the film.
WantedProbability = Literal['presence_head', 'mean']
ImageProbability = WantedProbability | Literal['largest_pixel']


class Probabilities(TypedDict):
  """What is predicted for a batch of images.

  Attributes:
    probs: f32[B, SIZE, SIZE], the probability that a pixel is pneumothorax.
    probability: f32[B], the probability that the image shows a pneumothorax.
    spread: f32[B], standard deviation of that probability over networks; there
      where several are averaged.
  """

  probs: jax.Array
  probability: jax.Array
  spread: NotRequired[jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
  """A trained network with its test-time augmentation.

  Attributes:
    model: the Flax module.
    variables: its weights.
    image_size: side of the square image that it takes.
    image_probability: what gives the probability of an image.
    flip: average over the image and its mirror image.
    scales: average over the image resized by these factors.
    steps: the checkpoints whose mean the weights are.
  """

  model: Segmenter
  variables: Any
  image_size: int
  image_probability: ImageProbability
  flip: bool = True
  scales: tuple[float, ...] = (1.0,)
  steps: tuple[int, ...] = ()

  @classmethod
  def load(
    cls,
    workdir: str | os.PathLike[str],
    fold: int,
    *,
    place: int | None = None,
    mesh: jax.sharding.Mesh,
    image_probability: WantedProbability,
    flip: bool = True,
    scales: tuple[float, ...] = (1.0,),
  ) -> 'Network':
    """Reads the weights of a run's fold.

    Args:
      workdir: the run.
      fold: the fold that was held out.
      place: among its best checkpoints, from 0; without one, the mean of the
        run's `average_checkpoints` best.
      mesh: the devices that get a copy of the weights.
      image_probability: see `known_probability`.
      flip: see `Network`.
      scales: see `Network`.

    Raises:
      UserError: there are no weights, or those of another architecture.
    """
    config = run_files.load(workdir)
    folder = run_files.checkpoint_dir(workdir, fold)
    abstract = experiment.abstract_variables(config, mesh)
    with Checkpoints(folder, create=False) as checkpoints:
      taken, variables = checkpoints.restore_best(
        abstract,
        count=config.average_checkpoints if place is None else 1,
        skip=place or 0,
      )
    return cls(
      model=experiment.network(config, platform=sharding.platform(mesh)),
      variables=variables,
      image_size=config.image_size,
      image_probability=known_probability(config, image_probability),
      flip=flip,
      scales=scales,
      steps=tuple(taken),
    )

  def __call__(self, images: Any) -> Probabilities:
    """Predicts a batch; one compiled program for every batch size.

    Args:
      images: uint8[B, S, S, 1]; resized where S is not `image_size`.
    """
    return _compiled(**self.options())(self.variables, images)

  def options(self) -> dict[str, Any]:
    """The arguments of `predict` besides weights and images."""
    return {
      'model': self.model,
      'image_size': self.image_size,
      'image_probability': self.image_probability,
      'flip': self.flip,
      'scales': self.scales,
    }


def presence_trained(config: ml_collections.ConfigDict) -> bool:
  """Whether a run trains its presence head."""
  return config.losses.presence > 0


def known_probability(
  config: ml_collections.ConfigDict, wanted: WantedProbability
) -> ImageProbability:
  """What can give the probability of an image in a run.

  Where the presence head is not trained, it is the largest pixel's.

  Args:
    config: of the run.
    wanted: where the presence head is trained.
  """
  return wanted if presence_trained(config) else 'largest_pixel'


def predict(
  variables: Any,
  images: Any,
  *,
  model: Segmenter,
  image_size: int,
  image_probability: ImageProbability,
  flip: bool,
  scales: tuple[float, ...],
) -> Probabilities:
  """Predicts a batch, averaged over its augmentations; can be traced by JAX.

  Args:
    variables: weights of `model`.
    images: uint8[B, S, S, 1].
    model: see `Network`, like the arguments below.
    image_size: see `Network`.
    image_probability: see `Network`.
    flip: see `Network`.
    scales: see `Network`.
  """
  images = _resized(images, image_size)
  images = steps.scaled(images)
  views = [
    _view(
      variables, _resized(images, _side(images, scale, model)), model, mirror
    )
    for scale in scales
    for mirror in ((False, True) if flip else (False,))
  ]
  by_side = {}
  for probs, _ in views:
    by_side.setdefault(probs.shape[1], []).append(probs)
  # Views of one size are averaged first and resized once.
  probs = sum(_resized(sum(same), SIZE) for same in by_side.values())
  probs = probs[..., 0] / len(views)
  head = sum(probability for _, probability in views) / len(views)
  largest = probs.max(axis=(1, 2))
  probability = {
    'presence_head': head,
    'largest_pixel': largest,
    'mean': (head + largest) / 2,
  }[image_probability]
  return {'probs': probs, 'probability': probability}


@functools.cache
def _compiled(**options):
  return compilation.announced(
    compiled.jit(functools.partial(predict, **options)), 'the prediction'
  )


def _side(images, scale, model):
  """The scaled side, rounded to what the network can halve."""
  stride = 1 << model.depth
  return max(1, round(images.shape[1] * scale / stride)) * stride


def _view(variables, images, model, mirror):
  def mirrored(x):
    return x[:, :, ::-1] if mirror else x

  outputs = model.apply(variables, mirrored(images), train=False)
  probs = jax.nn.sigmoid(mirrored(outputs['mask_logits']))
  return probs, jax.nn.sigmoid(outputs['presence_logit'])


def _resized(images, size):
  """Images [B, S, S, 1] on a square of another side, bilinearly."""
  if images.shape[1] == size:
    return images
  shape = (images.shape[0], size, size, images.shape[3])
  return jax.image.resize(images.astype('float32'), shape, 'bilinear')
