import collections

import numpy as np
import pytest

from pnx_jax.errors import UserError
from pnx_jax.input.sampling import Schedule

LABELS = np.array([1] * 6 + [0] * 20)
SHARE = ((0, 0.8), (4, 0.4))


def records(schedule, first, last):
  return [schedule.record(i) for i in range(first, last)]


def test_every_epoch_has_each_positive_once_and_its_share_of_negatives():
  schedule = Schedule(LABELS, positive_share=SHARE, seed=3)
  for epoch, share in enumerate((0.8, 0.7, 0.6, 0.5, 0.4, 0.4)):
    drawn = records(schedule, schedule.start(epoch), schedule.start(epoch + 1))
    assert sorted(i for i in drawn if i < 6) == list(range(6))
    negatives = [i for i in drawn if i >= 6]
    assert len(negatives) == round(6 * (1 - share) / share)
    assert len(drawn) == 6 + len(negatives)


def test_negatives_are_drawn_without_replacement_across_epochs():
  schedule = Schedule(LABELS, positive_share=SHARE, seed=3)
  drawn = [i for i in records(schedule, 0, schedule.start(12)) if i >= 6]
  for first in range(0, len(drawn) - 20, 20):
    # Inside an epoch the order is shuffled, so whole passes are compared by
    # how often each negative has come by at the end of an epoch.
    counts = collections.Counter(drawn[: first + 20])
    assert max(counts.values()) - min(counts.values()) <= 2
  counts = collections.Counter(drawn)
  assert set(counts) == set(range(6, 26))
  assert max(counts.values()) - min(counts.values()) <= 1


def test_without_shares_an_epoch_is_every_record_once():
  schedule = Schedule(LABELS, seed=1)
  for epoch in range(3):
    drawn = records(schedule, 26 * epoch, 26 * (epoch + 1))
    assert sorted(drawn) == list(range(26))
  assert records(schedule, 0, 26) != records(schedule, 26, 52)


def test_sequence_depends_on_seed_and_position_only():
  forward = Schedule(LABELS, positive_share=SHARE, seed=5)
  backward = Schedule(LABELS, positive_share=SHARE, seed=5)
  expected = records(forward, 0, 100)
  assert [backward.record(i) for i in reversed(range(100))][::-1] == expected
  other = Schedule(LABELS, positive_share=SHARE, seed=6)
  assert records(other, 0, 100) != expected


def test_later_knots_change_no_past_position():
  short = Schedule(LABELS, positive_share=SHARE, seed=5)
  long = Schedule(LABELS, positive_share=(*SHARE, (9, 0.25)), seed=5)
  assert records(long, 0, long.start(5)) == records(short, 0, short.start(5))


def test_epoch_and_position_are_inverse():
  schedule = Schedule(LABELS, positive_share=SHARE, seed=5)
  assert schedule.position(2.0) == schedule.start(2)
  for position in range(0, 80, 7):
    assert schedule.position(schedule.epoch(position)) == position


@pytest.mark.parametrize(
  ('labels', 'share', 'words'),
  [
    ([1, 0], ((0, 0.8), (0, 0.4)), 'ascend'),
    ([1, 0], ((0, 1.2),), 'at most at 1'),
    ([0, 0], ((0, 0.5),), 'positives'),
    ([], (), 'no annotated image'),
  ],
)
def test_impossible_schedules_are_refused(labels, share, words):
  with pytest.raises(UserError, match=words):
    Schedule(np.array(labels), positive_share=share)
