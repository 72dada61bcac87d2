"""Subgroups, bounds and comparisons of runs whose tables are committed.

    python -m benchmarks.study.subgroups --real_data=DIR

needs no network: everything follows from the areas in `results/`. Subgroups are
NIH's pneumothorax label, whether the film is the patient's first, view, sex and
age, from `DIR/siim_study/nih_labels.csv`; of two rows that mirror each other
one is printed. The rule of a fold is chosen on the others; a film's probability
is that of its surest pixel.
"""

import csv
import pathlib

import numpy as np

from benchmarks.study import comparison
from benchmarks.study import films as tables
from benchmarks.study.films import Films
from pnx_jax.cli import Parser, one_line
from pnx_jax.evaluation.tables import AGE_BANDS
from pnx_jax.metrics import decisions, influence, intervals, paired, subgroups
from pnx_jax.metrics.summary import Images

_RESULTS = pathlib.Path(__file__).parent / 'results'
_METRICS = ('dice', 'dice_positive', 'sensitivity', 'specificity', 'auc')


def images(films: Films) -> Images:
  """The films under rules that are chosen on others."""
  outcome = comparison.cross_fitted(films)
  return Images(
    label=films.label,
    probability=films.maximum,
    dice=outcome.dice,
    predicted=outcome.predicted,
    truth_area=films.truth_area,
    predicted_area=outcome.predicted_area,
    intersection=outcome.intersection,
    patient=films.patient,
  )


def attributes(
  path: pathlib.Path, image_ids: np.ndarray
) -> dict[str, dict[str, np.ndarray]]:
  """What NIH tells of N films: bool[N] by column and value."""
  with path.open(encoding='utf-8', newline='') as file:
    rows = {row['image_id']: row for row in csv.DictReader(file)}
  films = [rows[name] for name in image_ids]
  columns = {
    'NIH pneumothorax label': [
      'yes' if 'Pneumothorax' in film['nih_labels'] else 'no' for film in films
    ],
    'first film': [
      'yes' if int(film['follow_up']) == 0 else 'no' for film in films
    ],
    'view': [film['view'] for film in films],
    'sex': [film['sex'] for film in films],
    'age': [
      next(f'{a}-{b}' for a, b in AGE_BANDS if a <= int(film['age']) <= b)
      for film in films
    ],
  }
  return {
    name: {value: np.array(cells) == value for value in sorted(set(cells))}
    for name, cells in columns.items()
  }


def main(arguments: list[str] | None = None) -> None:
  """Prints Markdown tables."""
  parser = Parser('benchmarks.study.subgroups', __doc__)
  parser.add_argument('--real_data', type=pathlib.Path, required=True)
  parser.add_argument('--runs', default='default,mild,torch')
  parser.add_argument('--folds', default='0,1')
  with one_line():
    flags = parser.parse(arguments)
  folds = flags.folds.split(',')
  names = flags.runs.split(',')
  runs = {
    name: tables.joined(
      [tables.read(_RESULTS / name / f'seed0_fold{f}.csv') for f in folds]
    )
    for name in names
  }
  found = {name: images(films) for name, films in runs.items()}
  first = found[names[0]]
  print(
    f'{len(first)} films of {len(np.unique(first.patient))} patients, '
    f'{first.label.sum()} positive'
  )
  print('\n| metric |', ' | '.join(names), '|\n|---|', '---|' * len(names))
  for metric in _METRICS:
    cells = []
    for each in found.values():
      value = influence.of_metrics(each)[metric]()
      cells.append(_cell(value.value, intervals.wilson(value, each.patient)))
    print(f'| {metric} |', ' | '.join(cells), '|')
  print(
    '\n| difference | metric | value | p | resolvable |\n|---|---|---|---|---|'
  )
  for name in names[1:]:
    for metric, each in paired.compare([first], [found[name]]).items():
      if metric in _METRICS:
        print(
          f'| {name} - {names[0]} | {metric} '
          f'| {_cell(each.difference, each.interval)} | {each.p_value:.2f} '
          f'| {each.resolvable:.3f} |'
        )
  groups = attributes(
    flags.real_data / 'siim_study/nih_labels.csv', runs[names[0]].image_id
  )
  for name in names:
    print(f'\n| {name} | n | metric | inside | outside | difference |')
    print('|---|---|---|---|---|---|')
    for each in subgroups.differences(found[name], groups):
      rows = groups[each.table]
      if len(rows) > 2 or each.row == list(rows)[-1]:
        print(
          f'| {each.table} {each.row} | {rows[each.row].sum()} '
          f'| {each.metric} | {each.inside:.3f} | {each.outside:.3f} '
          f'| {_cell(each.difference, each.interval)} |'
        )
  for name, each in found.items():
    scores = each.probability, each.label, each.patient
    bound = decisions.sensitivity_bound(*scores)
    assert bound.threshold is not None
    called = each.probability >= bound.threshold
    print(
      f'\n{name}: sensitivity 90 % with 95 % confidence by estimate at '
      f'{bound.threshold:.4f}, {bound.num_missed} of {bound.num_patients} '
      f'patients may be missed; specificity {(~called)[~each.label].mean():.3f}'
    )


def _cell(value: float, ends: intervals.Interval) -> str:
  between = f' [{ends[0]:.3f}, {ends[1]:.3f}]' if ends else ''
  return f'{value:.3f}{between}'


if __name__ == '__main__':
  main()
