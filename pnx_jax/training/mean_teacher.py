"""Mean teacher: learning from radiographs without annotation.

The averaged weights (the teacher) and the weights that are trained (the
student) see one unlabeled image under different augmentation, and the student
is to agree with the teacher (Tarvainen and Valpola 2017, arXiv:1703.01780).

Both views are sampled at the same points of the image, so that each pixel of
one mask belongs to the same place as that of the other, without interpolating
probabilities; brightness, contrast, gamma and noise are drawn for each. The
teacher's view is mirrored with the probability of the augmentation, and its
mask is mirrored back, which moves no pixel off the grid. The teacher predicts
as in evaluation, without dropped paths and with averaged batch statistics.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from pnx_jax.input.augment import Augmentation


@dataclasses.dataclass(frozen=True)
class Views:
  """What the student sees of B unlabeled images, and what it is to predict.

  Attributes:
    image: f32[B, C, C, 1], the student's view.
    mask: f32[B, C, C, 1], the teacher's probabilities at the same places.
    presence: f32[B], the teacher's probabilities.
  """

  image: jax.Array
  mask: jax.Array
  presence: jax.Array


@dataclasses.dataclass(frozen=True)
class MeanTeacher:
  """How strongly the student is to agree with the teacher.

  Attributes:
    weight: Of the consistency beside the other losses.
    ramp_steps: Steps over which the weight rises from exp(-5) of itself.
    presence: Weight of the presence head within the consistency.
  """

  weight: float
  ramp_steps: int
  presence: float

  def weight_at(self, step: jax.Array) -> jax.Array:
    """Returns the weight f32[] after `step` steps: exp(-5 (1 - t)^2)."""
    share = jnp.minimum((step + 1) / max(self.ramp_steps, 1), 1.0)
    return self.weight * jnp.exp(-5.0 * (1 - share) ** 2)

  def consistency(self, outputs: Mapping[str, Any], views: Views) -> jax.Array:
    """Returns how far the student is from the teacher, f32[B].

    Of the mask it is the squared difference over the sum of both squares,
    smoothed by one pixel, so that it neither shrinks with the share of pixels
    that a pneumothorax covers nor with the size of the image. Of the presence
    head it is the squared difference.

    Args:
      outputs: The student's `mask_logits` f32[B, C, C, 1] and `presence_logit`
        f32[B].
      views: What it has seen.
    """
    ours = jax.nn.sigmoid(outputs['mask_logits'])

    def total(values: jax.Array) -> jax.Array:
      return jnp.sum(values, axis=(1, 2, 3))

    squares = total(jnp.square(ours)) + total(jnp.square(views.mask))
    mask = total(jnp.square(ours - views.mask)) / (squares + 1)
    found = jax.nn.sigmoid(outputs['presence_logit'])
    return mask + self.presence * jnp.square(found - views.presence)


def views(
  key: jax.Array,
  image: jax.Array,
  *,
  model: nn.Module,
  variables: Any,
  augmentation: Augmentation,
) -> Views:
  """Draws two views of unlabeled images and lets the teacher predict its own.

  Args:
    key: Random key of this step.
    image: f32[B, H, H, 1] in 0..1.
    model: The network.
    variables: The teacher's weights.
    augmentation: The augmentation of the training images.
  """
  view_key, mirror_key = jax.random.split(key)
  ours, theirs = augmentation.two_views(view_key, image)
  mirrored = jax.random.bernoulli(
    mirror_key, augmentation.flip_probability, (len(image), 1, 1, 1)
  )

  def mirror(images: jax.Array) -> jax.Array:
    return jnp.where(mirrored, images[:, :, ::-1], images)

  outputs = model.apply(variables, mirror(theirs), train=False)
  return Views(
    image=ours,
    mask=mirror(jax.nn.sigmoid(outputs['mask_logits'])),
    presence=jax.nn.sigmoid(outputs['presence_logit']),
  )
