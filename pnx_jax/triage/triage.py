"""What reading the most suspicious films first would do to a queue.

`python -m pnx_jax.triage.triage --per_image=runs/resunet/eval/per_image.csv`
simulates a reading room whose films are like those of an evaluation. It prints
how long films with and without a pneumothorax wait, and how often each
operating point of the postprocess.json beside the csv alerts for nothing.
"""

import argparse
import dataclasses
import math
import pathlib
from typing import NamedTuple

import numpy as np

from pnx_jax.cli import one_line
from pnx_jax.errors import UserError
from pnx_jax.formats.files import write_json
from pnx_jax.metrics import bootstrap
from pnx_jax.prediction.postprocess import Postprocess
from pnx_jax.triage.cohort import Cohort
from pnx_jax.triage.reading_queue import Clinic, waits

IN_TURN, BY_PROBABILITY = 'in turn', 'by probability'
# Not counted at each end of a replication: the queue has to fill first, and
# the last films have none behind them.
_ENDS = 0.1
_PREVALENCES = (0.005, 0.995)


class Figure(NamedTuple):
  """A value and its 95 % interval."""

  value: float
  interval: tuple[float, float] | None

  def __format__(self, spec):
    value, *bounds = (
      f'{x:{spec}}' for x in (self.value, *(self.interval or ()))
    )
    return f'{value} [{", ".join(bounds)}]' if bounds else value


def queue(
  cohort: Cohort,
  clinic: Clinic,
  thresholds: dict[str, float],
  *,
  prevalence: float,
  replications: int = 200,
  length: int = 10_000,
  seed: int = 0,
) -> dict[str, dict[str, Figure]]:
  """Minutes that films wait, by the order they are read in.

  In each replication patients are drawn anew, and from theirs so many films, of
  which a given share shows a pneumothorax. They meet the same arrivals and
  reading times in every order. Values are means over replications, intervals
  hold 95 % of them, None with fewer than 5 patients of a kind.

  Args:
    cohort: to draw from.
    clinic: that reads them.
    thresholds: flagged films, those at or above one, go before the others; an
      order of its own for each name.
    prevalence: the share of films with a pneumothorax.
    replications: R.
    length: N, films in each.
    seed: of all draws.

  Returns:
    By order: `positives` and `negatives`, their mean wait, and `sooner`, by
    how much less than in turn positives wait.
  """
  rng = np.random.default_rng(seed)
  arrival, begin = clinic.films(rng, (replications, length))
  positive = rng.random(arrival.shape) < prevalence
  probability = cohort.probability[cohort.draw(positive, rng)]
  ends = round(_ENDS * length)
  counted = np.zeros(length, bool)
  counted[ends:-ends] = True

  def mean(wait, chosen):
    return np.average(wait, axis=1, weights=chosen & counted)

  in_turn = mean(begin - arrival, positive)
  priorities = {
    IN_TURN: np.zeros(arrival.shape),
    BY_PROBABILITY: probability,
    **{name: probability >= level for name, level in thresholds.items()},
  }
  patients = (cohort.patient[kind] for kind in (cohort.label, ~cohort.label))
  enough = min(len(set(p.tolist())) for p in patients)
  known = enough >= bootstrap.LEAST_CLUSTERS
  waiting = {}
  for name, priority in priorities.items():
    wait = waits(arrival, begin, priority.astype(float))
    of_positives = mean(wait, positive)
    waiting[name] = {
      'positives': _figure(of_positives, known),
      'negatives': _figure(mean(wait, ~positive), known),
      'sooner': _figure(in_turn - of_positives, known),
    }
  return waiting


