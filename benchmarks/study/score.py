"""Adds another program's out-of-fold predictions to the study's results.

    python -m benchmarks.study.score --predictions=DIR --data_dir=data/study \\
        --run=torch/seed0_fold0

DIR: see `pnx_jax.evaluation.stored_predictions`; what a `run.json` in it says
of the training stands beside the table, too. The predictions of several
folders, joined by commas, are averaged.
"""

import datetime
import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from absl import app, flags

from benchmarks.study import films
from pnx_jax.evaluation.stored_predictions import StoredPredictions
from pnx_jax.formats import files, schema
from pnx_jax.input import pipeline
from pnx_jax.prediction.network import SIZE
from pnx_jax.training import run_files


def averaged(
  networks: Sequence[Iterable[tuple[np.ndarray, float]]],
) -> Iterator[tuple[np.ndarray, float]]:
  """The means over networks of f32[S, S] and the probability of each film."""
  for predictions in zip(*networks, strict=True):
    probs, probability = zip(*predictions, strict=True)
    yield np.mean(probs, axis=0), float(np.mean(probability))


def main(_) -> None:
  values = flags.FLAGS
  fold = int(values.run.rpartition('fold')[2])
  dataset = pipeline.Dataset(values.data_dir, [schema.fold_split(fold)])
  found = films.count(
    dataset.records,
    averaged(
      [
        StoredPredictions(folder).probabilities(dataset)
        for folder in values.predictions
      ]
    ),
    lambda index: dataset.label(index, SIZE),
    fold=fold,
  )
  path = pathlib.Path(values.results_dir, f'{values.run}.csv')
  files.write_json(
    path.with_suffix('.json'),
    {
      'commit': run_files.commit(),
      'date': datetime.date.today().isoformat(),
      'networks': [
        json.loads(pathlib.Path(folder, 'run.json').read_text())
        for folder in values.predictions
        if pathlib.Path(folder, 'run.json').exists()
      ],
    },
  )
  films.write(path, found)


if __name__ == '__main__':
  flags.DEFINE_list('predictions', None, 'The folders.')
  flags.DEFINE_string('data_dir', 'data/study', 'The records.')
  flags.DEFINE_string('run', None, 'For example torch/seed0_fold0.')
  flags.DEFINE_string(
    'results_dir', 'benchmarks/study/results', 'For the table of films.'
  )
  flags.mark_flags_as_required(['predictions', 'run'])
  app.run(main)
