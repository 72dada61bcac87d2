"""The study's tables, from the tables of films that are there."""

import csv
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.study import comparison, films, plan
from benchmarks.study.films import Films

# Metrics and their titles.
_COLUMNS = {
  'dice_positive_80': 'Dice on positives, 80 % of negatives empty',
  'dice_positive_90': '90 % empty',
  'dice_positive_mask': 'no film left out',
  'auc_maximum': 'AUC of the largest pixel',
  'auc_probability': 'AUC of the presence head',
}
_FIXED = {
  'dice_positive_at_0.2': 'Dice on positives at 0.2',
  'empty_negatives_at_0.2': 'empty negatives at 0.2',
  'dice_positive_at_0.5': 'Dice on positives at 0.5',
  'empty_negatives_at_0.5': 'empty negatives at 0.5',
  'dice': "competition's Dice, rule of the other folds",
  'dice_positive_rule': 'on positives',
  'empty_negatives_rule': 'empty negatives',
}
_SENSITIVITY = {
  'sensitivity_90_probability': 'at 90 % specificity, presence head',
  'sensitivity_95_probability': 'at 95 %',
  'sensitivity_90_maximum': 'at 90 %, largest pixel',
  'sensitivity_95_maximum': 'at 95 %',
  **{
    f'sensitivity_quartile_{number}': f'rule, size quartile {number}'
    for number in range(1, 5)
  },
}

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


def complete(seeds: Sequence[Films]) -> list[Films]:
  """The seeds that have predicted the most films: those can be averaged."""
  most = max(len(each) for each in seeds)
  return [each for each in seeds if len(each) == most]


def text(results: pathlib.Path, *, real_data: str | None = None) -> str:
  """Returns every table as Markdown.

  Args:
    results: the folder of the tables of films.
    real_data: the folder of siim_study, for what NIH's labels say.
  """
  recipes = {
    name: complete(seeds) for name, seeds in load(results).items() if seeds
  }
  if not recipes:
    return 'No run is done yet.'
  parts = [
    _scores(recipes, _COLUMNS),
    _scores(recipes, _FIXED),
    f'Sensitivity:\n\n{_scores(recipes, _SENSITIVITY)}',
  ]
  parts.append(f'Predictive values:\n\n{_predictive_values(recipes)}')
  parts += [
    f'Found of {name} at 90 % specificity of the largest pixel:\n\n'
    f'{_groups(recipes[name][0])}'
    for name in _names(recipes)
  ]
  if real_data:
    parts.append(f'Doubtful negatives:\n\n{_doubtful(recipes, real_data)}')
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
  if len(recipes) > 2 and (corrected := _corrected(recipes)):
    parts.append(corrected)
  return '\n\n'.join(parts)


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


def _scores(
  recipes: Mapping[str, Sequence[Films]], columns: Mapping[str, str]
) -> str:
  rows = []
  for name in _names(recipes):
    found = comparison.intervals(recipes[name])
    first = recipes[name][0]
    size = f'{len(first)} / {first.label.sum()} / {len(set(first.patient))}'
    cells = [cell(*found[metric]) for metric in columns]
    rows.append([name, len(recipes[name]), size, *cells])
  head = ['recipe', 'seeds', 'films / positive / patients']
  return table([*head, *columns.values()], rows)


def _predictive_values(recipes: Mapping[str, Sequence[Films]]) -> str:
  """At the specificity of 90 %, by the largest pixel."""
  rows = []
  for name in _names(recipes):
    found = comparison.intervals(recipes[name])
    sensitivity = found['sensitivity_90_maximum'][0]
    cells = [
      f'{value:.3f}'
      for prevalence in _PREVALENCES
      for value in comparison.predictive_values(sensitivity, 0.9, prevalence)
    ]
    rows.append([name, *cells])
  head = [
    f'{value} at {prevalence:.0%}'
    for prevalence in _PREVALENCES
    for value in ('PPV', 'NPV')
  ]
  return table(['recipe', *head], rows)


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


def _doubtful(recipes: Mapping[str, Sequence[Films]], real_data: str) -> str:
  """Negatives of the competition that NIH's labels call a pneumothorax."""
  path = pathlib.Path(real_data, 'siim_study', 'nih_labels.csv')
  with path.open(newline='') as file:
    called = {
      row['image_id']
      for row in csv.DictReader(file)
      if 'Pneumothorax' in row['nih_labels']
    }
  rows = []
  for name in _names(recipes):
    first = recipes[name][0]
    doubtful = np.isin(first.image_id, list(called))
    count = int((doubtful & ~first.label).sum())
    shares = comparison.empty_share(first, doubtful, specificity=0.9)
    rows.append([name, count, *(f'{share:.3f}' for share in shares)])
  head = ['recipe', 'called by NIH', 'left empty', 'of the others left empty']
  return table(head, rows)


def _paired(recipes: Mapping[str, Sequence[Films]], name: str) -> str:
  rows = []
  for other in _names(recipes):
    ids = {*recipes[name][0].image_id}
    shared = ids.intersection(recipes[other][0].image_id)
    if other == name or not shared:
      continue
    found = comparison.differences(
      recipes[other], recipes[name], yardstick=recipes.get('default', ())
    )
    cells = [cell(*found[metric], sign='+') for metric in _COLUMNS]
    rows.append([other, len(shared), *cells])
  head = ['recipe', 'films', *_COLUMNS.values()]
  return table(head, rows) if rows else ''


def _corrected(recipes: Mapping[str, Sequence[Films]]) -> str:
  """Over the recipes of this project that have predicted the same films."""
  firsts = {
    name: recipes[name][0] for name in _names(recipes) if name != 'torch'
  }
  most = max(map(len, firsts.values()))
  firsts = {name: first for name, first in firsts.items() if len(first) == most}
  if len(firsts) < 2:
    return ''
  chosen, plain, corrected = comparison.corrected_for_choice(firsts)
  rows = [
    [
      title,
      f'{plain[metric]:.3f}',
      cell(*corrected[metric]),
    ]
    for metric, title in _COLUMNS.items()
  ]
  return (
    f'Best of {len(firsts)} recipes by `{comparison.CRITERION}`: {chosen}. '
    'Corrected for that choice:\n\n'
    + table(['metric', 'as it stands', 'corrected'], rows)
  )
