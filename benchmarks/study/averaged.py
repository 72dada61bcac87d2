"""Scores finished runs averaged in another way; trains nothing.

    python -m benchmarks.study.averaged --name=default_two_seeds \\
        --runs=default/seed0_fold0,default/seed1_fold0
    python -m benchmarks.study.averaged --name=default_no_mirror \\
        --runs=default/seed0_fold0 --noflip

The networks of several runs of one fold are averaged, each over the views that
are asked for. The table of films is written like that of a recipe, as its seed
0, so that the report compares it with the others.
"""

import dataclasses
import datetime
import pathlib
import sys

import jax
from absl import app, flags

from benchmarks.study import films, fold, plan
from pnx_jax.formats import files
from pnx_jax.training import run_files, sharding

_RUNS = flags.DEFINE_list('runs', [], 'Finished runs that hold one fold out.')
_NAME = flags.DEFINE_string('name', None, 'Of the folder of results.')
_FLIP = flags.DEFINE_bool('flip', True, 'Average over the mirror image.')
_SCALES = flags.DEFINE_list('scales', ['1'], 'Average over these sizes.')
_DATA_DIR = flags.DEFINE_string('data_dir', 'data/study', 'The records.')
_OUTPUT_DIR = flags.DEFINE_string('output_dir', 'runs/study', 'The runs.')
_RESULTS_DIR = flags.DEFINE_string(
  'results_dir', 'benchmarks/study/results', 'For the table of films.'
)


def main(_) -> None:
  runs = [plan.parse(text) for text in _RUNS.value]
  if len({run.fold for run in runs}) != 1:
    raise app.UsageError('--runs needs runs that hold the same fold out')
  mesh = sharding.mesh()
  networks = []
  for run in runs:
    config = plan.config(run, _DATA_DIR.value, output_dir=_OUTPUT_DIR.value)
    workdir = pathlib.Path(
      _OUTPUT_DIR.value, run.variant.name, f'seed{run.seed}'
    )
    networks.append(
      dataclasses.replace(
        fold.last_network(config, workdir, mesh),
        flip=_FLIP.value,
        scales=tuple(map(float, _SCALES.value)),
      )
    )
  found = fold.score(networks, config, mesh)
  path = pathlib.Path(_RESULTS_DIR.value, _NAME.value, f'seed0_fold{run.fold}')
  command = ' '.join(['python -m benchmarks.study.averaged', *sys.argv[1:]])
  files.write_json(
    path.with_suffix('.json'),
    {
      'command': command,
      'commit': run_files.commit(),
      'date': datetime.date.today().isoformat(),
      'minutes': None,
      'jax': jax.__version__,
    },
  )
  films.write(path.with_suffix('.csv'), found)


if __name__ == '__main__':
  flags.mark_flag_as_required('name')
  app.run(main)
