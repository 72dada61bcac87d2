"""The files of a workdir: one run with its config, folds and evaluation."""

import json
import logging
import os
import pathlib
import subprocess
from collections.abc import Iterable, Mapping

import jax

from pnx_jax.config import (
  FIELDS,
  Config,
  config_from_json,
  fixed_fields,
  flatten,
)
from pnx_jax.errors import UserError
from pnx_jax.formats import files, fingerprints, typed_json
from pnx_jax.training import seen_films
from pnx_jax.training.seen_films import SeenFilm

_logger = logging.getLogger(__name__)

_WORDS = {
  seen_films.TRAINED: 'training',
  seen_films.VALIDATED: 'validation',
  seen_films.UNLABELED: 'unlabeled',
}

Path = str | os.PathLike[str]


def fold_dir(workdir: Path, fold: int) -> pathlib.Path:
  """Returns the folder of one fold's checkpoints and events."""
  return pathlib.Path(workdir) / f'fold{fold}'


def checkpoint_dir(workdir: Path, fold: int) -> pathlib.Path:
  """Returns the folder of one fold's checkpoints."""
  return fold_dir(workdir, fold) / 'checkpoints'


def trained_folds(workdir: Path) -> list[int]:
  """Returns the folds that have checkpoints, ascending."""
  steps = pathlib.Path(workdir).glob('fold*/checkpoints/*')
  numbers = {
    step.parts[-3].removeprefix('fold')
    for step in steps
    if step.name.isdecimal()
  }
  return sorted(int(number) for number in numbers if number.isdecimal())


def check_same_run(workdir: Path, config: Config) -> None:
  """Checks that the run in `workdir`, if there is one, has this config.

  Raises:
    UserError: A field that may never change differs; the text shows both
      values.
  """
  if not _config_path(workdir).exists():
    return
  here, there = fixed_fields(config), fixed_fields(load(workdir))
  different = [
    f'{name}: {there[name]!r} there, {here[name]!r} here'
    for name in sorted(here)
    if here[name] != there[name]
  ]
  if different:
    raise UserError(
      f'{workdir} holds a run with another config: '
      + '; '.join(different)
      + '. Choose another --workdir, or delete that folder'
    )


def check_same_images(
  workdir: Path, fold: int, films: Iterable[SeenFilm | str]
) -> list[SeenFilm]:
  """Checks that a fold, if it has begun, began with these films.

  Returns:
    The films that the fold began with, where it has begun, else those given.

  Raises:
    UserError: It began with others of some use, or with others of the same
      ids.
  """
  before, now = seen(workdir, fold), seen_films.from_json(films)
  if not _by_id(before, seen_films.TRAINED):
    return now
  for use in seen_films.USES:
    one, other = _by_id(before, use), _by_id(now, use)
    # Runs of older versions note no films of the other uses.
    if one and (one.keys() != other.keys() or _other_content(one, other)):
      raise UserError(
        f'fold {fold} in {workdir} began with other {_WORDS[use]} images: the '
        'dataset was built again with other folds or files. Choose another '
        '--workdir, or --config.data_dir of the first build'
      )
  if any(f.is_known for f in now) and not any(f.is_known for f in before):
    _logger.info(
      '%s has no fingerprints of films: only their ids are compared.',
      _trained_on_path(workdir, fold),
    )
  return before


def seen(workdir: Path, fold: int) -> list[SeenFilm]:
  """Returns the films that a fold's networks have seen, for whatever use.

  Raises:
    UserError: trained_on.json is damaged.
  """
  path = _trained_on_path(workdir, fold)
  if not path.exists():
    return []
  remedy = 'restore it from a copy, or train in another --workdir'
  content = typed_json.load(path, list[str | SeenFilm], remedy=remedy)
  return seen_films.from_json(content)


def trained_on(workdir: Path, fold: int) -> set[str]:
  """Returns the ids of the images that a fold's networks were trained on.

  Raises:
    UserError: trained_on.json is damaged.
  """
  return {*_by_id(seen(workdir, fold), seen_films.TRAINED)}


def write(
  workdir: Path, config: Config, films: Iterable[SeenFilm | str]
) -> None:
  """Writes the config and the films that are seen, where they differ.

  A file that says the same already, if under old names, stays as it is.

  Raises:
    UserError: A file cannot be written.
  """
  if jax.process_index() != 0:
    return
  path = _config_path(workdir)
  if not path.exists() or flatten(load(workdir)) != flatten(config):
    # Several folds may start at once.
    with files.atomic(path, contended=True) as file:
      file.write((config.to_json_best_effort(indent=2) + '\n').encode())
  films = seen_films.from_json(films)
  if set(seen(workdir, config.fold)) != set(films):
    files.write(
      _trained_on_path(workdir, config.fold),
      json.dumps(seen_films.to_json(films), indent=0) + '\n',
    )


def load(workdir: Path) -> Config:
  """Returns the config of the run in `workdir`.

  Raises:
    UserError: There is no run, or its config.json is not a config.
  """
  path = _config_path(workdir)
  try:
    content = files.parse_json(path.read_bytes())
  except OSError:
    raise UserError(
      f'no run at {workdir} (there is no config.json); train one first: '
      f'`python launch.py --config=configs/resunet.py --workdir={workdir}`'
    ) from None
  except ValueError as error:
    raise UserError(f'{path} is not valid JSON: {error}') from None
  return config_from_json(content, path=path)


def load_with_overrides(
  workdir: Path, overrides: Mapping[str, object]
) -> Config:
  """Returns the config of the run in `workdir`, changed where that is allowed.

  Args:
    workdir: The folder of the run.
    overrides: Values by the name of the field; `batch_size` means that of the
      evaluation.

  Raises:
    UserError: There is no run, or an override would change the network or
      the data that it was trained for.
  """
  config = load(workdir)
  trained = flatten(config)
  for name, value in overrides.items():
    field = 'eval.batch_size' if name == 'batch_size' else name
    if FIELDS[field].changes == 'evaluating':
      config.update_from_flattened_dict({field: value})
    elif json.loads(json.dumps(value)) != trained[name]:
      raise UserError(
        f'--config.{name} cannot be changed after training: '
        f'{workdir}/config.json has {trained[name]!r}. What can be changed '
        'is data_dir, batch_size and every eval.* field'
      )
  return config


def commit() -> str:
  """Returns the git commit of this code, with '+' where files differ."""
  try:
    return subprocess.run(
      ['git', 'describe', '--always', '--dirty=+', '--abbrev=12'],
      cwd=pathlib.Path(__file__).parent,
      capture_output=True,
      text=True,
      check=True,
    ).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return 'unknown'


def _by_id(films: Iterable[SeenFilm], use: str) -> dict[str, SeenFilm]:
  return {film.image_id: film for film in films if film.use == use}


def _other_content(
  before: Mapping[str, SeenFilm], now: Mapping[str, SeenFilm]
) -> bool:
  """Whether films of the same ids are not the same pictures."""
  changed = {
    image_id: (film.fingerprint, now[image_id].fingerprint)
    for image_id, film in before.items()
    if film.fingerprint and now[image_id].fingerprint
  }
  return any(
    one != other and not fingerprints.copies({'': one}, {'': other})
    for one, other in changed.values()
  )


def _config_path(workdir: Path) -> pathlib.Path:
  return pathlib.Path(workdir) / 'config.json'


def _trained_on_path(workdir: Path, fold: int) -> pathlib.Path:
  return fold_dir(workdir, fold) / 'trained_on.json'
