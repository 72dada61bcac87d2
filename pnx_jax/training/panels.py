"""Predictions for a few held-out radiographs, for TensorBoard."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np

from pnx_jax import draw
from pnx_jax.formats import schema
from pnx_jax.input import pipeline
from pnx_jax.models import compiled
from pnx_jax.training import compilation, sharding, steps

_NUM_POSITIVES, _NUM_NEGATIVES = 4, 2


class Panels:
  """Draws image, label and prediction of the same few radiographs.

  Args:
    dataset: The images of the held-out fold.
    model: The network.
    image_size: Side of the square that the network sees.
    mesh: All devices.
  """

  def __init__(
    self,
    dataset: pipeline.Dataset,
    *,
    model: nn.Module,
    image_size: int,
    mesh: jax.sharding.Mesh,
  ):
    marked = (dataset.labels == 1) & dataset.mask_known
    positives = np.flatnonzero(marked)[:_NUM_POSITIVES]
    negatives = np.flatnonzero(dataset.labels == 0)[:_NUM_NEGATIVES]
    self._cases = [*positives, *negatives]
    self._dataset = dataset
    self._image_size = image_size

    def probabilities(variables: Any, image: jax.Array) -> jax.Array:
      outputs = model.apply(variables, steps.scaled(image), train=False)
      return jax.nn.sigmoid(outputs['mask_logits'])[..., 0]

    self._replicated = sharding.replicated(mesh)
    self._probabilities = compilation.announced(
      compiled.jit(probabilities, out_shardings=self._replicated),
      'the prediction of the pictures',
    )

  def draw(self, variables: Any) -> dict[str, np.ndarray]:
    """Returns pictures u8[H, W, 3] by name."""
    size = self._image_size
    images = np.stack([self._dataset.image(i, size) for i in self._cases])
    batch = jax.device_put(images[..., None], self._replicated)
    probs = jax.device_get(self._probabilities(variables, batch))
    return {
      f'cases/{place}': draw.panel(
        image,
        self._dataset.label(case, size),
        prob > steps.PLAIN_THRESHOLD,
        text=_described(self._dataset.records[case]),
      )
      for place, (case, image, prob) in enumerate(
        zip(self._cases, images, probs, strict=True)
      )
    }


def _described(record: schema.Record) -> str:
  facts = (record.view, record.sex, record.age if record.age >= 0 else '')
  return '  '.join(map(str, filter(None, (record.image_id, *facts))))
