"""Validation during training: the Dice under the best of a few rules."""

import functools
import logging
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from pnx_jax.input import pipeline, sampling
from pnx_jax.metrics import curves, rules
from pnx_jax.metrics.dice import SegmentationMetrics
from pnx_jax.models import compiled
from pnx_jax.training import compilation, sharding, steps
from pnx_jax.training.events import Events, prefixed
from pnx_jax.training.panels import Panels
from pnx_jax.training.train_state import TrainState

_logger = logging.getLogger(__name__)

# Side of the square in whose pixels the rules count areas.
REFERENCE_SIZE = 1024


class Validation:
  """The held-out images of a run and the compiled step over them.

  Args:
    dataset: The images of the held-out fold.
    model: The network.
    loss_weights: Weights of the losses, by name.
    image_size: Side of the square that the network sees.
    loader: Loads the batches.
    mesh: All devices.
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
      with_truths=not dataset.mask_known.all(),
    )
    self._sources = np.array([x or sampling.UNNAMED for x in dataset.sources])
    self._mesh = mesh
    self._image_size = image_size
    step = functools.partial(
      steps.eval_step, model=model, loss_weights=loss_weights
    )
    # Every process gets the statistics of all images.
    self._step = compilation.announced(
      compiled.jit(step, out_shardings=sharding.replicated(mesh)),
      'the validation step',
    )
    self._panels = Panels(
      dataset, model=model, image_size=image_size, mesh=mesh
    )

  def run(
    self, state: TrainState, step: int, events: Events
  ) -> dict[str, float]:
    """Scores the averaged and the raw weights.

    Args:
      state: The weights to score.
      step: The number of the step, for `events`.
      events: Takes scalars, the precision-recall curve and the panels.

    Returns:
      The scores of the averaged weights, where there are some, else of the
      raw ones; see `scores`.
    """
    statistics = self.statistics(state.best_variables)
    averaged, rule = scores(statistics, image_size=self._image_size)
    events.scalars(step, prefixed('validation', averaged))
    for source, found in scores_by_source(
      statistics, self._sources, rule, image_size=self._image_size
    ).items():
      events.scalars(step, prefixed(f'validation_of/{source}', found))
    events.precision_recall(
      step, 'presence', statistics['label'], statistics['probability']
    )
    events.images(step, self._panels.draw(state.best_variables))
    if state.ema is not None:
      raw, _ = scores(
        self.statistics(state.variables), image_size=self._image_size
      )
      events.scalars(step, prefixed('validation_raw', raw))
    _logger.info(
      'validation  dice %.4f (%s)  on positives %.4f  all empty %.4f',
      averaged['dice'],
      rule,
      averaged['dice_positive'],
      averaged['all_empty_dice'],
    )
    return averaged

  def statistics(self, variables: Any) -> dict[str, np.ndarray]:
    """Returns `eval_step`'s arrays of all images, in the dataset's order."""
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
  """Returns the scores of the validation, and the best of a few rules.

  The best checkpoint is chosen by `dice`, because an all-empty network scores
  high at the plain threshold.

  Args:
    statistics: As `Validation.statistics` returns them.
    image_size: Side of the square that the network sees.

  Returns:
    By name: means of the losses; `dice` and `dice_positive` under the best
    rule, `dice_at_0.5` and `dice_positive_at_0.5` at the plain threshold,
    `all_empty_dice` of a network that marks nothing, and `auc` of the presence
    head. Images whose mask is not known count for the last one alone. The
    second value is that rule.
  """
  names = [name for name in statistics if name.endswith('loss')]
  label = statistics['label']
  known = statistics.get('mask_known', np.ones(len(label), bool))
  counting = {}
  if 'mask_known' in statistics:
    of_all = 'loss', 'presence_loss'
    counting = {x: known for x in ('dice', *names) if x not in of_all}
  areas = _areas(statistics, known, image_size)
  rule, dice = rules.best_rule(areas, rules.SMALL_GRID)
  per_image = rules.dice_per_image(areas, rule)
  positive = label[known]
  means = SegmentationMetrics.with_losses(names).single_from_model_output(
    dice=statistics['dice'],
    label=label,
    known=counting,
    **{name: statistics[name] for name in names},
  )
  plain = {name: float(value) for name, value in means.compute().items()}
  return {
    **{name: plain[name] for name in names},
    'dice': dice,
    'dice_positive': (
      float(per_image[positive].mean()) if positive.any() else float('nan')
    ),
    'dice_at_0.5': plain['dice'],
    'dice_positive_at_0.5': plain['dice_positive'],
    'all_empty_dice': float((~positive).mean()),
    'auc': float(curves.curve(statistics['probability'], label).auc),
  }, rule


def scores_by_source(
  statistics: dict[str, np.ndarray],
  sources: np.ndarray,
  rule: rules.Rule,
  *,
  image_size: int,
) -> dict[str, dict[str, float]]:
  """Returns the scores of each source, sorted; nothing where there is one.

  Args:
    statistics: As `Validation.statistics` returns them.
    sources: str[N], of the images.
    rule: The rule that is best for all images.
    image_size: Side of the square that the network sees.
  """
  names = sorted({*sources.tolist()})
  if len(names) < 2:
    return {}
  return {
    name: _source_scores(
      {key: values[sources == name] for key, values in statistics.items()},
      rule,
      image_size=image_size,
    )
    for name in names
  }


def _source_scores(
  statistics: dict[str, np.ndarray], rule: rules.Rule, *, image_size: int
) -> dict[str, float]:
  """Returns the scores of the images of one source, NaN where undefined.

  Args:
    statistics: Those of these images, as `Validation.statistics` returns them.
    rule: The rule that is best for all images.
    image_size: Side of the square that the network sees.

  Returns:
    By name: `num_images`, `num_masks`, `auc` and, of the images whose mask is
    known, `dice` and `dice_positive`.
  """
  label = statistics['label']
  known = statistics.get('mask_known', np.ones(len(label), bool))
  dice = rules.dice_per_image(_areas(statistics, known, image_size), rule)
  positive = label[known]
  return {
    'num_images': len(label),
    'num_masks': int(known.sum()),
    'auc': float(curves.curve(statistics['probability'], label).auc),
    'dice': float(dice.mean()) if len(dice) else float('nan'),
    'dice_positive': (
      float(dice[positive].mean()) if positive.any() else float('nan')
    ),
  }


def _areas(
  statistics: dict[str, np.ndarray], known: np.ndarray, image_size: int
) -> dict[str, np.ndarray]:
  """Returns the areas of some images, in pixels of the reference square."""
  scale = (REFERENCE_SIZE / image_size) ** 2
  return {
    name: statistics[name][known] * scale
    for name in ('truth_area', 'predicted_area', 'intersection')
  }
