"""The order of a million films, divided among many processes."""

import numpy as np
import pytest

from pnx_jax.errors import UserError
from pnx_jax.input.pipeline import Loader
from pnx_jax.input.sampling import Schedule

FILMS, BATCH_SIZE = 1_000_000, 512


@pytest.fixture(scope='module')
def schedule():
  labels = np.random.default_rng(0).random(FILMS) < 0.05
  return Schedule(labels.astype(np.int64), positive_share=((0, 0.5), (9, 0.1)))


def batch(schedule, step, processes):
  """The records of one batch, a list per process."""
  positions = [
    [
      loader.global_position(step * loader.local_batch_size + place)
      for place in range(loader.local_batch_size)
    ]
    for loader in (
      Loader(
        batch_size=BATCH_SIZE, process_index=index, process_count=processes
      )
      for index in range(processes)
    )
  ]
  return [[schedule.record(i) for i in own] for own in positions]


# The first batch, one across the first two epochs, and a late one.
@pytest.mark.parametrize('step', [0, 195, 5000])
def test_a_batch_does_not_depend_on_the_number_of_processes(schedule, step):
  expected = [
    schedule.record(i)
    for i in range(step * BATCH_SIZE, (step + 1) * BATCH_SIZE)
  ]
  for processes in (1, 16, 256):
    parts = batch(schedule, step, processes)
    assert [len(part) for part in parts] == [
      BATCH_SIZE // processes
    ] * processes
    assert [record for part in parts for record in part] == expected


def test_an_epoch_shows_every_positive_once(schedule):
  first, second = schedule.start(3), schedule.start(4)
  drawn = [schedule.record(i) for i in range(first, second)]
  assert len(set(drawn)) == len(drawn)
  positives = np.random.default_rng(0).random(FILMS) < 0.05
  assert positives[drawn].sum() == positives.sum()


def test_a_batch_that_does_not_divide_is_one_line():
  with pytest.raises(UserError, match='batch_size=500 does not divide among'):
    Loader(batch_size=500, process_count=16)
