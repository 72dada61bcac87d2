"""Compares evaluated runs, film by film, with intervals and tests.

python -m pnx_jax.evaluation.compare runs/a runs/b --output_dir=comparison

compares every further run with the first one, on the films that all of them
scored. Several seeds of one recipe count as one side: runs/a0,runs/a1
runs/b0,runs/b1. The folder of an evaluation, such as runs/a/eval_other, may be
named instead of a run.
"""

import argparse
import math
from collections.abc import Sequence
from typing import Any

from pnx_jax.cli import Parser, one_line
from pnx_jax.errors import UserError
from pnx_jax.evaluation import comparison
from pnx_jax.evaluation.comparison import PRIMARY, Comparison
from pnx_jax.evaluation.report import changed_films, comparison_page
from pnx_jax.formats import files, folders
from pnx_jax.metrics import intervals

DIFFERENCES = (
  *('first', 'second', 'metric', 'first_value', 'second_value', 'difference'),
  *('low', 'high', 'resolvable', 'p_value', 'p_holm', 'non_inferior'),
  'interval_method',
)
_OURS = ('differences.csv', 'films.csv', 'report.html')


def main(arguments: Sequence[str] | None = None) -> None:
  """Parses the command line, compares, and writes tables and page."""
  parser = Parser('pnx_jax.evaluation.compare', __doc__)
  parser.add_argument(
    'sides',
    nargs='+',
    metavar='RUN[,RUN...]',
    help='a run, or runs of one recipe that count as one side',
  )
  parser.add_argument('--output_dir', required=True, help='folder to write')
  parser.add_argument(
    '--metrics',
    default=','.join(PRIMARY),
    help='metrics whose p-values are adjusted for their number '
    '(default: %(default)s)',
  )
  parser.add_argument(
    '--data_dir', help='the dataset, if it is not where the first run says'
  )
  parser.add_argument(
    '--margin',
    type=float,
    help='how much worse a run may be and still be called non-inferior',
  )
  for name, default, words in (
    ('pictures', 8, 'number of films that are shown'),
    ('replicates', 1000, 'of the permutation test'),
    ('seed', 0, 'of the permutation test'),
  ):
    parser.add_argument(
      f'--{name}',
      type=int,
      default=default,
      help=f'{words} (default: {default})',
    )
  with one_line():
    _run(parser.parse(arguments))


def _run(flags: argparse.Namespace) -> None:
  for name, least in (('pictures', 0), ('replicates', 100), ('seed', 0)):
    if getattr(flags, name) < least:
      raise UserError(f'--{name} must be at least {least}')
  found = comparison.compare(
    [_split(side) for side in flags.sides],
    primary=_split(flags.metrics),
    margin=flags.margin,
    replicates=flags.replicates,
    seed=flags.seed,
  )
  films = changed_films.choose(found, flags.pictures)
  pictures, missing = changed_films.pictures(
    found, films, data_dir=flags.data_dir
  )
  html = comparison_page.render(
    found, films=films, pictures=pictures, missing=missing
  )
  with folders.replaced(flags.output_dir, ours=_OURS.__contains__) as folder:
    files.write_csv(folder / 'differences.csv', DIFFERENCES, _rows(found))
    files.write_csv(folder / 'films.csv', *_films(found))
    files.write(folder / 'report.html', html)
  print(summary(found))
  print(f'Wrote {flags.output_dir}/report.html')


def _split(text: str) -> list[str]:
  return [part.strip() for part in text.split(',') if part.strip()]


def summary(found: Comparison) -> str:
  """The primary metrics as a table for the terminal."""
  lines = [f'{found.num_films} films in common, {found.num_left_out} others']
  first, *_ = found.sides
  for row in found.rows:
    if row.p_holm is None:
      continue
    low, high = row.difference.interval or (math.nan, math.nan)
    lines.append(
      f'{row.side.name} - {first.name}: {row.metric} '
      f'{row.difference.difference:+.4f} [{low:+.4f}, {high:+.4f}], '
      f'p {row.difference.p_value:.3f} (Holm {row.p_holm:.3f})'
    )
  lines.append(f'95 % intervals: {intervals.STUDENT}')
  return '\n'.join(lines)


def _rows(found: Comparison) -> list[list[Any]]:
  first, *_ = found.sides
  table = []
  for row in found.rows:
    difference = row.difference
    numbers = (
      *(difference.first, difference.second, difference.difference),
      *(difference.interval or (math.nan, math.nan)),
      *(difference.resolvable, difference.p_value),
      math.nan if row.p_holm is None else row.p_holm,
    )
    non_inferior = {None: '', True: 'yes', False: 'no'}[row.non_inferior]
    table.append(
      [first.name, row.side.name, row.metric]
      + ['' if math.isnan(x) else float(x) for x in numbers]
      + [non_inferior, intervals.STUDENT if difference.interval else '']
    )
  return table


def _films(found: Comparison) -> tuple[list[str], list[list[Any]]]:
  """Header and rows of films.csv: Dice and probability of every side."""
  table = found.sides[0].films[0]
  columns: dict[str, list[Any]] = {
    'image_id': table.image_id.tolist(),
    'label': table.label.astype(int).tolist(),
    'truth_area': table.truth_area.tolist(),
  }
  for side in found.sides:
    columns[f'dice {side.name}'] = side.dice.tolist()
    columns[f'probability {side.name}'] = side.probability.tolist()
  return list(columns), [list(r) for r in zip(*columns.values(), strict=True)]


if __name__ == '__main__':
  main()
