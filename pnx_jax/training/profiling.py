"""A profiler trace of some steps, for TensorBoard."""

import os

import jax

from pnx_jax.errors import UserError


class Profiler:
  """Traces the steps of a range.

  Args:
    directory: Folder of the trace.
    steps: The steps to trace.
  """

  def __init__(self, directory: str | os.PathLike[str], *, steps: range):
    self._directory = directory
    self._steps = steps
    self._tracing = False

  def before(self, step: int) -> None:
    """Call before each step: starts the trace where it is due."""
    if step in self._steps and not self._tracing:
      jax.profiler.start_trace(self._directory)
      self._tracing = True

  def after(self, step: int, result: jax.Array, *, last: bool) -> None:
    """Call after each step: writes the trace where it is complete.

    Args:
      step: The number of the step.
      result: What it computed; it is waited for.
      last: Whether training ends with this step.
    """
    if self._tracing and (last or step + 1 not in self._steps):
      jax.block_until_ready(result)
      jax.profiler.stop_trace()
      self._tracing = False


def parse_steps(text: str) -> range:
  """Returns '10:15' as range(10, 15) and '' as an empty range.

  Raises:
    UserError: The text is anything else.
  """
  if not text:
    return range(0)
  try:
    first, last = map(int, text.split(':'))
  except ValueError:
    first = last = 0
  if not 0 < first < last:
    raise UserError(
      f'profile_steps={text!r} is not first:last with steps from 1, as 10:15'
    )
  return range(first, last)
