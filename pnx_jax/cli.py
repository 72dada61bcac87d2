"""What the commands share: flags, one-line errors, exit codes, the log.

Exit codes of every command:

    0  Done.
    1  A bug, with its traceback.
    2  A mistake in the flags, the data or the environment, in one line.
   75  A signal stopped training or prediction, which has saved; the same
       command resumes it. Schedulers can start it again.

A signal 5 s or more after the first ends a process at once, with the signal's
own status.
"""

import argparse
import contextlib
import importlib.util
import inspect
import io
import logging
import pathlib
import sys
from collections.abc import Collection, Iterator, Sequence
from types import ModuleType
from typing import NoReturn

from absl import flags
from absl import logging as absl_logging

from pnx_jax.config import Config, check_field_name
from pnx_jax.errors import UserError, nearest
from pnx_jax.storage import addresses

STOPPED = 75  # EX_TEMPFAIL of sysexits.h
_USER_ERROR = 2


@contextlib.contextmanager
def one_line() -> Iterator[None]:
  """Ends the program with `error: ...`, status 2, for a user's mistake."""
  for stream in (sys.stdout, sys.stderr):
    # Names of files may hold bytes that are no text.
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors='backslashreplace')
  try:
    yield
  except UserError as error:
    message = str(error)
  except OSError as error:
    message = str(error)
    if error.filename:
      message = f'{error.filename}: {error.strerror}'
  else:
    return
  from pnx_jax.storage import local  # Where no bucket is used, only now.

  print(f'error: {local.with_addresses(message)}', file=sys.stderr)
  sys.exit(_USER_ERROR)


class Parser(argparse.ArgumentParser):
  """Flags of a command that uses argparse; flags cannot be abbreviated.

  Args:
    module: Dotted name of the command.
    description: Its docstring, of which the first paragraph is shown.
    buckets: Arguments whose value may be an address such as gs://bucket/folder.
  """

  def __init__(
    self, module: str, description: str | None, *, buckets: Collection[str] = ()
  ):
    self._buckets = buckets
    super().__init__(
      prog=f'python -m {module}',
      description=(description or '').split('\n\n')[0],
      allow_abbrev=False,
    )

  def parse(self, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns what the command line, or `arguments`, give.

    Raises:
      UserError: An argument is wrong.
    """
    found = self.parse_args(arguments)
    for name, values in vars(found).items():
      for value in values if isinstance(values, list) else [values]:
        if isinstance(value, str):
          _check_address(name, value, self._buckets)
    return found

  def error(self, message: str) -> NoReturn:
    """Raises a UserError, without the usage."""
    raise UserError(message)


def log_to_terminal() -> None:
  """Shows the project's own log, and the warnings of others."""
  absl_logging.set_verbosity(absl_logging.WARNING)
  handler = logging.StreamHandler(sys.stdout)
  handler.setFormatter(logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S'))
  logger = logging.getLogger('pnx_jax')
  logger.addHandler(handler)
  logger.propagate = False
  logger.setLevel(logging.INFO)


def parse_flags(
  argv: Sequence[str],
  *,
  recipe: str | None = None,
  buckets: Collection[str] = (),
) -> list[str]:
  """The `flags_parser` of `app.run`: a mistake in the flags is one line.

  Args:
    argv: The command line.
    recipe: For commands with --config: the recipe where `argv` has none, which
      flags such as --config.data_dir change. As the default of the flag its
      mistakes could not be explained.
    buckets: Flags whose value may be an address such as gs://bucket/folder.

  Returns:
    The name of the program.
  """
  with one_line():
    _check_addresses(argv, buckets)
    try:
      words = flags.FLAGS.read_flags_from_files(list(argv), force_gnu=False)
      if recipe is not None:
        words = _with_recipe(words, recipe)
      words = flags.FLAGS(words)
    except flags.Error as error:
      raise UserError(' '.join(str(error).split())) from None
    if len(words) > 1:
      raise UserError(f'unexpected argument {words[1]!r}; flags begin with --')
  return words


def _check_addresses(argv: Sequence[str], buckets: Collection[str]) -> None:
  """Raises UserError for a mistyped address, or one where none may be.

  As a path it would be a local folder named 'gs:'.
  """
  for before, word in zip(['', *argv], argv, strict=False):
    name, equals, value = word.partition('=')
    if not (equals and word.startswith('-')):
      name, value = before, word
    _check_address(name, value, buckets)


def _check_address(name: str, value: str, buckets: Collection[str]) -> None:
  """Raises UserError for an address that is mistyped or may not be there."""
  if not addresses.is_address(value):
    return
  address = addresses.parse(value)
  if name.lstrip('-') not in buckets:
    raise UserError(
      f'{address}: {name} takes only files on a local or mounted disk; copy '
      'them here, or mount the bucket as a folder'
    )


def _with_recipe(argv: list[str], recipe: str) -> list[str]:
  """Returns `argv` with a --config that loads and fields that exist."""
  chosen = None
  for word, following in zip(argv, [*argv[1:], ''], strict=True):
    name, equals, value = word.partition('=')
    if not name.startswith('-'):
      continue
    name = name.lstrip('-')
    if name == 'config':
      chosen = value if equals else following
    elif name.removeprefix('no').startswith('config.'):
      try:
        check_field_name(name.partition('.')[2])
      except UserError as error:
        raise UserError(f'{word}: {error}') from None
  load_recipe(recipe if chosen is None else chosen)
  if chosen is None:
    return [argv[0], f'--config={recipe}', *argv[1:]]
  return argv


def load_recipe(name: str) -> Config:
  """Returns the configuration of a recipe.

  Args:
    name: The file, with a variant where it has some, as in
      'configs/resunet.py:resnet34'.

  Raises:
    UserError: There is no such file or variant, or its code fails.
  """
  path, colon, variant = name.partition(':')
  if not pathlib.Path(path).is_file():
    known = sorted(map(str, pathlib.Path('configs').glob('[!_]*.py')))
    hint = f'; the nearest is {nearest(path, known)!r}' if known else ''
    raise UserError(f'there is no config {path!r}{hint}')
  try:
    get_config = _module(path).get_config
    if colon and not inspect.signature(get_config).parameters:
      raise UserError(f'{path} has no variants: remove {colon + variant!r}')
    return get_config(*([variant] if colon else []))
  except UserError:
    raise
  except Exception as error:  # A recipe is code and may raise anything.
    raise UserError(f'{path}: {type(error).__name__}: {error}') from error


def default_workdir(recipe: str) -> str:
  """Returns the folder of a run that is given none.

  'runs/resunet' for configs/resunet.py, 'runs/resunet_b4' for ...py:b4.
  """
  path, _, variant = recipe.partition(':')
  name = pathlib.Path(path).stem
  return str(pathlib.Path('runs', f'{name}_{variant}' if variant else name))


def _module(path: str) -> ModuleType:
  spec = importlib.util.spec_from_file_location('recipe', path)
  if spec is None or spec.loader is None:
    raise UserError(f'{path} is not a Python file')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
