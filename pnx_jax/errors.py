"""The one exception whose text is meant for the user."""

import contextlib
import difflib
import sys
from collections.abc import Collection, Iterator, Sequence

from absl import flags


class UserError(ValueError):
  """Wrong use or wrong input: says what is wrong, where, and what to do.

  The commands print its text as one line and exit; everything else is a bug
  and keeps its traceback.
  """


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


def parse_flags(argv: Sequence[str]) -> list[str]:
  """The `flags_parser` of `app.run`: a mistake in the flags is one line."""
  with one_line():
    try:
      words = flags.FLAGS(argv)
    except flags.Error as error:
      raise UserError(' '.join(str(error).split())) from None
    check_no_words(words)
  return words


def check_no_words(words: Sequence[str]) -> None:
  """Raises UserError where words that are no flags follow the command."""
  if len(words) > 1:
    raise UserError(f'{words[1]!r} is no flag; flags begin with --')


def nearest(name: str, known: Collection[str]) -> str:
  """The known name that is spelled most like `name`."""
  return difflib.get_close_matches(str(name), known, n=1, cutoff=0)[0]


def check_known(kind: str, name: str, known: Collection[str]) -> None:
  """Raises UserError for an unknown name; the nearest one is suggested.

  Names that begin with an underscore are for tests and are not told.
  """
  if name not in known:
    told = [each for each in known if each and not each.startswith('_')]
    raise UserError(
      f'unknown {kind} {name!r}; the nearest is {nearest(name, told)!r}, '
      f'known are {", ".join(told)}'
    )
