"""Workers that die take nothing but their own item with them."""

import os
import time

import pytest

from pnx_jax import pool


def double(batch):
  first, items = batch
  for item in items:
    if item == 'crash':
      os.abort()
    if item == 'bug':
      raise ZeroDivisionError
  return [(first, item * 2) for item in items]


def test_only_the_culprit_is_lost():
  items = [1, 2, 'crash', 4, 5, 6, 'crash', 8, 9]
  batches = [(start, items[start : start + 3]) for start in (0, 3, 6)]
  results = [
    result
    for done in pool.run(
      double, batches, num_workers=2, on_crash=lambda item: ('lost', item)
    )
    for result in done
  ]
  assert results.count(('lost', 'crash')) == 2
  values = sorted(value for first, value in results if first != 'lost')
  assert values == [2, 4, 8, 10, 12, 16, 18]


def test_a_bug_is_not_hidden():
  with pytest.raises(ZeroDivisionError):
    list(pool.run(double, [(0, ['bug'])], num_workers=1, on_crash=str))


def test_nothing_to_do():
  began = time.monotonic()
  assert list(pool.run(double, [], num_workers=2, on_crash=str)) == []
  assert time.monotonic() - began < 1
