"""Metrics of two sets of runs and their paired differences.

    python -m benchmarks.study.differences \\
        --ours=stride2/seed0_fold0,stride2/seed0_fold1 \\
        --theirs=mild/seed0_fold0,mild/seed0_fold1

Runs of one recipe and seed are joined over their folds; only films that all
seeds share are scored. Intervals draw patients and seeds; a side with one seed
borrows the spread of the seeds of `default`. Reads `results/`, trains nothing.
"""

import pathlib
from collections.abc import Sequence

from absl import app, flags

from benchmarks.study import comparison, films, report


def seeds(runs: Sequence[str], results: pathlib.Path) -> list[films.Films]:
  """The films of every recipe and seed, its folds joined."""
  found: dict[str, list[films.Films]] = {}
  for run in runs:
    seed, _, _ = run.rpartition('_fold')
    found.setdefault(seed, []).append(films.read(results / f'{run}.csv'))
  return [films.joined(parts) for parts in found.values()]


def main(_) -> None:
  values = flags.FLAGS
  results = pathlib.Path(values.results_dir)
  ours, theirs = (seeds(runs, results) for runs in (values.ours, values.theirs))
  both = comparison.shared([*ours, *theirs])
  if not len(both[0]):
    raise app.UsageError('--ours and --theirs have no film in common')
  ours, theirs = both[: len(ours)], both[len(ours) :]
  own, other = comparison.intervals(ours), comparison.intervals(theirs)
  difference = comparison.differences(
    ours, theirs, yardstick=report.load(results).get('default', ())
  )
  rows = [
    [
      metric,
      report.cell(*own[metric]),
      report.cell(*other[metric]),
      report.cell(*difference[metric], sign='+'),
    ]
    for metric in own
  ]
  print(report.table(['metric', 'ours', 'theirs', 'ours - theirs'], rows))


if __name__ == '__main__':
  flags.DEFINE_list('ours', None, 'Runs, as default/seed0_fold0.')
  flags.DEFINE_list('theirs', None, 'The runs to compare with.')
  flags.DEFINE_string(
    'results_dir', 'benchmarks/study/results', 'The tables of films.'
  )
  flags.mark_flags_as_required(['ours', 'theirs'])
  app.run(main)
