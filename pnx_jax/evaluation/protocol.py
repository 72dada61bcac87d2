"""What answers in an evaluation, on which images, and under which rules.

On its own data, those of its training, a run is asked as the config says, and
what is found settles the rules. On other data nothing is settled anew: what was
found before is put to the test.
"""

import csv
import dataclasses
import logging
import os
import pathlib

import ml_collections

from pnx_jax.errors import UserError
from pnx_jax.formats import tfrecord
from pnx_jax.input import pipeline
from pnx_jax.prediction.deployment import Deployment
from pnx_jax.prediction.ensemble import check_alike
from pnx_jax.prediction.postprocess import Postprocess
from pnx_jax.training import run_files as workdirs
from pnx_jax.training import sharding

_logger = logging.getLogger(__name__)

_LARGEST_SCALE = 4


@dataclasses.dataclass(frozen=True)
class Plan:
  """How to evaluate a run on a dataset.

  Attributes:
    deployment: what answers; `steps` and `data` are known afterwards.
    settled: rules to put to the test; None where they are to be searched.
    folds: of the dataset that are scored.
    folder: for the results.
    title: of the report.
  """

  deployment: Deployment
  settled: Postprocess | None
  folds: tuple[int, ...]
  folder: pathlib.Path
  title: str


def make(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> Plan:
  """The plan for `config.data_dir`.

  Raises:
    UserError: there are no networks, they do not fit together, or the dataset
      is another one and the run was not evaluated on its own.
  """
  folds = tuple(workdirs.trained_folds(workdir))
  if not folds:
    raise UserError(
      f'no checkpoint in {workdir}; train first: '
      f'`python launch.py --config=... --workdir={workdir}`'
    )
  folder = pathlib.Path(workdir, 'eval')
  title = folder.parent.name
  asked = _asked(config, workdir, folds)
  fold_of = tfrecord.folds_of(config.data_dir)
  if _is_own(workdir, folds, fold_of):
    check_alike(_runs(config, workdir))
    return Plan(asked, None, folds, folder, title)
  deployment = Deployment.load(workdir)
  settled = Postprocess.load(folder / 'postprocess.json')
  _check_unseen(config.data_dir, workdir, folds, fold_of)
  deployment.check(workdir, sharding.mesh())
  _check_settled(config, workdir, asked, deployment, settled)
  if asked.window != deployment.window:
    raise UserError(
      f'{config.data_dir} was built with --window={asked.window}, {workdir} '
      f'reads films with {deployment.window}: build it again with '
      f'--window={deployment.window}'
    )
  name = pathlib.Path(config.data_dir).absolute().name
  folder = folder.with_name(f'eval_{name}')
  _logger.info(
    '%s was not trained on %s: it answers under the rules settled before; the '
    'results go to %s.',
    workdir,
    config.data_dir,
    folder,
  )
  return Plan(
    deployment,
    settled,
    tuple(range(len(pipeline.folds(config.data_dir)))),
    folder,
    f'{title} on {name}',
  )


def _asked(config, workdir, folds) -> Deployment:
  """What the config wants to answer."""
  return Deployment(
    runs=tuple(os.path.relpath(run, workdir) for run in _runs(config, workdir)),
    folds=folds,
    checkpoints=config.eval.checkpoints,
    flip=config.eval.flip,
    scales=_scales(config.eval.scales),
    window=tfrecord.origin(config.data_dir).window,
  )


def _is_own(workdir, folds, fold_of) -> bool:
  """Whether the dataset, which may have moved, is that of the training.

  There each network has seen all images of the other folds; it may have begun
  from another run, which saw others.
  """
  seen = {fold: workdirs.trained_on(workdir, fold) for fold in folds}
  if not all(seen.values()):
    return True  # Runs of old have not noted what they have seen.
  return all(
    {image_id for image_id, other in fold_of.items() if other != fold} <= ids
    for fold, ids in seen.items()
  ) and not fold_of.keys().isdisjoint(set().union(*seen.values()))


def _check_unseen(data_dir, workdir, folds, fold_of) -> None:
  """Refuses other data with images that networks or rules come from."""
  judged = pathlib.Path(workdir, 'eval', 'per_image.csv')
  with judged.open(encoding='utf-8', newline='') as file:
    known = {row['image_id'] for row in csv.DictReader(file)}
  known.update(*(workdirs.trained_on(workdir, fold) for fold in folds))
  if both := fold_of.keys() & known:
    raise UserError(
      f'{data_dir} holds {len(both)} of the {len(known)} images that {workdir} '
      'was trained on or its rules were chosen by: it is neither the dataset '
      'of the training nor one of unseen images; build it without those, or '
      'give --config.data_dir of the training'
    )


def _check_settled(config, workdir, asked, deployment, settled) -> None:
  """Refuses another choice than what the rules were settled with."""
  before = workdirs.load(workdir).eval
  for field, wanted, found in (
    ('ensemble', asked.runs, deployment.runs),
    ('flip', asked.flip, deployment.flip),
    ('scales', asked.scales, deployment.scales),
    ('checkpoints', asked.checkpoints, deployment.checkpoints),
    ('min_component', config.eval.min_component, settled.min_component),
    ('fill_holes', config.eval.fill_holes, settled.fill_holes),
  ):
    unasked = config.eval[field] == before.get(field, config.eval[field])
    if wanted != found and not unasked:
      raise UserError(
        f'eval.{field} cannot be changed for {config.data_dir}, which '
        f'{workdir} was not trained on: there {workdir}/eval is put to the '
        "test as it is; evaluate with it on the run's own data first"
      )


def _runs(config, workdir) -> list[str]:
  """The run first, each once."""
  runs = {}
  for run in (os.fspath(workdir), *_split(config.eval.ensemble)):
    runs.setdefault(os.path.realpath(run), run)
  return list(runs.values())


def _split(text: str) -> list[str]:
  return [part.strip() for part in text.split(',') if part.strip()]


def _scales(text: str) -> tuple[float, ...]:
  try:
    scales = tuple(map(float, _split(text)))
  except ValueError:
    scales = ()
  if not scales or not all(0 < scale <= _LARGEST_SCALE for scale in scales):
    raise UserError(
      f"eval.scales={text!r}: expected numbers such as '0.75,1,1.25', above 0 "
      f'and up to {_LARGEST_SCALE}'
    )
  return scales
