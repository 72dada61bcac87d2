"""What a checkpoint records of the run's files, so that edits are noticed.

That is a safeguard against accidents and edits by hand, not against forgery.
"""

import logging
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from pnx_jax.config import RENAMED, Config, fixed_fields
from pnx_jax.errors import UserError
from pnx_jax.formats import files, seal
from pnx_jax.training import checkpoint_sums, run_files, seen_films
from pnx_jax.training.seen_films import SeenFilm

_logger = logging.getLogger(__name__)


def record(config: Config, films: Iterable[SeenFilm | str]) -> dict[str, Any]:
  """Returns what a checkpoint records of config.json and trained_on.json."""
  return {
    'config': fixed_fields(config),
    'trained_on': seen_films.digest(films),
  }


def check(
  workdir: str | os.PathLike[str], fold: int, *, accept_edited: bool = False
) -> list[str]:
  """Compares the files of a run with what the fold's newest checkpoint records.

  A fold without checkpoints passes, and so does one whose checkpoints are
  older than these records; that is logged.

  Args:
    workdir: The folder of the run.
    fold: The fold.
    accept_edited: Whether to continue where files differ.

  Returns:
    The files that differ, with what differs in them.

  Raises:
    UserError: There are such files, and `accept_edited` is false.
  """
  recorded = _newest_record(workdir, fold)
  if recorded is None:
    if fold in run_files.trained_folds(workdir):
      _logger.info(
        '%s is not sealed: its checkpoints record neither config nor images.',
        run_files.fold_dir(workdir, fold),
      )
    return []
  edited = list(_edited(workdir, fold, recorded))
  if edited and not accept_edited:
    raise UserError(
      f'{", ".join(edited)} changed after the last checkpoint: restore the '
      'file, or give --accept_edited'
    )
  for file in edited:
    _logger.warning('%s changed after the last checkpoint; accepted.', file)
  return edited


def is_sealed(workdir: str | os.PathLike[str], fold: int) -> bool:
  """Whether a fold's checkpoints record its config and training images."""
  return _newest_record(workdir, fold) is not None


def _newest_record(
  workdir: str | os.PathLike[str], fold: int
) -> dict[str, Any] | None:
  directory = run_files.checkpoint_dir(workdir, fold)
  steps = sorted(
    (path for path in directory.glob('[0-9]*') if path.name.isdecimal()),
    key=lambda path: -int(path.name),
  )
  return next(filter(None, map(_recorded, steps)), None)


def _edited(
  workdir: str | os.PathLike[str], fold: int, recorded: dict[str, Any]
) -> Iterator[str]:
  path = pathlib.Path(workdir, 'config.json')
  if path.exists():
    here = fixed_fields(run_files.load(workdir))
    different = []
    for old_name, value in recorded['config'].items():
      name = RENAMED.get(old_name, old_name)
      if name in here and here[name] != value:
        different.append(f'{name} is {here[name]!r}, was {value!r}')
    if different:
      yield f'{path} ({"; ".join(different)})'
  else:
    yield f'{path} (missing)'
  path = run_files.fold_dir(workdir, fold) / 'trained_on.json'
  if not path.exists():
    yield f'{path} (missing)'
  elif (
    seen_films.digest(run_files.seen(workdir, fold)) != recorded['trained_on']
  ):
    yield f'{path} (other images)'


def _recorded(step: pathlib.Path) -> dict[str, Any] | None:
  """Returns what a checkpoint records, or None: it is old, or damaged."""
  try:
    found = files.parse_json((step / 'checksums' / 'metadata').read_bytes())
    checkpoint_sums.check_sums(found)
    recorded = found[seal.FIELD]
    whole = {'config', 'trained_on'} <= recorded.keys()
    return recorded if whole and isinstance(recorded['config'], dict) else None
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return None
