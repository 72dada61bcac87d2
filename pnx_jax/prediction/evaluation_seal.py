"""Whether an evaluation is as it was written, and the runs as it found them.

An evaluation seals the fixed fields of the configs, the training images, the
checkpoints' steps, the rules and the operating points together. That notices
accidents and edits by hand, not forgery.
"""

import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pnx_jax import config
from pnx_jax.errors import UserError
from pnx_jax.formats import files, seal, typed_json
from pnx_jax.training import run_files, run_seal, seen_films

SEALED = 'sealed'
NOT_SEALED = 'not sealed'
EDITED = 'edited: '
# In deployment.json, what was sealed with it.
FIELD = 'sealed'

_Path = str | os.PathLike[str]


class _Run(NamedTuple):
  config: dict[str, Any]
  trained_on: dict[str, str]


def record(
  workdir: _Path,
  postprocess: Mapping[str, Any],
  *,
  runs: Iterable[str],
  folds: Iterable[int],
) -> dict[str, Any]:
  """What an evaluation seals besides its own deployment.json.

  Args:
    workdir: the evaluated run.
    postprocess: the content of postprocess.json.
    runs: of the ensemble, relative to `workdir`.
    folds: of each run.
  """
  return {
    'postprocess.json': seal.digest(postprocess),
    'runs': {
      run: {
        'config': config.fixed_fields(run_files.load(_path_of(workdir, run))),
        'trained_on': {
          str(fold): _trained_on(_path_of(workdir, run), fold) for fold in folds
        },
      }
      for run in runs
    },
  }


def state(
  workdir: _Path, deployment: Mapping[str, Any], *, accept_edited: bool
) -> str:
  """Says whether an evaluation is sealed and unchanged.

  Args:
    workdir: the evaluated run.
    deployment: what its eval/deployment.json holds.
    accept_edited: go on with an edited one.

  Returns:
    `SEALED`; `NOT_SEALED` where it never was; or `EDITED` with the files.

  Raises:
    UserError: a file was edited or lost its seal.
  """
  edited = list(dict.fromkeys(_edited(workdir, deployment)))
  if not edited:
    return SEALED if seal.FIELD in deployment else NOT_SEALED
  told = ', '.join(edited)
  if not accept_edited:
    raise UserError(
      f'{told} in {workdir} changed after the evaluation that sealed it: '
      'restore it, evaluate again with `python launch.py --mode=eval '
      f'--workdir={workdir}`, or give --accept_edited, which every output will '
      'state'
    )
  return EDITED + told


def _edited(workdir, deployment) -> Iterator[str]:
  folder = pathlib.Path(workdir, 'eval')
  post = _json(folder / 'postprocess.json')
  if seal.FIELD not in deployment:
    if (
      FIELD in deployment
      or seal.FIELD in post
      or _runs_are_sealed(workdir, deployment)
    ):
      yield 'eval/deployment.json (without its seal)'
    return
  if deployment[seal.FIELD] != seal.digest(deployment):
    yield 'eval/deployment.json'
    return
  try:
    rules = typed_json.convert(deployment[FIELD]['postprocess.json'], str)
    runs = typed_json.convert(deployment[FIELD]['runs'], dict[str, _Run])
  except (ValueError, KeyError, TypeError):
    yield 'eval/deployment.json'
    return
  if seal.FIELD not in post:
    yield 'eval/postprocess.json (without its seal)'
  elif seal.digest(post) != rules or post[seal.FIELD] != rules:
    yield 'eval/postprocess.json'
  for run, expected in runs.items():
    path = _path_of(workdir, run)
    here = config.fixed_fields(run_files.load(path))
    for old_name, value in expected.config.items():
      name = config.RENAMED.get(old_name, old_name)
      if name in here and here[name] != value:
        yield os.path.normpath(f'{run}/config.json') + f' ({name})'
    for fold, digest in expected.trained_on.items():
      if not fold.isdecimal() or _trained_on(path, int(fold)) != digest:
        yield os.path.normpath(f'{run}/fold{fold}/trained_on.json')


def _runs_are_sealed(workdir, deployment) -> bool:
  """Whether checkpoints record the runs' files: then evaluations are sealed."""
  return any(
    run_seal.is_sealed(_path_of(workdir, run), fold)
    for run in deployment['runs']
    for fold in deployment['folds']
  )


def _trained_on(run, fold) -> str:
  """A digest of the films, the empty one where they are not noted."""
  return seen_films.digest(run_files.seen(run, fold))


def _path_of(workdir, run) -> str:
  return os.path.normpath(os.path.join(workdir, run))


def _json(path) -> dict[str, Any]:
  content = files.read_json(path, remedy='run --mode=eval')
  if not isinstance(content, dict):
    raise UserError(f'{path} is damaged: not an object; run --mode=eval')
  return content
