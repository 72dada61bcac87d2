"""What an evaluation scores: which networks, on which images, by which rules.

On the dataset of its training a run is evaluated as the config says, and the
rules are searched. On another dataset the saved rules are applied unchanged
(external validation).
"""

import dataclasses
import logging
import os
import pathlib

import ml_collections

from pnx_jax.errors import UserError
from pnx_jax.evaluation import leaks
from pnx_jax.formats import built_dataset, evaluation_files
from pnx_jax.input import pipeline
from pnx_jax.metrics import rules
from pnx_jax.prediction import evaluation_seal
from pnx_jax.prediction.deployment import Deployment
from pnx_jax.prediction.postprocess import Postprocess
from pnx_jax.storage import local
from pnx_jax.training import run_files, run_seal

_logger = logging.getLogger(__name__)

_LARGEST_SCALE = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
  """How a run is evaluated on a dataset.

  Attributes:
    deployment: the ensemble; for the run's own dataset, `steps` and `data` are
      known after the evaluation. None where another program has predicted.
    saved_rules: to be applied unchanged; None where rules are searched.
    folds: of the dataset, all of which are scored.
    folder: for the results.
    title: of the report.
    seal: whether the saved rules are as they were written, see
      `evaluation_seal`.
  """

  deployment: Deployment | None
  saved_rules: Postprocess | None
  folds: tuple[int, ...]
  folder: pathlib.Path
  title: str
  seal: str = evaluation_seal.SEALED


def make(
  config: ml_collections.ConfigDict,
  workdir: str | os.PathLike[str],
  *,
  accept_edited: bool = False,
) -> Protocol:
  """The protocol for `config.data_dir`.

  Args:
    config: see `evaluate.evaluate`, like the arguments below.
    workdir: see `evaluate.evaluate`.
    accept_edited: see `evaluate.evaluate`.

  Raises:
    UserError: there are no networks, they cannot be ensembled, or the dataset
      is another one and the run was not evaluated on its own.
  """
  folds = tuple(run_files.trained_folds(workdir))
  if not folds:
    raise UserError(
      f'no checkpoint in {workdir}; train first: '
      f'`python launch.py --config=... --workdir={workdir}`'
    )
  folder = pathlib.Path(workdir, 'eval')
  title = folder.parent.name
  configured = _configured(config, workdir, folds)
  sealed = _sealed(configured, workdir, accept_edited=accept_edited)
  fold_of = built_dataset.folds_of(config.data_dir)
  if _is_own(config.data_dir, workdir, folds, fold_of):
    return Protocol(
      deployment=configured,
      saved_rules=None,
      folds=folds,
      folder=folder,
      title=title,
      seal=sealed,
    )
  deployment = Deployment.load(workdir, accept_edited=accept_edited)
  saved_rules = Postprocess.load(
    folder / 'postprocess.json', accept_edited=accept_edited
  )
  _check_thresholds(saved_rules, folder / 'postprocess.json')
  leaks.check_external(config.data_dir, fold_of.keys(), workdir, folds)
  _check_unchanged(config, workdir, configured, deployment, saved_rules)
  if configured.window != deployment.window:
    raise UserError(
      f'{config.data_dir} was built with --window={configured.window}, '
      f'{workdir} reads films with {deployment.window}: build it again with '
      f'--window={deployment.window}'
    )
  name = pathlib.Path(config.data_dir).absolute().name
  folder = folder.with_name(f'eval_{name}')
  _check_same_dataset(folder, config.data_dir, fold_of.keys())
  _logger.info(
    '%s was not trained on %s: the rules in its eval/ are applied unchanged '
    '(external validation); the results go to %s.',
    workdir,
    config.data_dir,
    folder,
  )
  return Protocol(
    deployment=deployment,
    saved_rules=saved_rules,
    folds=tuple(range(len(pipeline.folds(config.data_dir)))),
    folder=folder,
    title=f'{title} on {name}',
    seal=deployment.state,
  )


def of_predictions(
  config: ml_collections.ConfigDict, workdir: str | os.PathLike[str]
) -> Protocol:
  """The protocol for what another program has predicted of all folds.

  Raises:
    UserError: the workdir holds trained networks, whose results this would
      replace.
  """
  if run_files.trained_folds(workdir):
    raise UserError(
      f'{workdir} holds trained networks and the evaluation of '
      f'eval.predictions={config.eval.predictions} would replace theirs; '
      'choose another --workdir for it'
    )
  return Protocol(
    deployment=None,
    saved_rules=None,
    folds=tuple(range(len(pipeline.folds(config.data_dir)))),
    folder=pathlib.Path(workdir, 'eval'),
    title=pathlib.Path(config.eval.predictions).name,
  )


