"""The one exception whose text is meant for the user."""

import difflib
from collections.abc import Collection


class UserError(ValueError):
  """Wrong use or wrong input: says what is wrong, where, and what to do.

  The commands print its text as one line and exit; everything else is a bug
  and keeps its traceback.
  """


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
