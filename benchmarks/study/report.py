"""The study's tables, from the tables of films that are there."""

import pathlib
from collections.abc import Mapping, Sequence

from benchmarks.study import films, plan, statistics
from benchmarks.study.films import Films

# Columns: metric and title.
_COLUMNS = {
  'balanced': 'balanced',
  'dice_positive_rule': 'Dice on positives, rule',
  'empty_negatives_rule': 'empty negatives, rule',
  'dice_positive_at_0.2': 'Dice on positives at 0.2',
  'empty_negatives_at_0.2': 'empty negatives at 0.2',
  'dice_positive_at_0.5': 'Dice on positives at 0.5',
  'empty_negatives_at_0.5': 'empty negatives at 0.5',
  'auc_probability': 'AUC, presence',
  'auc_maximum': 'AUC, maximum pixel',
}
_PAIRED = (
  'balanced',
  'dice_positive_rule',
  'dice_positive_at_0.2',
  'dice_positive_at_0.5',
  'auc_probability',
  'auc_maximum',
)
_DETAILS = (
  'dice',
  'sensitivity_at_90_probability',
  'sensitivity_at_95_probability',
  *(f'sensitivity_quartile_{number}' for number in range(1, 5)),
)


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


def complete(seeds: Sequence[Films]) -> list[Films]:
  """The seeds that have predicted the most films: those can be averaged."""
  most = max(len(each) for each in seeds)
  return [each for each in seeds if len(each) == most]


def text(results: pathlib.Path) -> str:
  """Returns every table as Markdown."""
  recipes = {
    name: complete(seeds) for name, seeds in load(results).items() if seeds
  }
  if not recipes:
    return 'No run is done yet.'
  parts = [_scores(recipes), _details(recipes)]
  parts += [
    f'Differences from {name}, on shared films:\n\n{table}'
    for name in ('default', 'torch')
    if name in recipes and (table := _paired(recipes, name))
  ]
  if len(recipes) > 2 and (corrected := _corrected(recipes)):
    parts.append(corrected)
  return '\n\n'.join(parts)


def _row(*cells) -> str:
  return f'| {" | ".join(map(str, cells))} |'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  rule = '|---' * len(head) + '|'
  return '\n'.join([_row(*head), rule, *(_row(*row) for row in rows)])


def _cell(value: float, bounds: statistics.Interval, sign: str = '') -> str:
  low, high = bounds
  return f'{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]'


def _names(recipes: Mapping[str, Sequence[Films]]) -> list[str]:
  """In the order of the plan, others behind."""
  order = [each.name for each in plan.VARIANTS]
  return sorted(
    recipes, key=lambda name: (order.index(name) if name in order else 99, name)
  )


def _scores(recipes: Mapping[str, Sequence[Films]]) -> str:
  rows = []
  for name in _names(recipes):
    found = statistics.intervals(recipes[name])
    first = recipes[name][0]
    rows.append(
      [
        name,
        len(recipes[name]),
        len(first),
        first.label.sum(),
        len(set(first.patient)),
        *(_cell(*found[metric]) for metric in _COLUMNS),
      ]
    )
  head = ['recipe', 'seeds', 'films', 'positive', 'patients']
  return _table([*head, *_COLUMNS.values()], rows)


def _details(recipes: Mapping[str, Sequence[Films]]) -> str:
  rows = []
  for name in _names(recipes):
    found = statistics.intervals(recipes[name])
    rows.append([name, *(_cell(*found[metric]) for metric in _DETAILS)])
  head = [metric.replace('_', ' ') for metric in _DETAILS]
  return _table(['recipe', *head], rows)


def _paired(recipes: Mapping[str, Sequence[Films]], name: str) -> str:
  rows = []
  for other in _names(recipes):
    ids = {*recipes[name][0].image_id}
    if other == name or ids.isdisjoint(recipes[other][0].image_id):
      continue
    found = statistics.differences(
      recipes[other], recipes[name], yardstick=recipes.get('default', ())
    )
    rows.append(
      [other, *(_cell(*found[metric], sign='+') for metric in _PAIRED)]
    )
  head = [metric.replace('_', ' ') for metric in _PAIRED]
  return _table(['recipe', *head], rows) if rows else ''


def _corrected(recipes: Mapping[str, Sequence[Films]]) -> str:
  """Over the recipes of this project that have predicted the same films."""
  firsts = {
    name: recipes[name][0] for name in _names(recipes) if name != 'torch'
  }
  most = max(map(len, firsts.values()))
  firsts = {name: first for name, first in firsts.items() if len(first) == most}
  if len(firsts) < 2:
    return ''
  chosen, plain, corrected = statistics.corrected_for_choice(firsts)
  rows = [
    [
      metric.replace('_', ' '),
      f'{plain[metric]:.3f}',
      _cell(*corrected[metric]),
    ]
    for metric in (*_COLUMNS, *_DETAILS)
  ]
  return (
    f'Best of {len(firsts)} recipes by `{statistics.CRITERION}`: {chosen}. '
    'Corrected for that choice:\n\n'
    + _table(['metric', 'as it stands', 'corrected'], rows)
  )
