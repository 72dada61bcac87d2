"""claim.md: what a run can answer of two reporting guidelines.

CLAIM (2024 update, Tejani et al., Radiology: Artificial Intelligence 6:e240300)
and TRIPOD+AI (Collins et al. 2024, BMJ 385:e078378), by their numbers and in
our own words. What a run does not know stays open, by name.
"""

import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
import ml_collections

from pnx_jax import pages, pool
from pnx_jax.formats.built_dataset import Origin
from pnx_jax.metrics import summary
from pnx_jax.training import run_files

CLAIM = {
  '1': 'title: a study of AI, and of which kind',
  '2': 'abstract: design, methods, results, conclusions',
  '3': 'background, intended use and role of the model',
  '4': 'aims and hypotheses',
  '5': 'prospective or retrospective',
  '6': 'goal of the study',
  '7': 'sources of the data',
  '8': 'inclusion and exclusion',
  '9': 'preprocessing',
  '10': 'subsets of the data that were used',
  '11': 'de-identification',
  '12': 'missing data',
  '13': 'how images were acquired',
  '14': 'how the reference standard was obtained',
  '15': 'why this reference standard',
  '16': 'who annotated',
  '17': 'annotation of the test set',
  '18': 'agreement between and within annotators',
  '19': 'assignment to partitions',
  '20': 'level at which partitions are disjoint',
  '21': 'intended sample size',
  '22': 'model: structure, inputs, outputs',
  '23': 'software',
  '24': 'initial weights',
  '25': 'training',
  '26': 'choice of the final model',
  '27': 'ensemble',
  '28': 'metrics',
  '29': 'uncertainty and significance',
  '30': 'robustness',
  '31': 'explanations',
  '32': 'evaluation on internal data',
  '33': 'evaluation on external data',
  '34': 'registration of the trial',
  '35': 'numbers included and excluded',
  '36': 'characteristics of patients in each partition',
  '37': 'performance',
  '38': 'diagnostic performance and its precision',
  '39': 'failures',
  '40': 'limits',
  '41': 'consequences for practice',
  '42': 'protocol and technical details',
  '43': 'availability of software, model and data',
  '44': 'funding',
}
TRIPOD = {
  '1': 'title',
  '2': 'abstract',
  '3a': 'context and rationale',
  '3b': 'intended patients, purpose and users',
  '3c': 'known inequalities in health',
  '4': 'objectives',
  '5a': 'sources of the data',
  '5b': 'dates of the data',
  '6a': 'setting',
  '6b': 'eligibility',
  '6c': 'treatments',
  '7': 'preparation of the data',
  '8a': 'outcome and its assessment',
  '8b': 'qualification of the assessors',
  '8c': 'blinding of the assessment',
  '9a': 'choice of predictors',
  '9b': 'definition of predictors',
  '9c': 'assessment of predictors',
  '10': 'sample size',
  '11': 'missing data',
  '12a': 'use of the data for development and evaluation',
  '12b': 'handling of predictors',
  '12c': 'type, building and internal validation of the model',
  '12d': 'differences between clusters',
  '12e': 'measures of performance',
  '12f': 'updates of the model',
  '12g': 'how predictions were computed',
  '13': 'imbalance of classes',
  '14': 'fairness',
  '15': 'output of the model and thresholds',
  '16': 'differences between development and evaluation',
  '17': 'ethics',
  '18a': 'funding',
  '18b': 'conflicts of interest',
  '18c': 'protocol',
  '18d': 'registration',
  '18e': 'availability of data',
  '18f': 'availability of code',
  '19': 'involvement of patients and public',
  '20a': 'flow of participants',
  '20b': 'characteristics of participants',
  '20c': 'development and evaluation data compared',
  '21': 'participants and events in each analysis',
  '22': 'specification of the model',
  '23a': 'performance with intervals',
  '23b': 'differences of performance between clusters',
  '24': 'results of updates',
  '25': 'interpretation',
  '26': 'limits',
  '27a': 'use with poor or missing input',
  '27b': 'skills and interaction needed for use',
  '27c': 'next steps',
}
_LIBRARIES = ('jax', 'flax', 'optax', 'orbax-checkpoint', 'numpy', 'grain')
_HEADLINE = ('dice', 'dice_positive', 'sensitivity', 'specificity', 'auc')


