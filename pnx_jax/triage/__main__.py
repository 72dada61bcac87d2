"""Simulates reading the films that a network finds suspicious first.

python -m pnx_jax.triage --per_image=runs/resunet/eval/per_image.csv

simulates a reading room whose films are like those of an evaluation. It prints
how long films with and without a pneumothorax wait, and the alert rates of each
operating point of the postprocess.json beside the csv.
"""

import argparse
import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from pnx_jax.cli import Parser, one_line
from pnx_jax.errors import UserError
from pnx_jax.formats import folders
from pnx_jax.formats.files import write_json
from pnx_jax.prediction.postprocess import Postprocess
from pnx_jax.triage.cohort import Cohort
from pnx_jax.triage.queue import Clinic
from pnx_jax.triage.simulation import Estimate, alert_rates, waiting_times

_PREVALENCES = (0.005, 0.995)


def main(arguments: Sequence[str] | None = None) -> None:
  """Parses the command line, simulates, and prints the tables."""
  parser = Parser('pnx_jax.triage', __doc__)
  parser.add_argument(
    '--per_image', required=True, help='per_image.csv of an evaluation'
  )
  for name, default, words in (
    ('films_per_hour', 20.0, 'films that arrive per hour, at random times'),
    ('minutes_per_film', 2.0, 'mean reading time'),
    ('spread', 0.5, 'standard deviation of the reading time over its mean'),
    ('prevalence', 0.05, 'share of films with a pneumothorax in the clinic'),
    ('readers', 1, 'number of readers who share the queue'),
    ('seed', 0, 'seed of all draws'),
  ):
    parser.add_argument(
      f'--{name}',
      type=type(default),
      default=default,
      help=f'{words} (default: {default})',
    )
  parser.add_argument('--output', help='a .json file for all estimates')
  with one_line():
    _run(parser.parse(arguments))


def _run(flags: argparse.Namespace) -> None:
  if not _PREVALENCES[0] <= flags.prevalence <= _PREVALENCES[1]:
    raise UserError(
      f'--prevalence={flags.prevalence:g} must lie between '
      f'{_PREVALENCES[0]} and {_PREVALENCES[1]}'
    )
  if flags.seed < 0:
    raise UserError(f'--seed={flags.seed} must be at least 0')
  clinic = Clinic(
    films_per_hour=flags.films_per_hour,
    minutes_per_film=flags.minutes_per_film,
    spread=flags.spread,
    readers=flags.readers,
  )
  table = pathlib.Path(flags.per_image)
  folders.recover(table.parent)
  if not table.is_file():
    raise UserError(
      f'no --per_image={table}; `python launch.py --mode=eval` writes it'
    )
  post = Postprocess.load(table.with_name('postprocess.json'))
  cohort = Cohort.load(table, post)
  options = {'prevalence': flags.prevalence, 'seed': flags.seed}
  thresholds = {point.name: point.threshold for point in post.operating_points}
  waiting = waiting_times(cohort, clinic, thresholds, **options)
  alerts = alert_rates(cohort, thresholds, **options)
  print(
    f'{clinic}; {flags.prevalence:.1%} of films with a pneumothorax (in the '
    f'csv {cohort.label.mean():.1%}).',
    'Minutes until a film is read, mean [95 % interval over patients and '
    'arrivals]:',
    _table(
      ['reading order', 'positives', 'negatives', 'reduction for positives'],
      waiting,
      '.2f',
    ),
    'Flagged films [95 % interval over patients]; the last two columns at that '
    'prevalence:',
    _table(
      [
        'operating point',
        'sensitivity',
        'false positive rate',
        'flagged, of all films',
        'false discovery rate',
      ],
      alerts,
      '.1%',
    ),
    'The operating points were chosen on the same films. For research only.',
    sep='\n\n',
  )
  if flags.output:
    content = {
      'clinic': dataclasses.asdict(clinic) | options,
      'minutes': _json(waiting),
      'alerts': _json(alerts),
    }
    write_json(flags.output, content)


def _table(
  header: Sequence[str],
  table: Mapping[str, Mapping[str, Estimate]],
  spec: str,
) -> str:
  rows = [
    [name, *(format(estimate, spec) for estimate in estimates.values())]
    for name, estimates in table.items()
  ]
  rows = [[*header], *rows]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return '\n'.join(
    '  '.join(map(str.ljust, row, widths)).rstrip() for row in rows
  )


def _json(
  table: Mapping[str, Mapping[str, Estimate]],
) -> dict[str, dict[str, Any]]:
  return {
    row: {
      name: None if math.isnan(estimate.value) else estimate._asdict()
      for name, estimate in estimates.items()
    }
    for row, estimates in table.items()
  }


if __name__ == '__main__':
  main()
