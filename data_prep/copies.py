"""Copies of films in a build, and what becomes of copies of test films.

A copy has the same bytes, or is nearly the same picture whatever its size and
compression; see `near_duplicates`.
"""

from collections.abc import Mapping, Sequence

from data_prep import entries, near_duplicates, prepare
from data_prep.entries import Rejection

REASON = 'test_copy'


def groups(outcomes: Sequence[prepare.Outcome]) -> list[list[str]]:
  """Returns groups of image ids whose films are copies, sorted."""
  return near_duplicates.near_duplicates(
    {
      outcome.image_id: bytes.fromhex(outcome.fingerprint)
      for outcome in outcomes
      if isinstance(outcome, prepare.Prepared) and outcome.is_written
    }
  )


def of_test(
  outcomes: Sequence[prepare.Outcome], alike: Sequence[Sequence[str]]
) -> dict[str, str]:
  """Returns the training films that are copies of a test film, by image id.

  Args:
    outcomes: Of the films of a build.
    alike: Groups of image ids whose films are copies.
  """
  test = {
    outcome.image_id for outcome in outcomes if outcome.part == entries.TEST
  }
  found: dict[str, str] = {}
  for names in alike:
    tested = [name for name in names if name in test]
    if tested:
      found |= {name: tested[0] for name in names if name not in test}
  return found


def left_out(
  outcomes: Sequence[prepare.Outcome], copies: Mapping[str, str]
) -> list[prepare.Outcome]:
  """Returns the outcomes, with rejections of copies of test films.

  Args:
    outcomes: Of the films of a build.
    copies: By image id, the test film that a training film is a copy of.
  """
  return [
    Rejection(
      outcome.path,
      outcome.image_id,
      outcome.part,
      REASON,
      f'nearly the same film as {copies[outcome.image_id]} in the split test',
    )
    if isinstance(outcome, prepare.Prepared) and outcome.image_id in copies
    else outcome
    for outcome in outcomes
  ]