def _configured(config, workdir, folds) -> Deployment:
  """The ensemble that the config describes."""
  return Deployment(
    runs=tuple(os.path.relpath(run, workdir) for run in _runs(config, workdir)),
    folds=folds,
    checkpoints=config.eval.checkpoints,
    flip=config.eval.flip,
    scales=_scales(config.eval.scales),
    image_probability=config.eval.image_probability,
    window=built_dataset.origin(config.data_dir).window,
  )


def _is_own(data_dir, workdir, folds, fold_of) -> bool:
  """Whether the dataset, which may have moved, is that of the training.

  There each network has seen all images of the other folds; it may have begun
  from another run, which saw others.

  Raises:
    UserError: that cannot be told, because the run has no list of its training
      images and its config names another folder.
  """
  seen = {fold: run_files.trained_on(workdir, fold) for fold in folds}
  unlisted = [fold for fold, ids in seen.items() if not ids]
  if unlisted:
    trained_with = run_files.load(workdir).data_dir
    if os.path.realpath(trained_with) == os.path.realpath(data_dir):
      return True
    raise UserError(
      f'fold {unlisted[0]} of {workdir} has no trained_on.json, so it is not '
      f'known whether it was trained on {data_dir}: evaluate it on '
      f'{trained_with}, the dataset of its config.json'
    )
  return all(
    {image_id for image_id, other in fold_of.items() if other != fold} <= ids
    for fold, ids in seen.items()
  ) and not fold_of.keys().isdisjoint(set().union(*seen.values()))


def _sealed(
  deployment: Deployment,
  workdir: str | os.PathLike[str],
  *,
  accept_edited: bool,
) -> str:
  """Returns whether the runs are as their checkpoints record them.

  Raises:
    UserError: A file was edited or lost, and that is not accepted.
  """
  folds = {(run.workdir, run.fold) for run in deployment.members(workdir)}
  edited = {
    file
    for run, fold in sorted(folds)
    for file in run_seal.check(run, fold, accept_edited=accept_edited)
  }
  if edited:
    return evaluation_seal.EDITED + ', '.join(sorted(edited))
  if all(run_seal.is_sealed(run, fold) for run, fold in folds):
    return evaluation_seal.SEALED
  return evaluation_seal.NOT_SEALED


def _check_thresholds(postprocess, path) -> None:
  """Refuses rules whose results cannot be computed, before the pass."""
  try:
    for threshold in (postprocess.rule.top, postprocess.rule.bottom):
      rules.column(threshold)
  except UserError as error:
    raise UserError(
      f'{path}: {error}. Set it to that one, or apply other thresholds with '
      '--mode=predict, which takes any'
    ) from None


def identity(data_dir: str | os.PathLike[str]) -> dict[str, str]:
  """What metrics.json says of the dataset of an external validation."""
  place = os.path.abspath(built_dataset.folder(data_dir))
  return {
    'data_dir': local.origin(place),
    'data_checksum': built_dataset.noted_checksum(data_dir),
  }


def _check_same_dataset(folder, data_dir, image_ids) -> None:
  """Refuses to replace the results on another dataset of the same name.

  A dataset that was moved is the same by its content, one that was built again
  by its place.
  """
  path = folder / 'per_image.csv'
  if not path.exists():
    return
  scored = set(evaluation_files.read_per_image(path).image_id.tolist())
  metrics = evaluation_files.read_metrics(folder / 'metrics.json')
  differs = all(
    metrics.get(name, value) != value
    for name, value in identity(data_dir).items()
  )
  if differs or not scored <= image_ids:
    raise UserError(
      f'{folder} holds the results on another dataset that is called like '
      f'{data_dir}: rename one of the two datasets, or move that folder away'
    )


def _check_unchanged(
  config, workdir, configured, deployment, saved_rules
) -> None:
  """Refuses other settings than those the saved rules were searched with."""
  before = run_files.load(workdir).eval
  for field, wanted, found in (
    ('ensemble', configured.runs, deployment.runs),
    ('flip', configured.flip, deployment.flip),
    ('scales', configured.scales, deployment.scales),
    (
      'image_probability',
      configured.image_probability,
      deployment.image_probability,
    ),
    ('checkpoints', configured.checkpoints, deployment.checkpoints),
    ('min_component', config.eval.min_component, saved_rules.min_component),
    ('fill_holes', config.eval.fill_holes, saved_rules.fill_holes),
  ):
    overridden = config.eval[field] != before.get(field, config.eval[field])
    if wanted != found and overridden:
      raise UserError(
        f'eval.{field} cannot be changed for {config.data_dir}, which '
        f'{workdir} was not trained on: there {workdir}/eval is applied '
        "unchanged; evaluate with it on the run's own dataset first"
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
