"""Metrics of a recipe, paired differences, and the cost of having chosen.

Intervals draw patients and seeds. Recipes are chosen by `CRITERION`: the Dice
on positives when a threshold on the largest pixel leaves 80 % of the negatives
empty. It neither rewards saying little, as the competition's Dice does with 72
to 78 % negatives, nor saying much, as the Dice on positives alone does, and it
does not hang on how probabilities are scaled.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from benchmarks.study.films import Films
from pnx_jax.evaluation import rule_search
from pnx_jax.metrics import averages, bootstrap, rules
from pnx_jax.metrics.averages import weighted_mean
from pnx_jax.metrics.curves import curve

REPLICATES = 2000
FIXED = (0.2, 0.5)
_MASK_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
SPECIFICITIES = (0.90, 0.95)
GATED = (0.80, 0.90)
CRITERION = 'dice_positive_80'

Metrics = dict[str, np.ndarray]
Interval = tuple[float, float]


def cross_fitted(
  films: Films, probability: str = 'probability'
) -> rule_search.Outcome:
  """What is left of each film under the rule that the other folds choose.

  A single fold is divided into five groups of patients.

  Args:
    films: N films.
    probability: the attribute that rules may gate on.
  """
  folds, groups = np.unique(films.fold, return_inverse=True)
  if len(folds) == 1:
    groups = rule_search.patient_groups(films.patient, films.label)
  statistics = films.statistics() | {'probability': getattr(films, probability)}
  return rule_search.cross_fit(statistics, groups).outcome


def _plain(films: Films, level: float) -> rule_search.Outcome:
  return rule_search.apply(films.statistics(), rules.Rule(level, 0, level))


def _ungated(films: Films) -> np.ndarray:
  """Dice f64[N] of the masks above the threshold that is best on positives."""
  return max(
    (_plain(films, level).dice for level in _MASK_LEVELS),
    key=lambda scores: scores[films.label].mean(),
  )


def metrics(films: Films) -> Callable[[np.ndarray], Metrics]:
  """A function from weights f64[R, N] to every metric, f64[R].

  The rule is chosen once; what the weights draw is scored under it, and so is
  the threshold of the ungated and gated masks, which is the one of the highest
  Dice on positives.

  `dice_positive_at_T`, `empty_negatives_at_T`: masks are pixels above T.
  `..._rule`, `dice`: under the rule that the other folds choose by the
  competition's Dice, which is `dice`; `dice_above_empty` is how much that of
  empty masks is below it. Rules may gate on the presence head's probability, in
  `..._rule_mean` and `dice_mean...` on its mean with the largest pixel.
  `dice_positive_mask`: at the best threshold, no film left out.
  `dice_positive_S`: the same masks, but S % of the negatives left
  empty by a threshold on the largest pixel. `auc_...`, `sensitivity_S_...`: of
  the presence head's probability, the largest pixel, or their mean, whose AUC
  exceeds theirs by `mean_above_...`. `probability_negative`: mean of the
  presence head's probability over the negatives.
  """
  label = films.label
  outcomes = {
    **{f'at_{level:g}': _plain(films, level) for level in FIXED},
    'rule': cross_fitted(films),
    'rule_mean': cross_fitted(films, 'mean_probability'),
  }
  masks = _ungated(films)
  quartile = averages.quartiles(films.truth_area, label)

  def compute(weights: np.ndarray) -> Metrics:
    found = {}
    for name, outcome in outcomes.items():
      found[f'dice_positive_{name}'] = weighted_mean(
        outcome.dice, weights, label
      )
      found[f'empty_negatives_{name}'] = weighted_mean(
        ~outcome.predicted, weights, ~label
      )
    found['probability_negative'] = weighted_mean(
      films.probability, weights, ~label
    )
    rule = outcomes['rule']
    found['dice'] = weighted_mean(rule.dice, weights)
    found['dice_above_empty'] = found['dice'] - weighted_mean(~label, weights)
    found['dice_mean'] = weighted_mean(outcomes['rule_mean'].dice, weights)
    found['dice_mean_above_empty'] = found['dice_mean'] - weighted_mean(
      ~label, weights
    )
    found['dice_positive_mask'] = weighted_mean(masks, weights, label)
    # A sensitivity in which every positive counts its Dice.
    credit = np.where(label, masks, 1.0)
    ranking = curve(films.maximum, label, weights * credit)
    for level in GATED:
      found[f'dice_positive_{level * 100:.0f}'] = (
        ranking.sensitivity_at(level) * found['dice_positive_mask']
      )
    for number in range(1, averages.NUM_QUARTILES + 1):
      found[f'sensitivity_quartile_{number}'] = weighted_mean(
        rule.predicted, weights, quartile == number
      )
    for name in ('probability', 'maximum', 'mean_probability'):
      ranking = curve(getattr(films, name), label, weights)
      found[f'auc_{name}'] = ranking.auc
      for level in SPECIFICITIES:
        found[f'sensitivity_{level * 100:.0f}_{name}'] = ranking.sensitivity_at(
          level
        )
    for name in ('probability', 'maximum'):
      found[f'mean_above_{name}'] = (
        found['auc_mean_probability'] - found[f'auc_{name}']
      )
    return found

  return compute


def intervals(
  seeds: Sequence[Films], *, replicates: int | None = None
) -> dict[str, tuple[float, Interval]]:
  """The mean over seeds of every metric, and its 95 % interval.

  Args:
    seeds: of one recipe, the same films with each seed.
    replicates: how often patients and seeds are drawn.
  """
  drawn, values = _replicates({'': seeds}, replicates)
  return {
    name: (float(values[''][name]), _bounds(drawn[''][name]))
    for name in values['']
  }


def differences(
  ours: Sequence[Films],
  theirs: Sequence[Films],
  *,
  yardstick: Sequence[Films] = (),
  replicates: int | None = None,
) -> dict[str, tuple[float, Interval]]:
  """How much more `ours` is than `theirs`, by metric, with 95 % intervals.

  Both are scored on the films that all their seeds share. Patients are drawn
  for both together, seeds for each. A recipe with a single seed borrows the
  spread over seeds of `yardstick`, on the films that those share; without one
  its interval draws patients alone. Every fold has a network of its own, so
  that spread shrinks with the root of the number of films. An average of
  networks borrows the spread of single ones, which is too wide.
  """
  both = shared([*ours, *theirs])
  drawn, values = _replicates(
    {'ours': both[: len(ours)], 'theirs': both[len(ours) :]},
    replicates,
    yardstick=shared(yardstick),
  )
  return {
    name: (
      float(values['ours'][name] - values['theirs'][name]),
      _bounds(drawn['ours'][name] - drawn['theirs'][name]),
    )
    for name in values['ours']
  }


def shared(seeds: Sequence[Films]) -> list[Films]:
  """The same films of each: those that all have."""
  if not seeds:
    return []
  ids = set.intersection(*({*each.image_id} for each in seeds))
  return [each.of(ids) for each in seeds]


def _replicates(
  recipes: Mapping[str, Sequence[Films]],
  replicates: int | None,
  *,
  yardstick: Sequence[Films] = (),
) -> tuple[dict[str, Metrics], dict[str, dict[str, float]]]:
  """Metrics of drawn patients and seeds, and those of all, by recipe."""
  films = next(iter(recipes.values()))[0]
  _same_films(each for recipe in recipes.values() for each in recipe)
  replicates = replicates or REPLICATES
  once = np.ones((1, len(films)))
  random = np.random.default_rng(1)
  borrowed, scale = {}, 1.0
  if len(yardstick) > 1:
    borrowed = _by_seed(yardstick, replicates)
    scale = float(np.sqrt(len(yardstick[0]) / len(films)))
  drawn, values = {}, {}
  for name, recipe in recipes.items():
    by_seed = _by_seed(recipe, replicates)
    single = len(recipe) == 1
    lent = borrowed if recipe[0].has_presence_head else _of_pixels(borrowed)
    moved = _moved(lent if single else by_seed, len(recipe), random)
    drawn[name] = {
      metric: each.mean(axis=0)
      + (scale if single else 1.0) * moved.get(metric, 0.0)
      for metric, each in by_seed.items()
    }
    values[name] = {
      metric: float(value[0])
      for metric, value in _mean_metrics(recipe)(once).items()
    }
  return drawn, values


def _of_pixels(by_seed: Metrics) -> Metrics:
  """The spread for a network without a presence head.

  All its probabilities are the largest pixel's.
  """
  found = dict(by_seed)
  for metric in by_seed:
    if metric.startswith('mean_above_'):
      found[metric] = np.zeros_like(by_seed[metric])
    elif metric.endswith('_probability'):
      stem = metric.removesuffix('_probability').removesuffix('_mean')
      found[metric] = by_seed[f'{stem}_maximum']
  return found


def _by_seed(recipe: Sequence[Films], replicates: int) -> Metrics:
  """Every metric f64[S, R] of S seeds, of the same drawn patients."""
  weights = bootstrap.cluster_weights(recipe[0].patient, replicates=replicates)
  found = [metrics(each)(weights) for each in recipe]
  return {
    metric: np.stack([each[metric] for each in found]) for metric in found[0]
  }


def _moved(
  by_seed: Metrics, count: int, random: np.random.Generator
) -> Metrics:
  """How far the mean of `count` drawn seeds lies from that of all, f64[R].

  Args:
    by_seed: every metric f64[S, R] of the seeds that are drawn from.
    count: of seeds.
    random: draws the same seeds for all metrics.

  S seeds lie closer to their own mean than to that of all possible seeds, so
  deviations are scaled by sqrt(S / (S - 1)).
  """
  if not by_seed:
    return {}
  seeds, replicates = by_seed[CRITERION].shape
  picked = random.integers(seeds, size=(count, replicates))
  moved = {}
  for metric, each in by_seed.items():
    away = (each - each.mean(axis=0)) * np.sqrt(seeds / (seeds - 1))
    moved[metric] = np.take_along_axis(away, picked, axis=0).mean(axis=0)
  return moved


def predictive_values(
  sensitivity: float, specificity: float, prevalence: float
) -> tuple[float, float]:
  """Positive and negative predictive value where so many films are positive."""
  found = sensitivity * prevalence
  false_alarms = (1 - specificity) * (1 - prevalence)
  missed = (1 - sensitivity) * prevalence
  cleared = specificity * (1 - prevalence)
  return found / (found + false_alarms), cleared / (cleared + missed)


def empty_share(
  films: Films, doubtful: np.ndarray, *, specificity: float
) -> tuple[float, float]:
  """Share of negatives left empty: doubtful ones, and all the others.

  Args:
    films: N films.
    doubtful: bool[N], negatives that another source calls positive.
    specificity: of all negatives together, by the largest pixel.
  """
  negative = ~films.label
  threshold = np.quantile(films.maximum[negative], specificity)
  empty = films.maximum <= threshold
  return (
    float(empty[negative & doubtful].mean()),
    float(empty[negative & ~doubtful].mean()),
  )


@dataclasses.dataclass(frozen=True)
class Group:
  """What is found of some films.

  Attributes:
    name: What the films have in common.
    count: How many they are.
    flagged: Share whose largest pixel is above the threshold.
    flagged_interval: Of that share; patients are drawn, the threshold is not.
    dice: Mean Dice, no film left out; NaN where the films are negative.
  """

  name: str
  count: int
  flagged: float
  flagged_interval: Interval
  dice: float


def by_group(films: Films, *, specificity: float) -> list[Group]:
  """What is found by quartile of the size and by view.

  Args:
    films: N films.
    specificity: Of all films together, by the largest pixel; it sets the
      threshold.
  """
  label, area, view = films.label, films.truth_area, films.view
  flagged = films.maximum > np.quantile(films.maximum[~label], specificity)
  dice = _ungated(films)
  quartile = averages.quartiles(area, label)
  groups = {}
  for number in range(1, averages.NUM_QUARTILES + 1):
    chosen = quartile == number
    groups[f'positive, {area[chosen].min()} to {area[chosen].max()} px'] = (
      chosen
    )
  for name in ('AP', 'PA'):
    groups[f'positive, {name}'] = label & (view == name)
    groups[f'negative, {name}'] = ~label & (view == name)
  weights = bootstrap.cluster_weights(films.patient, replicates=REPLICATES)
  return [
    Group(
      name=name,
      count=int(chosen.sum()),
      flagged=float(flagged[chosen].mean()),
      flagged_interval=_bounds(weighted_mean(flagged, weights, chosen)),
      dice=float(dice[chosen & label].mean())
      if label[chosen].any()
      else np.nan,
    )
    for name, chosen in groups.items()
    if chosen.any()
  ]


def corrected_for_choice(
  recipes: Mapping[str, Sequence[Films]], *, replicates: int | None = None
) -> tuple[str, dict[str, float], dict[str, tuple[float, Interval]]]:
  """Bootstrap bias-corrected cross-validation (Tsamardinos et al. 2018).

  Patients are drawn; the recipe that is best on those, by its mean over seeds,
  is scored on the patients that were not drawn. The mean is what the choice of
  the best recipe is worth on new films.

  Args:
    recipes: the films of each seed of each, all the same ones.
    replicates: how often patients are drawn.

  Returns:
    The chosen recipe, its metrics as they stand, and the corrected ones with
    95 % intervals.
  """
  names = list(recipes)
  _same_films(each for recipe in recipes.values() for each in recipe)
  films = recipes[names[0]][0]
  drawn = bootstrap.cluster_weights(
    films.patient, replicates=replicates or REPLICATES
  )
  functions = [_mean_metrics(each) for each in recipes.values()]
  once = [function(np.ones((1, len(films)))) for function in functions]
  inside = np.stack([function(drawn)[CRITERION] for function in functions])
  left_out = (drawn == 0).astype(float)
  outside = [function(left_out) for function in functions]
  best = np.nanargmax(inside, axis=0)
  chosen = int(np.argmax([float(each[CRITERION][0]) for each in once]))
  corrected = {}
  for metric in once[0]:
    values = np.choose(best, [each[metric] for each in outside])
    corrected[metric] = (float(np.nanmean(values)), _bounds(values))
  return (
    names[chosen],
    {metric: float(value[0]) for metric, value in once[chosen].items()},
    corrected,
  )


def _mean_metrics(
  seeds: Sequence[Films],
) -> Callable[[np.ndarray], Metrics]:
  """Like `metrics`, the mean over seeds."""
  functions = [metrics(each) for each in seeds]

  def compute(weights: np.ndarray) -> Metrics:
    found = [function(weights) for function in functions]
    return {
      metric: np.mean([each[metric] for each in found], axis=0)
      for metric in found[0]
    }

  return compute


def _same_films(tables: Iterable[Films]) -> None:
  """Raises ValueError where tables are not of the same films."""
  if len({tuple(each.image_id) for each in tables}) > 1:
    raise ValueError('Paired recipes must have predicted the same films.')


def _bounds(values: np.ndarray) -> Interval:
  """Of the replicates in which the metric is defined."""
  return averages.interval(values[np.isfinite(values)])
