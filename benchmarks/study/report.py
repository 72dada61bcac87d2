"""The study's tables, from the tables of films that are there."""

import csv
import pathlib
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from benchmarks.study import comparison, films, plan
from benchmarks.study.films import Films

# Metrics and their titles.
_COLUMNS = {
  'dice_positive_80': 'Dice on positives, 80 % of negatives empty',
  'dice_positive_90': '90 % empty',
  'dice_positive_mask': 'no film left out',
  'auc_maximum': 'AUC of the largest pixel',
  'auc_mean_probability': 'AUC of its mean with the presence head',
}
# Of what tells films with a pneumothorax from others.
_PROBABILITIES = {
  'auc_probability': 'AUC of the presence head',
  'auc_maximum': 'of the largest pixel',
  'auc_mean_probability': 'of their mean',
  'mean_above_probability': 'mean - presence head',
  'mean_above_maximum': 'mean - largest pixel',
}
_FIXED = {
  'dice_positive_at_0.2': 'Dice on positives at 0.2',
  'empty_negatives_at_0.2': 'empty negatives at 0.2',
  'dice_positive_at_0.5': 'Dice on positives at 0.5',
  'empty_negatives_at_0.5': 'empty negatives at 0.5',
  'dice': "competition's Dice, rule of the other folds",
  'dice_above_empty': 'above that of empty masks',
  'dice_positive_rule': 'on positives',
  'empty_negatives_rule': 'empty negatives',
  'dice_mean': "competition's Dice, gate on the mean probability",
  'dice_mean_above_empty': 'above that of empty masks',
  'dice_positive_rule_mean': 'on positives',
  'empty_negatives_rule_mean': 'empty negatives',
  'probability_negative': 'mean probability of negatives',
}
_SENSITIVITY = {
  'sensitivity_90_probability': 'at 90 % specificity, presence head',
  'sensitivity_95_probability': 'at 95 %',
  'sensitivity_90_maximum': 'at 90 %, largest pixel',
  'sensitivity_95_maximum': 'at 95 %',
  'sensitivity_90_mean_probability': 'at 90 %, their mean',
  'sensitivity_95_mean_probability': 'at 95 %',
  **{
    f'sensitivity_quartile_{number}': f'rule, size quartile {number}'
    for number in range(1, 5)
  },
}

_SIZE = 'films / positive / patients'

# A recipe, its seeds on the same films, every metric with its interval.
Scored = tuple[
  str, Sequence[Films], dict[str, tuple[float, comparison.Interval]]
]

# Of a screening-like practice, and of the study.
_PREVALENCES = (0.05, 0.28)


def load(results: pathlib.Path) -> dict[str, list[Films]]:
  """Returns the films of every seed of every recipe, by name of the recipe."""
  recipes = {}
  for folder in sorted(path for path in results.iterdir() if path.is_dir()):
    seeds: dict[str, list[Films]] = {}
    for path in sorted(folder.glob('seed*_fold?.csv')):
      seeds.setdefault(path.name.split('_')[0], []).append(films.read(path))
    if seeds:
      recipes[folder.name] = [films.joined(parts) for parts in seeds.values()]
  return recipes


def chosen_checkpoints(
  results: pathlib.Path,
) -> dict[str, tuple[Films, Films]]:
  """By recipe, films under the checkpoint that validation prefers and the last.

  Of the folds of the first seed that have both.
  """
  found = {}
  for folder in sorted(path for path in results.iterdir() if path.is_dir()):
    paths = sorted(folder.glob('seed0_fold?_best.csv'))
    if paths:
      last = (path.with_name(path.name.replace('_best', '')) for path in paths)
      found[folder.name] = (
        films.joined([films.read(path) for path in paths]),
        films.joined([films.read(path) for path in last]),
      )
  return found


def film_sets(seeds: Sequence[Films]) -> list[list[Films]]:
  """The seeds of a recipe for every set of films that one of them predicted.

  For example one seed on the films of all folds, and three on those of two.
  """
  sets = {tuple(each.image_id): len(each) for each in seeds}
  return [
    on_films(seeds, image_ids)
    for image_ids in sorted(sets, key=sets.get, reverse=True)
  ]


def on_films(seeds: Sequence[Films], image_ids: Collection[str]) -> list[Films]:
  """The seeds that have predicted all of these films, on these films alone."""
  return [
    each.of(image_ids) for each in seeds if {*image_ids}.issubset(each.image_id)
  ]


def compared(
  ours: Sequence[Films], theirs: Sequence[Films]
) -> tuple[list[Films], list[Films]]:
  """The seeds of two recipes that have predicted the films that both have."""
  largest = [max(seeds, key=len) for seeds in (ours, theirs)]
  ids = comparison.shared(largest)[0].image_id
  return on_films(ours, ids), on_films(theirs, ids)


