"""The one exception whose text is meant for the user."""


class UserError(ValueError):
  """Wrong use or wrong input: says what is wrong, where, and what to do.

  The commands print its text as one line and exit; everything else is a bug
  and keeps its traceback.
  """
