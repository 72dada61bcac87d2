"""On which films a run was trained and scored, in words."""

import pathlib
from collections.abc import Sequence
from typing import Any

from pnx_jax.formats.built_dataset import Origin
from pnx_jax.training import run_files


def describe(
  data_dir: str,
  origin: Origin,
  *,
  runs: Sequence[str],
  folds: Sequence[int],
  metrics: dict[str, Any],
) -> str:
  """What a reader of predictions has to know; names no film and no patient.

  Args:
    data_dir: the dataset that was scored on.
    origin: of that dataset.
    runs: workdirs of the ensemble.
    folds: of each run.
    metrics: of the evaluation.
  """
  name = _name(data_dir)
  synthetic = origin.synthetic
  if synthetic == origin.written:
    synthetic = 'all of them'
  unsafe = (
    ''
    if origin.patient_safe
    else ' (training and validation may share patients)'
  )
  sentences = [
    *dict.fromkeys(_trained(run, folds) for run in runs),
    f'Scored on {metrics["num_images"]} films of {name} of '
    f'{metrics["num_patients"]} patients, {metrics["num_positive"]} with a '
    'pneumothorax, each by networks that had not seen it.',
    f'In {name} are {origin.written} films'
    f'{f", {synthetic} synthetic" if synthetic else ""}, {origin.positive} '
    f'with a pneumothorax; its {origin.patients} patients are identified by '
    f'{origin.patients_from}{unsafe}.',
  ]
  if origin.kept_test_copies:
    sentences.append(
      f'{origin.kept_test_copies} of its training films are copies of films in '
      'its split test.'
    )
  if len(folds) > 1:
    sentences.append('The ensemble of all folds was not scored itself.')
  return ' '.join(sentences)


def _trained(run: str, folds: Sequence[int]) -> str:
  counts = '; '.join(
    f'{len(run_files.trained_on(run, fold)) or "some"} (fold {fold} held out)'
    for fold in folds
  )
  config = run_files.load(run)
  name = _name(config.data_dir)
  if not config.init_from:
    return f'Trained on films of the data set {name}: {counts}.'
  return (
    f'Trained on films of the data set {name}, from the weights of the run '
    f'{_name(config.init_from)}; with the films of that one: {counts}.'
  )


def _name(data_dir: str) -> str:
  return pathlib.Path(data_dir).absolute().name
