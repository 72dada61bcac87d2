"""A workdir is one experiment: its config, its folds, its evaluation."""

import json
import os
import pathlib
import subprocess
from collections.abc import Sequence

import jax
import ml_collections

from pnx_jax.errors import UserError
from pnx_jax.formats import files

# What may differ between two runs in one workdir: where the data lie, how long
# and on what machine the run goes on, and how it is watched and evaluated.
_FREE = (
  'data_dir',
  'fold',
  'total_epochs',
  'total_steps',
  'log_steps',
  'eval_epochs',
  'checkpoint_steps',
  'average_checkpoints',
  'read_threads',
  'profile_steps',
  'deterministic',
  'eval.',
)
# Fields that older runs do not name, and what they were trained with.
_ADDED = {'model.output_stride': 1}
_OVERRIDABLE = ('eval.', 'data_dir', 'batch_size')


def fold_dir(workdir: str | os.PathLike, fold: int) -> pathlib.Path:
  return pathlib.Path(workdir) / f'fold{fold}'


def checkpoint_dir(workdir: str | os.PathLike, fold: int) -> pathlib.Path:
  return fold_dir(workdir, fold) / 'checkpoints'


def trained_folds(workdir: str | os.PathLike) -> list[int]:
  """The folds that have checkpoints, ascending."""
  steps = pathlib.Path(workdir).glob('fold*/checkpoints/*')
  numbers = {
    step.parts[-3].removeprefix('fold')
    for step in steps
    if step.name.isdecimal()
  }
  return sorted(int(number) for number in numbers if number.isdecimal())


def check_same_run(
  workdir: str | os.PathLike, config: ml_collections.ConfigDict
) -> None:
  """Checks that the run in `workdir`, if there is one, is the one described.

  Raises:
    UserError: its config differs in a field that matters; the text shows the
      difference.
  """
  if not (pathlib.Path(workdir) / 'config.json').exists():
    return
  new, old = flat(config), {**_ADDED, **flat(load(workdir))}
  different = [
    f'{name}: {old.get(name)!r} there, {new.get(name)!r} here'
    for name in sorted(old.keys() | new.keys())
    if old.get(name) != new.get(name) and not _matches(name, _FREE)
  ]
  if different:
    raise UserError(
      f'{workdir} holds a run with another config: '
      + '; '.join(different)
      + '. Choose another --workdir, or delete that folder'
    )


def check_same_images(
  workdir: str | os.PathLike, fold: int, image_ids: Sequence[str]
) -> None:
  """Raises UserError where the fold began with other training images."""
  before = trained_on(workdir, fold)
  if before and before != set(image_ids):
    raise UserError(
      f'fold {fold} in {workdir} began with other training images: the '
      'dataset was built anew with other folds or files. Choose another '
      '--workdir, or --config.data_dir of the first build'
    )


def trained_on(workdir: str | os.PathLike, fold: int) -> set[str]:
  """The ids of the images that a fold's networks have seen in training."""
  path = fold_dir(workdir, fold) / 'trained_on.json'
  return set(json.loads(path.read_text())) if path.exists() else set()


def write(
  workdir: str | os.PathLike,
  config: ml_collections.ConfigDict,
  image_ids: Sequence[str],
) -> None:
  """Notes what a fold is trained with: the config, and its images' ids."""
  if jax.process_index() != 0:
    return
  for path, text in (
    (
      pathlib.Path(workdir) / 'config.json',
      config.to_json_best_effort(indent=2),
    ),
    (
      fold_dir(workdir, config.fold) / 'trained_on.json',
      json.dumps(sorted(image_ids), indent=0),
    ),
  ):
    files.write(path, text + '\n')


def load(workdir: str | os.PathLike) -> ml_collections.ConfigDict:
  """The config of the run in `workdir`.

  Raises:
    UserError: there is no run, or its config.json is no JSON.
  """
  path = pathlib.Path(workdir) / 'config.json'
  try:
    return ml_collections.ConfigDict(json.loads(path.read_text()))
  except OSError:
    raise UserError(
      f'no run at {workdir} (there is no config.json); train one first: '
      f'`python launch.py --config=configs/resunet.py --workdir={workdir}`'
    ) from None
  except ValueError as error:
    raise UserError(f'{path} is not valid JSON: {error}') from None


def load_with_overrides(
  workdir: str | os.PathLike,
  overrides: dict[str, object],
  *,
  defaults: ml_collections.ConfigDict,
) -> ml_collections.ConfigDict:
  """The config of the run in `workdir`, changed where that is allowed.

  Fields that are newer than the run come from `defaults`; `batch_size` means
  that of the evaluation.

  Raises:
    UserError: there is no run, or an override would change the network or
      the data it was trained for.
  """
  config = defaults.copy_and_resolve_references()
  with config.unlocked(), config.ignore_type():
    config.update(load(workdir))
  trained = flat(config)
  for name, value in overrides.items():
    if _matches(name, _OVERRIDABLE):
      field = 'eval.batch_size' if name == 'batch_size' else name
      config.update_from_flattened_dict({field: value})
    elif json.loads(json.dumps(value)) != trained[name]:
      raise UserError(
        f'--config.{name} cannot be changed after training: '
        f'{workdir}/config.json says {trained[name]!r}. What can be changed '
        'is data_dir, batch_size and every eval.* field'
      )
  return config


def commit() -> str:
  """The git commit of this code, '+' where files differ from it."""
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


def flat(config: ml_collections.ConfigDict) -> dict[str, object]:
  """{'model.width': 32, ...} with values as JSON gives them back."""
  nested = json.loads(config.to_json_best_effort())

  def walk(prefix, node):
    for name, value in node.items():
      if isinstance(value, dict):
        yield from walk(f'{prefix}{name}.', value)
      else:
        yield f'{prefix}{name}', value

  return dict(walk('', nested))


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
  return any(
    name.startswith(pattern) if pattern.endswith('.') else name == pattern
    for pattern in patterns
  )