def text(results: pathlib.Path, *, real_data: str | None = None) -> str:
  """Returns every table as Markdown.

  Args:
    results: the folder of the tables of films.
    real_data: the folder of siim_study, for what NIH's labels say.
  """
  recipes = load(results)
  if not recipes:
    return 'No run is done yet.'
  scored = [
    (name, seeds, comparison.intervals(seeds))
    for name in _names(recipes)
    for seeds in film_sets(recipes[name])
  ]
  largest = {name: max(recipes[name], key=len) for name in _names(recipes)}
  parts = [
    _scores(scored, _COLUMNS),
    _scores(scored, _FIXED),
    f'The probability of a film:\n\n{_scores(scored, _PROBABILITIES)}',
    f'Sensitivity:\n\n{_scores(scored, _SENSITIVITY)}',
    f'Predictive values:\n\n{_predictive_values(scored)}',
  ]
  parts += [
    f'Found of {name} at 90 % specificity of the largest pixel:\n\n'
    f'{_groups(first)}'
    for name, first in largest.items()
  ]
  if real_data:
    parts.append(f'Doubtful negatives:\n\n{_doubtful(largest, real_data)}')
  parts += [
    f'Differences from {name}, on shared films:\n\n{paired}'
    for name in ('default', 'torch')
    if name in recipes and (paired := _paired(recipes, name))
  ]
  for name, (best, last) in chosen_checkpoints(results).items():
    found = comparison.differences([best], [last])
    cells = [cell(*found[metric], sign='+') for metric in _COLUMNS]
    parts.append(
      f'What the checkpoint that validation prefers adds to {name}, scored on '
      'the films that it was chosen on:\n\n'
      + table([*_COLUMNS.values()], [cells])
    )
  return '\n\n'.join([*parts, *_corrected(recipes)])


def _row(*cells) -> str:
  return f'| {" | ".join(map(str, cells))} |'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  rule = '|---' * len(head) + '|'
  return '\n'.join([_row(*head), rule, *(_row(*row) for row in rows)])


def cell(value: float, bounds: comparison.Interval, sign: str = '') -> str:
  low, high = bounds
  return f'{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]'


def _names(recipes: Mapping[str, Sequence[Films]]) -> list[str]:
  """In the order of the plan, others behind."""
  order = [each.name for each in plan.VARIANTS]
  return sorted(
    recipes, key=lambda name: (order.index(name) if name in order else 99, name)
  )


def _scores(scored: Sequence[Scored], columns: Mapping[str, str]) -> str:
  rows = [
    [
      name,
      len(seeds),
      _size(seeds[0]),
      *(cell(*found[each]) for each in columns),
    ]
    for name, seeds, found in scored
  ]
  return table(['recipe', 'seeds', _SIZE, *columns.values()], rows)


def _size(films: Films) -> str:
  return f'{len(films)} / {films.label.sum()} / {len(set(films.patient))}'


def _predictive_values(scored: Sequence[Scored]) -> str:
  """At the specificity of 90 %, by the largest pixel."""
  rows = []
  for name, seeds, found in scored:
    sensitivity, bounds = found['sensitivity_90_maximum']
    cells = [
      cell(value, (low, high))
      for prevalence in _PREVALENCES
      for value, low, high in zip(
        *(
          comparison.predictive_values(each, 0.9, prevalence)
          for each in (sensitivity, *bounds)
        ),
        strict=True,
      )
    ]
    rows.append([name, len(seeds), _size(seeds[0]), *cells])
  head = [
    f'{value} at {prevalence:.0%}'
    for prevalence in _PREVALENCES
    for value in ('PPV', 'NPV')
  ]
  return table(['recipe', 'seeds', _SIZE, *head], rows)


def _groups(recipe: Films) -> str:
  """By size and view."""
  rows = [
    [
      group.name,
      group.count,
      cell(group.flagged, group.flagged_interval),
      '' if np.isnan(group.dice) else f'{group.dice:.3f}',
    ]
    for group in comparison.by_group(recipe, specificity=0.9)
  ]
  return table(['films', 'number', 'share flagged', 'Dice'], rows)


def _doubtful(recipes: Mapping[str, Films], real_data: str) -> str:
  """Negatives of the competition that NIH's labels call a pneumothorax."""
  path = pathlib.Path(real_data, 'siim_study', 'nih_labels.csv')
  with path.open(newline='') as file:
    called = {
      row['image_id']
      for row in csv.DictReader(file)
      if 'Pneumothorax' in row['nih_labels']
    }
  rows = []
  for name, first in recipes.items():
    doubtful = np.isin(first.image_id, list(called))
    count = int((doubtful & ~first.label).sum())
    shares = comparison.empty_share(first, doubtful, specificity=0.9)
    rows.append([name, count, *(f'{share:.3f}' for share in shares)])
  head = ['recipe', 'called by NIH', 'left empty', 'of the others left empty']
  return table(head, rows)


def _paired(recipes: Mapping[str, Sequence[Films]], name: str) -> str:
  rows = []
  for other in _names(recipes):
    ours, theirs = compared(recipes[other], recipes[name])
    if other == name or not len(ours[0]):
      continue
    found = comparison.differences(
      ours, theirs, yardstick=recipes.get('default', ())
    )
    cells = [cell(*found[metric], sign='+') for metric in _COLUMNS]
    rows.append([other, f'{len(ours)}, {len(theirs)}', _size(ours[0]), *cells])
  head = ['recipe', 'seeds', _SIZE, *_COLUMNS.values()]
  return table(head, rows) if rows else ''


def _corrected(recipes: Mapping[str, Sequence[Films]]) -> list[str]:
  """The best of this project's recipes for every set of films with a choice."""
  own = {
    name: recipes[name]
    for name in _names(recipes)
    if not name.startswith('torch')
  }
  parts = []
  for image_ids in {
    tuple(each.image_id): None for seeds in own.values() for each in seeds
  }:
    candidates = {
      name: found
      for name, seeds in own.items()
      if (found := on_films(seeds, image_ids))
    }
    if len(candidates) < 2:
      continue
    chosen, plain, corrected = comparison.corrected_for_choice(candidates)
    rows = [
      [title, f'{plain[metric]:.3f}', cell(*corrected[metric])]
      for metric, title in _COLUMNS.items()
    ]
    parts.append(
      f'Best of {len(candidates)} recipes by `{comparison.CRITERION}` on '
      f'{len(image_ids)} films: {chosen}. Corrected for that choice:\n\n'
      + table(['metric', 'as it stands', 'corrected'], rows)
    )
  return parts
