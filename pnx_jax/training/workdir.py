"""A workdir is one experiment: its config, its folds, its evaluation."""

import json
import os
import pathlib
import subprocess

import jax
import ml_collections

from pnx_jax.errors import UserError

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
_OVERRIDABLE = ('eval.', 'data_dir', 'batch_size')


def fold_dir(workdir: str | os.PathLike, fold: int) -> pathlib.Path:
  return pathlib.Path(workdir) / f'fold{fold}'


def checkpoint_dir(workdir: str | os.PathLike, fold: int) -> pathlib.Path:
  return fold_dir(workdir, fold) / 'checkpoints'


def trained_folds(workdir: str | os.PathLike) -> list[int]:
  """The folds that have checkpoints, ascending."""
  folders = pathlib.Path(workdir).glob('fold*/checkpoints')
  return sorted(int(path.parent.name.removeprefix('fold')) for path in folders)


def open_for_training(
  workdir: str | os.PathLike, config: ml_collections.ConfigDict
) -> None:
  """Writes `config.json`, or checks that the run there is the same one.

  Raises:
    UserError: the workdir holds a run whose config differs in a field that
      matters; the text shows the difference.
  """
  path = pathlib.Path(workdir) / 'config.json'
  new = flat(config)
  if path.exists():
    old = flat(load(workdir))
    different = [
      f'  {name}: {old.get(name)!r} there, {new.get(name)!r} here'
      for name in sorted(old.keys() | new.keys())
      if old.get(name) != new.get(name) and not _matches(name, _FREE)
    ]
    if different:
      raise UserError(
        f'{workdir} holds a run with another config:\n'
        + '\n'.join(different)
        + '\nChoose another --workdir, or delete that folder'
      )
  if jax.process_index() != 0:
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_suffix('.tmp')
  temporary.write_text(config.to_json_best_effort(indent=2) + '\n')
  temporary.replace(path)


def load(workdir: str | os.PathLike) -> ml_collections.ConfigDict:
  """The config of the run in `workdir`.

  Raises:
    UserError: there is no run, or its config.json is no JSON.
  """
  path = pathlib.Path(workdir) / 'config.json'
  try:
    return ml_collections.ConfigDict(json.loads(path.read_text()))
  except FileNotFoundError:
    raise UserError(
      f'no run at {workdir} (there is no config.json); train one first: '
      f'`python launch.py --config=configs/resunet.py --workdir={workdir}`'
    ) from None
  except ValueError as error:
    raise UserError(f'{path} is not valid JSON: {error}') from None


def load_with_overrides(
  workdir: str | os.PathLike, overrides: dict[str, object]
) -> ml_collections.ConfigDict:
  """The config of the run in `workdir`, changed where that is allowed.

  Raises:
    UserError: there is no run, or an override would change the network or
      the data it was trained for.
  """
  config = load(workdir)
  for name, value in overrides.items():
    if not _matches(name, _OVERRIDABLE):
      raise UserError(
        f'--config.{name} cannot be changed after training: it comes from '
        f'{workdir}/config.json. Only {", ".join(_OVERRIDABLE)} can '
        '(eval. stands for all its fields)'
      )
    config.update_from_flattened_dict({name: value})
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
