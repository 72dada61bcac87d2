"""The study's films, and confident predictions of others beside them.

    python -m benchmarks.study.pseudo_masks --real_data=DIR \\
        --runs=stride2/seed0_fold1,stride2/seed1_fold1 --output=data/pseudo

Self-training: the mean of some finished runs of one fold predicts the films of
the second test set (`other_films.py --films=test`). Those with the largest and
the smallest probabilities become annotated films, with the predicted mask or
with none; the others are left out. All of them stand in a fold that is trained
on. How many are taken does not depend on any label.
"""

import pathlib
from collections.abc import Iterable

import numpy as np
from absl import app, flags

from benchmarks.study import averaged, other_films, plan
from pnx_jax import cli
from pnx_jax.errors import UserError
from pnx_jax.evaluation.dataset_predictor import DatasetPredictor
from pnx_jax.formats import built_dataset, rle, schema
from pnx_jax.input import pipeline
from pnx_jax.prediction.ensemble import Ensemble
from pnx_jax.prediction.network import SIZE
from pnx_jax.training import experiment, sharding

# About a fifth of the competition's films show a pneumothorax: the surest half
# of these, and half of all films as negatives.
POSITIVE_SHARE, NEGATIVE_SHARE = 0.1, 0.5
MASK_LEVEL = 0.3
_SIZE = f'{SIZE} {SIZE}'


def confident(
  predictions: Iterable[tuple[np.ndarray, float]],
) -> dict[int, str]:
  """The run lengths of films by number, '' of negatives.

  A film among the surest whose mask is empty at MASK_LEVEL is left out.

  Args:
    predictions: Of each film f32[1024, 1024] and the probability.
  """
  largest, masks = [], []
  for probs, _ in predictions:
    largest.append(float(probs.max()))
    masks.append(rle.encode(probs > MASK_LEVEL))
  order = np.argsort(largest)
  positives = order[len(order) - round(POSITIVE_SHARE * len(order)) :]
  negatives = order[: round(NEGATIVE_SHARE * len(order))]
  return {
    **{int(film): '' for film in negatives},
    **{
      int(film): masks[film] for film in positives if masks[film] != rle.EMPTY
    },
  }


def main(_) -> None:
  cli.log_to_terminal()
  values = flags.FLAGS
  real_data = pathlib.Path(values.real_data)
  runs = [plan.parse(text) for text in values.runs]
  networks, config = averaged.networks(
    runs, values.data_dir, output_dir=values.output_dir
  )
  dataset = pipeline.Dataset(
    values.test_dir, [schema.UNLABELED_SPLIT], labeled_only=False
  )
  if not len(dataset):
    raise UserError(f'{values.test_dir} has no films without annotation')
  predictor = DatasetPredictor(
    Ensemble(networks=networks, mesh=sharding.mesh()),
    experiment.loader(config, config.eval.batch_size),
  )
  predicted = confident(predictor.probabilities(dataset))
  folds = built_dataset.folds_of(values.data_dir)
  held_out = runs[0].fold
  trained = str(plan.trained_fold(held_out))
  films = {
    image_id: (path, image_id, patient, source)
    for path, image_id, patient, source, *_ in other_films.others(
      real_data, 'test', held_out=held_out
    )
  }
  pseudo = [
    (
      *films[dataset.records[number].image_id],
      *(trained, str(int(bool(mask))), mask, _SIZE),
    )
    for number, mask in sorted(predicted.items())
  ]
  annotated = [(*row, '') for row in other_films.annotated(real_data, folds)]
  columns = (*other_films.COLUMNS, 'annotation_size')
  other_films.build([*annotated, *pseudo], values.output, columns)


if __name__ == '__main__':
  flags.DEFINE_string('real_data', None, 'Folder of the films.')
  flags.DEFINE_list('runs', [], 'Finished runs that hold one fold out.')
  flags.DEFINE_string('data_dir', 'data/study', "The study's records.")
  flags.DEFINE_string('test_dir', 'data/study_test', 'The unannotated films.')
  flags.DEFINE_string('output_dir', 'runs/study', 'The runs.')
  flags.DEFINE_string('output', None, 'For the records.')
  flags.mark_flags_as_required(['real_data', 'output'])
  app.run(main)
