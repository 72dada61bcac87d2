"""What every command does alike: flags are parsed, mistakes are one line."""

import argparse
import contextlib
import os
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn

from absl import flags

from pnx_jax.errors import UserError, nearest


@contextlib.contextmanager
def one_line() -> Iterator[None]:
  """Ends the program with `error: ...`, status 2, for a user's mistake."""
  try:
    yield
  except UserError as error:
    message = str(error)
  except OSError as error:
    message = f'{error.filename}: {error.strerror}' * bool(error.filename)
    message = message or str(error)
  else:
    return
  print(f'error: {message}', file=sys.stderr)
  sys.exit(2)


class Parser(argparse.ArgumentParser):
  """Flags of a command that uses argparse; flags cannot be abbreviated.

  Args:
    module: Dotted name of the command.
    description: Its docstring, of which the first paragraph is shown.
  """

  def __init__(self, module: str, description: str | None):
    super().__init__(
      prog=f'python -m {module}',
      description=(description or '').split('\n\n')[0],
      allow_abbrev=False,
    )

  def error(self, message: str) -> NoReturn:
    """Raises a UserError, without the usage."""
    raise UserError(message)


def parse_flags(argv: Sequence[str], *, recipe: str | None = None) -> list[str]:
  """The `flags_parser` of `app.run`: a mistake in the flags is one line.

  Where `argv` has no --config, `recipe` is what flags such as
  --config.data_dir change. As the default of the flag it would be read, and
  they be applied to it, before mistakes can be explained.
  """
  asked = any(re.match('--?config(=|$)', word) for word in argv)
  chosen = [f'--config={recipe}'] if recipe and not asked else []
  with one_line():
    try:
      words = flags.FLAGS([argv[0], *chosen, *argv[1:]])
      if recipe:
        # A recipe that does not load shows only here.
        flags.FLAGS['config'].value.to_dict()
    except Exception as error:  # A recipe is code and may raise anything.
      raise UserError(_explained(str(error), argv)) from None
    if len(words) > 1:
      raise UserError(f'{words[1]!r} is no flag; flags begin with --')
  return words


def _explained(error: str, argv: Sequence[str]) -> str:
  """A flag error in one line that names the nearest right spelling."""
  asked = re.search(r'--?config[= ]([^: ]+)', ' '.join(argv))
  if 'config' in flags.FLAGS and asked and not os.path.exists(asked[1]):
    known = sorted(str(recipe) for recipe in pathlib.Path('configs').glob('*'))
    hint = f'; the nearest is {nearest(asked[1], known)!r}' if known else ''
    return f'there is no config {asked[1]!r}{hint}'
  field = re.search(r'Did you mean "(\w+)" instead of "(\w+)"', error)
  if field:
    right, wrong = field.groups()
    wrong = next((arg for arg in argv if wrong in arg), wrong)
    return f'{wrong}: the config has no such field; the nearest is {right!r}'
  if 'Traceback' in error:  # A recipe's own; its last line tells.
    error = error.strip().splitlines()[-1]
  return re.sub(r'^[\w.]+Error: ', '', ' '.join(error.split()))
