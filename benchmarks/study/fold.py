"""Trains one fold of the study and counts what it predicts of the held-out one.

    python -m benchmarks.study.fold --run=default/seed0_fold0

The study starts this as a process of its own. Scored are the last averaged
weights, mean of the image and its mirror image.
"""

import datetime
import os
import pathlib
import time
from collections.abc import Sequence

import jax
from absl import app, flags

from benchmarks.study import films, plan
from pnx_jax import cli
from pnx_jax.evaluation.dataset_predictor import DatasetPredictor
from pnx_jax.formats import files, schema
from pnx_jax.input import pipeline
from pnx_jax.prediction.ensemble import Ensemble
from pnx_jax.prediction.network import SIZE, Network, known_probability
from pnx_jax.training import experiment, run_files, sharding, train_state
from pnx_jax.training.checkpoint import Checkpoints
from pnx_jax.training.train import train


def last_network(
  config, workdir: pathlib.Path, mesh: jax.sharding.Mesh
) -> Network:
  """Returns the averaged weights of the newest checkpoint."""
  run = experiment.Experiment.build(config, platform=sharding.platform(mesh))
  abstract = train_state.abstract(
    run.create_state,
    jax.random.key(config.seed, impl='rbg'),
    sharding.replicated(mesh),
  )
  folder = run_files.checkpoint_dir(workdir, config.fold)
  with Checkpoints(folder, create=False) as checkpoints:
    state = checkpoints.restore_latest(abstract)
  assert state is not None and int(state.step) == config.total_steps
  return Network(
    model=run.model,
    variables=state.best_variables,
    image_size=config.image_size,
    image_probability=known_probability(config, 'presence_head'),
    steps=(config.total_steps,),
  )


def score(
  networks: Sequence[Network], config, mesh: jax.sharding.Mesh
) -> films.Films:
  """Counts what networks predict together of the held-out fold's films."""
  dataset = pipeline.Dataset(config.data_dir, [schema.fold_split(config.fold)])
  predictor = DatasetPredictor(
    Ensemble(networks=networks, mesh=mesh),
    experiment.loader(config, config.eval.batch_size),
  )
  return films.count(
    dataset.records,
    predictor.probabilities(dataset),
    lambda index: dataset.label(index, SIZE),
    fold=config.fold,
  )


def main(_) -> None:
  cli.log_to_terminal()
  values = flags.FLAGS
  run = plan.parse(values.run)
  config = plan.config(run, values.data_dir, output_dir=values.output_dir)
  workdir = pathlib.Path(values.output_dir, run.variant.name, f'seed{run.seed}')
  start = time.monotonic()
  resumed = run.fold in run_files.trained_folds(workdir)
  if train(config, workdir) is None:
    raise SystemExit(130)
  minutes = (time.monotonic() - start) / 60
  mesh = sharding.mesh()
  found = score([last_network(config, workdir, mesh)], config, mesh)
  results = pathlib.Path(values.results_dir)
  if run.variant.score_best:
    best = Network.load(
      workdir, run.fold, image_probability='presence_head', mesh=mesh
    )
    films.write(results / f'{run}_best.csv', score([best], config, mesh))
  files.write_json(
    results / f'{run}.json',
    {
      'command': f'python -m benchmarks.study.fold --run={run}',
      'commit': run_files.commit(),
      'date': datetime.date.today().isoformat(),
      # Of a run that was interrupted only its last part is timed.
      'minutes': None if resumed else round(minutes, 1),
      'load_average': round(os.getloadavg()[2], 1),
      'cores': os.cpu_count(),
      'jax': jax.__version__,
    },
  )
  films.write(results / f'{run}.csv', found)


if __name__ == '__main__':
  flags.DEFINE_string('run', None, 'For example default/seed0_fold0.')
  flags.DEFINE_string('data_dir', 'data/study', 'The records.')
  flags.DEFINE_string(
    'output_dir', 'runs/study', 'For checkpoints and pretrained encoders.'
  )
  flags.DEFINE_string(
    'results_dir', 'benchmarks/study/results', 'For the table of films.'
  )
  flags.mark_flag_as_required('run')
  app.run(main)
