"""Why a film is refused: the one place that catches what films can cause."""

import collections
import traceback
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from pnx_jax import pool
from pnx_jax.errors import UserError

_Film = TypeVar('_Film')
_Result = TypeVar('_Result')

LIMIT = 'limit'
MEMORY = 'memory'
TIMEOUT = 'timeout'
KILLED = 'killed'
CRASHED = 'crashed'
INTERNAL_ERROR = 'internal_error'

# A film with one of these may be usable on a quieter or larger machine.
MAY_PASS = (MEMORY, TIMEOUT, KILLED)

_MOST_ALIKE = 20


class Refusal(NamedTuple):
  """Why a film is left out.

  Attributes:
    reason: Code for tables: one of `UnusableFilm`, or `memory`, `timeout`,
      `killed`, `crashed`, `internal_error`.
    detail: The same in words; never text of the film's header.
  """

  reason: str
  detail: str


class UnusableFilm(ValueError):
  """A file that is not a usable radiograph, or not with its annotations.

  Attributes:
    reason: See `Refusal`.
    detail: See `Refusal`.
  """

  def __init__(self, reason: str, detail: str):
    super().__init__(f'{reason}: {detail}')
    self.reason = reason
    self.detail = detail

  def __reduce__(self) -> tuple[type, tuple[str, str]]:
    return type(self), (self.reason, self.detail)


class UnusableDicom(UnusableFilm):
  """A file that is not a usable radiograph.

  Attributes:
    reason: Code for tables: `unreadable`, `not_dicom`, `modality`,
      `body_part`, `no_pixels`, `multi_frame`, `color`, `empty`, `truncated`,
      `undecodable`, `limit`.
    detail: The same in words.
  """


def attempt(
  function: Callable[[_Film], _Result], film: _Film
) -> _Result | Refusal:
  """Returns `function(film)`, or the refusal that any exception stands for.

  An exception other than `UnusableFilm` is a defect of this program. It
  refuses this film alone and is named in the detail, see `Defects`.

  Raises:
    UserError: `function` raised it: it concerns more than this film.
  """
  try:
    return function(film)
  except UnusableFilm as error:
    return Refusal(error.reason, error.detail)
  except UserError:
    raise
  except MemoryError:
    return out_of_memory()
  except Exception as error:
    *_, place = traceback.extract_tb(error.__traceback__)
    where = f'{place.filename.rsplit("/", 1)[-1]}, line {place.lineno}'
    return Refusal(INTERNAL_ERROR, f'{type(error).__name__} in {where}')


def out_of_memory() -> Refusal:
  """The refusal of a film that needs more memory than there is."""
  limits = pool.current_limits()
  if limits is None:
    return Refusal(MEMORY, 'needs more memory than there is')
  return Refusal(
    MEMORY,
    f'needs more memory than --gib_per_film={limits.gib:g} allows',
  )


def of_death(death: pool.Death) -> Refusal:
  """The refusal of a film that ended its worker process."""
  if death.timed_out:
    return Refusal(
      TIMEOUT,
      f'takes longer than --seconds_per_film={death.limits.seconds:g}',
    )
  if death.killed:
    return Refusal(
      KILLED, 'the system ended the process, usually because memory is short'
    )
  return Refusal(CRASHED, f'its decoder ended the process ({death.cause})')


class Defects:
  """Counts defects of this program, so that a broken build does not go on."""

  def __init__(self):
    self._counts: collections.Counter[str] = collections.Counter()

  def check(self, refusal: Refusal) -> None:
    """Raises UserError when too many films met the same defect."""
    if refusal.reason != INTERNAL_ERROR:
      return
    self._counts[refusal.detail] += 1
    if self._counts[refusal.detail] >= _MOST_ALIKE:
      raise UserError(
        f'{_MOST_ALIKE} films met {refusal.detail}: this is a defect of '
        'pnx_jax, or of the installation, and not of the films; please report '
        'it'
      )
