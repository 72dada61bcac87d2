"""One trained network: its weights, and its probabilities with augmentation."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax

from pnx_jax.models.cpu import compiled
from pnx_jax.training import experiment, run_files, steps
from pnx_jax.training.checkpoint import Checkpoints

# Rules count areas on a square of this side; the competition scores on it.
SIZE = 1024


@dataclasses.dataclass(frozen=True)
class Member:
  """Which weights: of a run, a fold, and a place among its best checkpoints.

  Without a place they are the mean of the run's `average_checkpoints` best.
  """

  workdir: str
  fold: int
  place: int | None = None


@dataclasses.dataclass(frozen=True)
class Network:
  """A network that can predict.

  Attributes:
    model: its layers.
    variables: its weights.
    image_size: side of the square it sees.
    steps: the checkpoints that its weights are the mean of.
    presence: whether its presence head was trained, too.
  """

  model: nn.Module
  variables: Any
  image_size: int
  steps: tuple[int, ...]
  presence: bool

  @classmethod
  def load(cls, member: Member, mesh: jax.sharding.Mesh) -> 'Network':
    """Raises UserError where there are no weights, or of another network."""
    config = run_files.load(member.workdir)
    folder = run_files.checkpoint_dir(member.workdir, member.fold)
    abstract = experiment.abstract_variables(config, mesh)
    with Checkpoints(folder, create=False) as checkpoints:
      taken, variables = checkpoints.restore_best(
        abstract,
        count=config.average_checkpoints if member.place is None else 1,
        skip=member.place or 0,
      )
    return cls(
      model=experiment.network(config),
      variables=variables,
      image_size=config.image_size,
      steps=tuple(taken),
      presence=config.losses.presence > 0,
    )


@functools.cache
def compiled_predict():
  """`predict` as one program."""
  return compiled.jit(
    predict, static_argnames=('model', 'presence', 'size', 'flip', 'scales')
  )


def predict(
  variables,
  image,
  *,
  model,
  presence,
  size=SIZE,
  flip=True,
  scales=(1.0,),
):
  """Probabilities of each pixel and of each image, over all augmentations.

  Args:
    variables: of the network.
    image: uint8[B, S, S, 1].
    model: the network.
    presence: whether its presence head was trained.
    size: side of the square to answer on.
    flip: average with the mirrored image, too.
    scales: average over the image resized by these factors.

  Returns:
    `probs` f32[B, size, size], and `probability` f32[B] of the presence head;
    where that was not trained, the largest of `probs`.
  """
  image = steps.scaled({'image': image})
  views = [
    _view(variables, resized(image, _side(image, scale, model)), model, mirror)
    for scale in scales
    for mirror in ((False, True) if flip else (False,))
  ]
  by_side = {}
  for probs, _ in views:
    by_side.setdefault(probs.shape[1], []).append(probs)
  # Views of one size are averaged first and resized once.
  probs = sum(resized(sum(same), size) for same in by_side.values())
  probs = probs[..., 0] / len(views)
  if not presence:
    return {'probs': probs, 'probability': probs.max(axis=(1, 2))}
  probability = sum(probability for _, probability in views) / len(views)
  return {'probs': probs, 'probability': probability}


def _side(image, scale, model):
  """The scaled side that the network can take."""
  stride = 1 << model.depth
  return max(1, round(image.shape[1] * scale / stride)) * stride


def _view(variables, image, model, mirror):
  def mirrored(x):
    return x[:, :, ::-1] if mirror else x

  outputs = model.apply(variables, mirrored(image), train=False)
  probs = jax.nn.sigmoid(mirrored(outputs['mask_logits']))
  return probs, jax.nn.sigmoid(outputs['presence_logit'])


def resized(images, size):
  """Images f32[B, S, S, 1] on a square of another side, bilinearly."""
  if images.shape[1] == size:
    return images
  shape = (images.shape[0], size, size, images.shape[3])
  return jax.image.resize(images, shape, 'bilinear')
