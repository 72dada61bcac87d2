"""Workers that die take nothing but their own item with them."""

import os
import time

import pytest

from pnx_jax import pool
from pnx_jax.errors import UserError


def double(batch):
  for _, item in batch:
    if item == 'crash':
      os.abort()
    if item == 'bug':
      raise ZeroDivisionError
  return [(number, item * 2) for number, item in batch]


def test_only_the_culprit_is_lost():
  items = [1, 2, 'crash', 4, 5, 6, 'crash', 8, 9]
  batches = pool.batches(enumerate(items), 3)
  results = [
    result
    for done in pool.run(
      double,
      batches,
      num_workers=2,
      on_crash=lambda number, item: (number, 'lost'),
    )
    for result in done
  ]
  assert sorted(results) == [
    (number, 'lost' if item == 'crash' else 2 * item)
    for number, item in enumerate(items)
  ]


def test_a_bug_is_not_hidden():
  with pytest.raises(ZeroDivisionError):
    list(pool.run(double, [[(0, 'bug')]], num_workers=1, on_crash=str))


def test_nothing_to_do():
  began = time.monotonic()
  assert list(pool.run(double, [], num_workers=2, on_crash=str)) == []
  assert time.monotonic() - began < 1


class Unloadable:
  """Kills the worker that is given it before it can be called."""

  def __reduce__(self):
    return os.abort, ()


def test_workers_that_never_get_to_work_are_told_from_crashing_items():
  batches = [[(0, Unloadable())]]
  with pytest.raises(UserError, match='worker processes cannot start'):
    list(pool.run(double, batches, num_workers=1, on_crash=pytest.fail))