def render(
  *,
  title: str,
  config: ml_collections.ConfigDict,
  origin: Origin,
  metrics: Mapping[str, Any],
  rule: str,
  workdir: str | os.PathLike[str] | None,
  folds: Sequence[int],
  external: bool,
  characteristics: Mapping[str, Mapping[str, int]],
  columns: Sequence[str] = (),
) -> str:
  """The sheet as Markdown.

  Args:
    title: Of the report.
    config: Of the run.
    origin: Of the evaluated dataset.
    metrics: The content of metrics.json.
    rule: The chosen rule, in words.
    workdir: Of the run; None if another program predicted, of which nothing
      is known.
    folds: That were evaluated.
    external: Whether no network was trained on the dataset.
    characteristics: Number of images by attribute and value.
    columns: Further attributes whose subgroups were compared.
  """
  facts = [
    *_of_data(config, origin, metrics, characteristics),
    *_of_evaluation(metrics, rule, columns, external=external),
  ]
  if workdir is not None:
    facts += _of_run(config, workdir, origin, folds, external=external)
  claim, tripod = (
    {
      number: next((f for f, *keys in facts if f'{name} {number}' in keys), '')
      for number in items
    }
    for name, items in (('C', CLAIM), ('T', TRIPOD))
  )
  return pages.render(
    'claim.md',
    title=title,
    sheets={
      'CLAIM 2024': [(n, CLAIM[n], fact) for n, fact in claim.items()],
      'TRIPOD+AI': [(n, TRIPOD[n], fact) for n, fact in tripod.items()],
    },
  )


# What is known, with the items that it answers: `C` of CLAIM, `T` of TRIPOD+AI.
_Facts = list[tuple[str, ...]]


def _of_data(
  config: ml_collections.ConfigDict,
  origin: Origin,
  metrics: Mapping[str, Any],
  characteristics: Mapping[str, Mapping[str, int]],
) -> _Facts:
  name = os.path.basename(os.path.abspath(config.data_dir))
  whole = f'{origin.written} labeled radiographs'
  if origin.synthetic:
    whole += f', {origin.synthetic} of them synthetic'
  counts = (
    f'{metrics["num_images"]} radiographs of {metrics["num_patients"]} '
    f'patients, {metrics["num_positive"]} with a pneumothorax'
  )
  return [
    (f'dataset {name}: {whole}, {origin.patients} patients', 'C 7', 'T 5a'),
    (
      'films that cannot be read, or are not frontal chest films, are left out '
      'by the build; its report counts them. Films without an annotation are '
      'not evaluated',
      *('C 8', 'T 6b'),
    ),
    (
      'unknown view, sex or age is a subgroup `unknown`; nothing is imputed',
      *('C 12', 'T 11'),
    ),
    (
      'binary masks of the pneumothorax; several annotations of one film are '
      'united',
      *('C 14', 'T 8a'),
    ),
    (counts, 'C 35', 'T 20a', 'T 21'),
    (
      '; '.join(
        f'{table}: ' + ', '.join(f'{row} {n}' for row, n in rows.items())
        for table, rows in characteristics.items()
      ),
      *('C 36', 'T 20b'),
    ),
  ]


def _of_evaluation(
  metrics: Mapping[str, Any],
  rule: str,
  columns: Sequence[str],
  *,
  external: bool,
) -> _Facts:
  performance = '; '.join(
    f'{summary.TITLES[each]} {_with_interval(metrics, each)}'
    for each in _HEADLINE
  )
  found: _Facts = [
    (
      'Dice with empty masks scored 0 or 1, Dice on positives, sensitivity, '
      'specificity, AUC, calibration error, Brier score, outline distances, '
      f'lesions, net benefit; see report.html. Computed by {_software()}',
      *('C 28', 'T 12e'),
    ),
    (
      '95 % intervals clustered by patient; their kind is in metrics.json '
      'under interval_methods',
      'C 29',
    ),
    (
      'external: the rule and thresholds are applied unchanged'
      if external
      else 'the rule and temperature of an image were chosen without its fold',
      'C 33' if external else 'C 32',
    ),
    (
      f'{performance}; by view, sex, age and size in report.html and '
      'metrics.json, compared in subgroups.csv',
      *('C 37', 'T 23a'),
    ),
    (
      f'sensitivity {_with_interval(metrics, "sensitivity")}, specificity '
      f'{_with_interval(metrics, "specificity")}, AUC '
      f'{_with_interval(metrics, "auc")}',
      'C 38',
    ),
    (
      'overlays/worst and overlays/false_*; sensitivity by size and place of '
      'lesions in report.html',
      'C 39',
    ),
    (
      f'calibrated probability of a pneumothorax and a mask, by the rule '
      f'{rule}; operating points in postprocess.json',
      'T 15',
    ),
  ]
  disputed = 'without_disputed/num_images'
  if disputed in metrics:
    found.append(
      (
        'main metrics again without '
        f'{metrics["num_images"] - metrics[disputed]} disputed radiographs: '
        f'Dice {_with_interval(metrics, "without_disputed/dice")}',
        'C 30',
      )
    )
  if columns:
    names = ', '.join(columns)
    found += [
      (f'subgroups by {names}, with simultaneous intervals', 'T 12d'),
      (f'subgroups.csv: by {names}', 'T 23b'),
    ]
  if external:
    found += [('none: the model is evaluated unchanged', 'T 12f', 'T 24')]
  return found


