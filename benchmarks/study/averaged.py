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
from collections.abc import Sequence

import jax
from absl import app, flags

from benchmarks.study import films, fold, plan
from pnx_jax import cli
from pnx_jax.config import Config
from pnx_jax.formats import files
from pnx_jax.prediction.network import Network
from pnx_jax.training import run_files, sharding


def networks(
  runs: Sequence[plan.Run], data_dir: str, *, output_dir: str
) -> tuple[list[Network], Config]:
  """The last weights of finished runs, and the config of the last one.

  Raises:
    UsageError: They do not hold the same fold out.
  """
  if len({run.fold for run in runs}) != 1:
    raise app.UsageError('--runs needs runs that hold the same fold out')
  found = []
  for run in runs:
    config = plan.config(run, data_dir, output_dir=output_dir)
    workdir = pathlib.Path(output_dir, run.variant.name, f'seed{run.seed}')
    found.append(fold.last_network(config, workdir, sharding.mesh()))
  return found, config


def main(_) -> None:
  cli.log_to_terminal()
  values = flags.FLAGS
  runs = [plan.parse(text) for text in values.runs]
  trained, config = networks(
    runs, values.data_dir, output_dir=values.output_dir
  )
  scales = tuple(map(float, values.scales))
  views = [
    dataclasses.replace(network, flip=values.flip, scales=scales)
    for network in trained
  ]
  found = fold.score(views, config, sharding.mesh())
  path = pathlib.Path(
    values.results_dir, values.name, f'seed0_fold{runs[0].fold}'
  )
  command = (
    f'python -m benchmarks.study.averaged --name={values.name} '
    f'--runs={",".join(values.runs)} --scales={",".join(values.scales)} '
    f'--{"" if values.flip else "no"}flip'
  )
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
  flags.DEFINE_list('runs', [], 'Finished runs that hold one fold out.')
  flags.DEFINE_string('name', None, 'Of the folder of results.')
  flags.DEFINE_bool('flip', True, 'Average over the mirror image.')
  flags.DEFINE_list('scales', ['1'], 'Average over these sizes.')
  flags.DEFINE_string('data_dir', 'data/study', 'The records.')
  flags.DEFINE_string('output_dir', 'runs/study', 'The runs.')
  flags.DEFINE_string(
    'results_dir', 'benchmarks/study/results', 'For the table of films.'
  )
  flags.mark_flag_as_required('name')
  app.run(main)