def alerts(
  cohort: Cohort,
  thresholds: dict[str, float],
  *,
  prevalence: float,
  seed: int = 0,
) -> dict[str, dict[str, Figure]]:
  """What flagging films at or above each threshold means, over patients.

  `sensitivity` is the share of positives that are flagged, `false_alert_rate`
  that of negatives. At the given prevalence `flagged` is the share of all films
  that are, and `in_vain` the share of those that show nothing.
  """

  def shares(weights):
    true, false = (
      {
        name: (weights * kind)
        @ (cohort.probability >= level)
        / (weights @ kind)
        for name, level in thresholds.items()
      }
      for kind in (cohort.label, ~cohort.label)
    )
    for name in thresholds:
      yield (name, 'sensitivity'), true[name]
      yield (name, 'false_alert_rate'), false[name]
      flagged = prevalence * true[name] + (1 - prevalence) * false[name]
      yield (name, 'flagged'), flagged
      yield (name, 'in_vain'), (1 - prevalence) * false[name] / flagged

  with np.errstate(invalid='ignore'):  # A draw may lack a kind, or any flag.
    values = dict(shares(np.ones((1, len(cohort.label)))))
    bounds = bootstrap.cluster_bootstrap(
      lambda weights: dict(shares(weights)), cohort.patient, seed=seed
    )
  table = {name: {} for name in thresholds}
  for (name, figure), value in values.items():
    table[name][figure] = Figure(float(value[0]), bounds[name, figure])
  return table


def _figure(replications, known: bool) -> Figure:
  """Their mean, and what holds 95 % of them where so much is known."""
  tail = (1 - bootstrap.CONFIDENCE) / 2
  low, high = np.quantile(replications, [tail, 1 - tail]).tolist()
  return Figure(float(replications.mean()), (low, high) if known else None)


def _table(header, table, spec) -> str:
  rows = [
    [name, *(format(figure, spec) for figure in figures.values())]
    for name, figures in table.items()
  ]
  rows = [header, *rows]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return '\n'.join(
    '  '.join(map(str.ljust, row, widths)).rstrip() for row in rows
  )


def main(arguments=None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
  parser.add_argument('--per_image', required=True, help='of an evaluation')
  for name, default, words in (
    ('films_per_hour', 20.0, 'that arrive, at random times'),
    ('minutes_per_film', 2.0, 'mean reading time'),
    ('spread', 0.5, 'of the reading time: standard deviation over mean'),
    ('prevalence', 0.05, 'share of films with a pneumothorax in the clinic'),
    ('readers', 1, 'who share the queue'),
    ('seed', 0, 'of all draws'),
  ):
    parser.add_argument(
      f'--{name}', type=type(default), default=default, help=words
    )
  parser.add_argument('--output', help='a .json for all figures')
  flags = parser.parse_args(arguments)
  with one_line():
    _run(flags)


def _run(flags) -> None:
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
  if not table.is_file():
    raise UserError(
      f'no --per_image={table}; `python launch.py --mode=eval` writes it'
    )
  post = Postprocess.load(table.with_name('postprocess.json'))
  cohort = Cohort.load(table, post)
  options = {'prevalence': flags.prevalence, 'seed': flags.seed}
  thresholds = {point.name: point.threshold for point in post.operating_points}
  waiting = queue(cohort, clinic, thresholds, **options)
  alerting = alerts(cohort, thresholds, **options)
  print(
    f'{clinic}; {flags.prevalence:.1%} of films with a pneumothorax (in the '
    f'csv {cohort.label.mean():.1%}).',
    'Minutes until a film is begun, mean [95 % interval over patients and '
    'arrivals]:',
    _table(
      ['order', 'positives', 'negatives', 'positives sooner by'],
      waiting,
      '.2f',
    ),
    'Flagged [95 % interval over patients]; of all films and in vain at that '
    'share:',
    _table(
      ['order', 'sensitivity', 'false-alert rate', 'of all films', 'in vain'],
      alerting,
      '.1%',
    ),
    'Operating points were chosen on the films that they are judged on here. '
    'For research only.',
    sep='\n\n',
  )
  if flags.output:
    content = {
      'clinic': dataclasses.asdict(clinic) | options,
      'minutes': _json(waiting),
      'alerts': _json(alerting),
    }
    write_json(flags.output, content)


def _json(table):
  return {
    row: {
      name: None if math.isnan(figure.value) else figure._asdict()
      for name, figure in figures.items()
    }
    for row, figures in table.items()
  }


if __name__ == '__main__':
  main()
