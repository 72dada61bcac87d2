import collections

import numpy as np
import pytest

from pnx_jax.errors import UserError
from pnx_jax.input.sampling import Schedule, parse_weights

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


# 6 positives of a, none of b, 2 of c; 8 negatives of a, 4 of b and of c.
SOURCES = np.array([*'aaaaaacc', *'aaaaaaaabbbbcccc'])
OF_SOURCES = np.array([1] * 8 + [0] * 16)
WEIGHTED = {'sources': SOURCES, 'source_weights': {'a': 1, 'b': 2, 'c': 1}}


def counts_of(schedule, first_epoch, last_epoch):
  """How many images of each source and label some epochs have."""
  first, last = schedule.start(first_epoch), schedule.start(last_epoch)
  drawn = records(schedule, first, last)
  return collections.Counter(
    (str(SOURCES[i]), int(OF_SOURCES[i])) for i in drawn
  )


def test_weights_divide_each_label_among_the_sources_that_have_it():
  schedule = Schedule(
    OF_SOURCES, positive_share=((0, 0.5),), seed=2, **WEIGHTED
  )
  assert schedule.share(0) == 0.5
  for epoch in range(20):
    counts = counts_of(schedule, epoch, epoch + 1)
    # 8 positives: b has none, so a and c have half each. 8 negatives: b half.
    expected = {
      ('a', 1): 4, ('c', 1): 4, ('a', 0): 2, ('b', 0): 4, ('c', 0): 2,
    }  # fmt: skip
    assert counts == expected


def test_small_weights_are_right_in_the_long_run():
  weights = {'a': 0.97, 'b': 0.02, 'c': 0.01}
  schedule = Schedule(
    OF_SOURCES, positive_share=((0, 0.5),), sources=SOURCES,
    source_weights=weights,
  )  # fmt: skip
  counts = counts_of(schedule, 0, 1000)
  for (source, label), count in counts.items():
    total = weights['a'] + weights['c'] + (0 if label else weights['b'])
    assert abs(count - 8000 * weights[source] / total) < 40


def test_cells_are_drawn_without_replacement_and_from_the_position_alone():
  options = {'positive_share': SHARE, 'seed': 5, **WEIGHTED}
  forward, backward = (Schedule(OF_SOURCES, **options) for _ in range(2))
  expected = records(forward, 0, 400)
  assert [backward.record(i) for i in reversed(range(400))][::-1] == expected
  drawn = records(forward, 0, forward.start(30))
  for source in 'abc':
    for label in (0, 1):
      cell = np.flatnonzero((source == SOURCES) & (label == OF_SOURCES))
      counts = [drawn.count(i) for i in cell]
      assert max(counts, default=0) - min(counts, default=0) <= 1


def test_a_source_of_weight_0_is_left_out():
  weights = {'a': 1, 'b': 0, 'c': 0}
  schedule = Schedule(OF_SOURCES, sources=SOURCES, source_weights=weights)
  assert counts_of(schedule, 0, 1) == {('a', 1): 6, ('a', 0): 8}


def test_weights_are_read_from_text():
  assert parse_weights('') == {}
  assert parse_weights('siim=2, nih = 0.5,a=b=1') == {
    'siim': 2.0, 'nih': 0.5, 'a=b': 1.0,
  }  # fmt: skip
  for text in ('siim', 'siim=', 'siim=-1', 'siim=1,siim=2', '=1', 'a=inf'):
    with pytest.raises(UserError, match='every source once with a number'):
      parse_weights(text)


def test_weights_of_other_sources_are_refused():
  for weights in ({'a': 1, 'b': 1}, {'a': 1, 'b': 1, 'c': 1, 'd': 1}):
    with pytest.raises(UserError, match='are from a, b, c: give each'):
      Schedule(OF_SOURCES, sources=SOURCES, source_weights=weights)
  with pytest.raises(UserError, match='every weight is 0'):
    Schedule([0, 1], sources=['', ''], source_weights={'unnamed': 0})
