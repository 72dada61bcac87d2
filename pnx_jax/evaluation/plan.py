"""What answers in an evaluation, on which images, and under which rules.

On the data of its training a run is asked as the config says, and what is
found there settles the rules. On other data nothing is settled anew: what was
found before is put to the test.
"""

import dataclasses
import os
import pathlib

import ml_collections

from pnx_jax.errors import UserError
from pnx_jax.evaluation.deployment import Deployment
from pnx_jax.evaluation.ensemble import check_alike
from pnx_jax.evaluation.postprocess import Postprocess
from pnx_jax.formats import tfrecord
from pnx_jax.input import pipeline
from pnx_jax.training import sharding
from pnx_jax.training import workdir as workdirs

_LARGEST_SCALE = 4
# The fields of config.eval that belong to the rules.
_SETTLED = (
  'ensemble',
  'flip',
  'scales',
  'checkpoints',
  'min_component',
  'fill_holes',
)


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
  window = tfrecord.origin(config.data_dir).window
  folder = pathlib.Path(workdir, 'eval')
  title = folder.parent.name
  if _is_own(workdir, folds, config.data_dir):
    runs = [os.fspath(workdir), *_split(config.eval.ensemble)]
    check_alike(runs)
    deployment = Deployment(
      runs=tuple(os.path.relpath(run, workdir) for run in runs),
      folds=folds,
      checkpoints=config.eval.checkpoints,
      flip=config.eval.flip,
      scales=_scales(config.eval.scales),
      window=window,
    )
    return Plan(deployment, None, folds, folder, title)
  deployment = Deployment.load(workdir)
  settled = Postprocess.load(folder / 'postprocess.json')
  deployment.networks(workdir, sharding.mesh())  # They are as they were then.
  _check_settled(config, workdir)
  if window != deployment.window:
    raise UserError(
      f'{config.data_dir} was built with --window={window}, {workdir} reads '
      f'films with {deployment.window}: build it again with '
      f'--window={deployment.window}'
    )
  name = pathlib.Path(config.data_dir).absolute().name
  return Plan(
    deployment,
    settled,
    tuple(range(len(pipeline.folds(config.data_dir)))),
    folder.with_name(f'eval_{name}'),
    f'{title} on {name}',
  )


def _is_own(workdir, folds, data_dir) -> bool:
  """Whether the dataset, which may have moved, is that of the training.

  Raises:
    UserError: it holds some of the images that the run was trained on.
  """
  seen = set().union(*(workdirs.trained_on(workdir, fold) for fold in folds))
  known = seen & tfrecord.image_ids(data_dir)
  if known and known != seen:
    raise UserError(
      f'{data_dir} holds {len(known)} of the {len(seen)} images that {workdir} '
      'was trained with: it is neither its dataset nor one of unseen images; '
      'build it without those, or give --config.data_dir of the training'
    )
  # Runs of old have not noted what they have seen.
  return bool(known) or not seen


def _check_settled(config, workdir) -> None:
  before = workdirs.load(workdir).eval
  for field in _SETTLED:
    if config.eval[field] != before.get(field, config.eval[field]):
      raise UserError(
        f'eval.{field} cannot be changed for {config.data_dir}, which '
        f'{workdir} was not trained on: what was settled in {workdir}/eval is '
        'put to the test there; evaluate on the data of the training with it '
        'first'
      )


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