def _of_run(
  config: ml_collections.ConfigDict,
  workdir: str | os.PathLike[str],
  origin: Origin,
  folds: Sequence[int],
  *,
  external: bool,
) -> _Facts:
  unsafe = 'none is in two folds'
  if not origin.patient_safe:
    unsafe = 'patients may be in two folds, as the true ones are not known'
  split = (
    'all radiographs are of a dataset that no network was trained on; films '
    'were compared by id and picture, and patients where both builds name them'
    if external
    else 'folds of whole groups of images; patients are identified by '
    f'{origin.patients_from}; {unsafe}'
  )
  if origin.kept_test_copies:
    split += (
      f'; {origin.kept_test_copies} training films are copies of films in the '
      'split test'
    )
  devices = jax.devices()
  hardware = (
    f'{len(devices)} x {devices[0].device_kind}, {pool.num_cores()} CPU cores, '
    f'{platform.machine()}'
  )
  return [
    ('deep learning: segmentation of radiographs', 'C 1'),
    (
      f'gray levels by the {origin.window} window; films scaled to fit a '
      f'square of {config.image_size} pixels',
      *('C 9', 'T 7', 'T 9b', 'T 12b'),
    ),
    (split, 'C 19', 'C 20', 'T 12a'),
    (
      f'{config.model.encoder} encoder, {config.model.decoder} decoder; a '
      'gray-level image gives a probability per pixel and one per image',
      *('C 22', 'T 22'),
    ),
    (f'of the evaluation: {_software()}, on {hardware}', 'C 23'),
    (
      f'weights of the run {config.init_from}'
      if config.init_from
      else config.pretrained or 'random',
      'C 24',
    ),
    (
      f'{_training(config, workdir)}; seed {config.seed}; every field is in '
      "the run's config.json",
      *('C 25', 'T 12c'),
    ),
    (
      f'weights: mean of the {config.average_checkpoints} checkpoints with the '
      'best validation Dice, '
      + (
        'on images of the training dataset'
        if external
        else 'on the same images that are scored here'
      ),
      *('C 26', 'T 12g'),
    ),
    (
      'all networks of the run, averaged'
      if external
      else f'{len(folds)} fold(s); each image is predicted by networks that '
      'were trained without its fold',
      'C 27',
    ),
    (
      f'share of positive images in training batches: {config.positive_share}; '
      'probabilities are calibrated by temperature afterwards',
      'T 13',
    ),
    (
      'training does nothing for it; performance is reported by sex and age',
      'T 14',
    ),
    (
      'films that are no frontal chest films, or cannot be read, get a reason '
      'instead of a prediction',
      'T 27a',
    ),
  ]


def _software() -> str:
  versions = ', '.join(f'{each} {_version(each)}' for each in _LIBRARIES)
  return (
    f'pnx_jax at commit {run_files.commit()}, Python '
    f'{platform.python_version()}, {versions}'
  )


def _with_interval(metrics: Mapping[str, Any], name: str) -> str:
  if metrics[name] is None:
    return 'undefined'
  pair = metrics['intervals'][name]
  between = f' ({pair[0]:.3f} to {pair[1]:.3f})' if pair else ' (no interval)'
  return f'{metrics[name]:.3f}{between}'


def _version(library: str) -> str:
  try:
    return metadata.version(library)
  except metadata.PackageNotFoundError:
    return 'unknown'


def _training(
  config: ml_collections.ConfigDict, workdir: str | os.PathLike[str]
) -> str:
  counts = ', '.join(
    f'{len(run_files.trained_on(workdir, fold)) or "?"} without fold {fold}'
    for fold in run_files.trained_folds(workdir)
  )
  return f'trained on radiographs: {counts}; batches of {config.batch_size}'
