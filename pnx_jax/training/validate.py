"""Validation while training: one pass, Dice under the best small rule."""

import functools
import logging

import flax.linen as nn
import jax
import numpy as np

from pnx_jax.input import pipeline
from pnx_jax.metrics import curves, rules
from pnx_jax.metrics.dice import SegmentationMetrics
from pnx_jax.models.cpu import compiled
from pnx_jax.training import sharding, steps
from pnx_jax.training.events import Events, prefixed
from pnx_jax.training.panels import Panels
from pnx_jax.training.train_state import TrainState

_logger = logging.getLogger(__name__)

# Rules count areas in pixels of this square.
REFERENCE_SIZE = 1024


class Validation:
  """The held-out images of a run and the compiled step over them.

  Args:
    dataset: of the held-out fold.
    model: the network.
    loss_weights: by name, as in the config.
    image_size: that the network sees.
    loader: batch size and threads.
    mesh: of all devices.
  """

  def __init__(
    self,
    dataset: pipeline.Dataset,
    *,
    model: nn.Module,
    loss_weights: dict[str, float],
    image_size: int,
    loader: pipeline.Loader,
    mesh: jax.sharding.Mesh,
  ):
    self._batches = functools.partial(
      pipeline.evaluation_batches,
      dataset,
      image_size=image_size,
      loader=loader,
    )
    self._mesh = mesh
    self._image_size = image_size
    step = functools.partial(
      steps.eval_step, model=model, loss_weights=loss_weights
    )
    # Every process gets the statistics of all images.
    self._step = compiled.jit(step, out_shardings=sharding.replicated(mesh))
    self._panels = Panels(
      dataset, model=model, image_size=image_size, mesh=mesh
    )

  def log(
    self, state: TrainState, step: int, events: Events
  ) -> dict[str, float]:
    """Scores the averaged and the raw weights; returns what counts.

    Scalars, the precision-recall curve and the panels go to `events`.
    """
    seen = self.statistics(state.best_variables)
    found, rule = scores(seen, image_size=self._image_size)
    events.scalars(step, prefixed('validation', found))
    events.precision_recall(
      step, 'presence', seen['label'], seen['probability']
    )
    events.images(step, self._panels.draw(state.best_variables))
    if state.ema is not None:
      raw, _ = scores(
        self.statistics(state.variables), image_size=self._image_size
      )
      events.scalars(step, prefixed('validation_raw', raw))
    _logger.info(
      'validation  dice %.4f (%s)  on positives %.4f  all empty %.4f',
      found['dice'],
      rule,
      found['dice_positive'],
      found['all_empty_dice'],
    )
    return found

  def statistics(self, variables) -> dict[str, np.ndarray]:
    """What `eval_step` says of every image, in the order of the dataset."""
    parts = [
      jax.device_get(self._step(variables, batch))
      for batch in sharding.prefetch(self._batches(), self._mesh)
    ]
    valid = np.concatenate([part['valid'] for part in parts])
    return {
      name: np.concatenate([part[name] for part in parts])[valid]
      for name in parts[0]
    }


def scores(
  statistics: dict[str, np.ndarray], *, image_size: int
) -> tuple[dict[str, float], rules.Rule]:
  """Scalars by name, and the best small rule.

  `dice` is under that rule, `dice_at_0.5` at the plain threshold; the best
  checkpoint is chosen by `dice`, because an all-empty network scores high at
  the plain threshold. The losses are means over images, `auc` is the presence
  head's.
  """
  scale = (REFERENCE_SIZE / image_size) ** 2
  areas = {
    name: statistics[name] * scale
    for name in ('truth_area', 'predicted_area', 'intersection')
  }
  rule, dice = rules.best_rule(areas, rules.SMALL_GRID)
  per_image = rules.dice_per_image(areas, rule)
  label = statistics['label']
  names = [name for name in statistics if name.endswith('loss')]
  means = SegmentationMetrics.with_losses(names).single_from_model_output(
    dice=statistics['dice'],
    label=label,
    **{name: statistics[name] for name in names},
  )
  plain = {name: float(value) for name, value in means.compute().items()}
  return {
    **{name: plain[name] for name in names},
    'dice': dice,
    'dice_positive': (
      float(per_image[label].mean()) if label.any() else float('nan')
    ),
    'dice_at_0.5': plain['dice'],
    'dice_positive_at_0.5': plain['dice_positive'],
    'all_empty_dice': float((~label).mean()),
    'auc': float(curves.curve(statistics['probability'], label).auc),
  }, rule
