"""Workers that die take nothing but the item they worked on with them."""

import functools
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from pnx_jax import pool
from pnx_jax.errors import UserError


def double(batch):
  results = []
  for number, item in pool.each(batch):
    match item:
      case 'abort':
        os.abort()
      case 'segfault':
        os.kill(os.getpid(), signal.SIGSEGV)
      case 'hang':
        time.sleep(60)
      case 'allocate':
        np.empty(3 << 27)  # 3 GiB
      case 'bug':
        raise ZeroDivisionError
      case pathlib.Path():
        if not item.exists():  # the first time, as when memory is short
          item.touch()
          os.kill(os.getpid(), signal.SIGKILL)
    results.append((number, item))
  return results


def run(items, *, num_workers=2, batch_size=3, **limits):
  """Returns each item's own result, or how its worker died."""
  deaths = {}

  def on_death(number, item, death):
    assert number not in deaths
    deaths[number] = death
    return number, death

  done = pool.run(
    double,
    pool.batches(enumerate(items), batch_size),
    num_workers=num_workers,
    on_death=on_death,
    limits=pool.Limits(**limits),
  )
  results = [result for batch in done for result in batch]
  assert sorted(number for number, _ in results) == list(range(len(items)))
  return [result for _, result in sorted(results, key=lambda each: each[0])]


@pytest.mark.parametrize('num_workers', [1, 2])
def test_only_the_culprit_is_lost(num_workers):
  items = [1, 2, 'abort', 4, 5, 6, 'segfault', 8, 9]
  results = run(items, num_workers=num_workers)
  assert results[2].exit_code == -signal.SIGABRT
  assert results[6].exit_code == -signal.SIGSEGV
  assert not results[2].may_pass and not results[6].may_pass
  others = [n for n in range(len(items)) if n not in (2, 6)]
  assert [results[n] for n in others] == [items[n] for n in others]


def test_an_item_that_takes_too_long_is_given_up():
  began = time.monotonic()
  results = run([1, 'hang', 3], seconds=0.3)
  assert results[1].timed_out and results[1].may_pass
  assert results[1].limits.seconds == 0.3
  assert results[::2] == [1, 3]
  assert time.monotonic() - began < 30


def test_an_item_whose_worker_was_killed_is_tried_again(tmp_path):
  item = tmp_path / 'was tried'
  assert run([1, item, 3]) == [1, item, 3]


def test_memory_above_that_of_the_start_is_limited():
  with pytest.raises(MemoryError):
    run(['allocate'], gib=2)
  assert run(['allocate'], gib=4) == ['allocate']


def test_outside_of_a_worker_there_are_no_limits():
  signal.setitimer(signal.ITIMER_REAL, 60)
  try:
    assert double([(0, 'item')]) == [(0, 'item')]
    assert pool.current_limits() is None
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 50
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)


def test_a_bug_is_not_hidden():
  with pytest.raises(ZeroDivisionError) as error:
    run(['bug'])
  assert 'in double' in error.value.__notes__[0]


def test_nothing_to_do():
  assert run([]) == []


def test_large_items_and_results_do_not_block_each_other():
  items = [bytes(1 << 20) for _ in range(12)]
  assert run(items, num_workers=1) == items


class Unloadable:
  """Ends the process that loads it."""

  def __reduce__(self):
    return os.abort, ()


def test_workers_that_cannot_start_are_told_from_items_that_end_them():
  done = pool.run(
    functools.partial(double, Unloadable()),
    [[(0, 'item')]],
    num_workers=1,
    on_death=pytest.fail,
  )
  with pytest.raises(UserError, match='worker processes cannot start'):
    list(done)
  (death,) = run([Unloadable()])
  assert death.exit_code == -signal.SIGABRT


def hold(folder, batch):
  (folder / f'{os.getpid()}').touch()
  time.sleep(60)
  return list(batch)


_PARENT = """
import functools, pathlib, sys
import test_pool
from pnx_jax import pool
pathlib.Path(sys.argv[1], 'parent').touch()
list(pool.run(
  functools.partial(test_pool.hold, pathlib.Path(sys.argv[1])),
  [[(0, 'a')], [(1, 'b')]], num_workers=2, on_death=lambda *_: None,
))
"""


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path, number):
  parent = subprocess.Popen(
    [sys.executable, '-c', _PARENT, tmp_path],
    cwd=pathlib.Path(__file__).parent,
    stderr=subprocess.DEVNULL,
  )
  deadline = time.monotonic() + 60
  while len(list(tmp_path.iterdir())) < 3 and time.monotonic() < deadline:
    time.sleep(0.02)
  workers = [int(p.name) for p in tmp_path.iterdir() if p.name != 'parent']
  assert len(workers) == 2
  parent.send_signal(number)
  assert parent.wait(30)
  while any(map(is_running, workers)):
    assert time.monotonic() < deadline
    time.sleep(0.02)


def is_running(process):
  try:
    state = pathlib.Path(f'/proc/{process}/stat').read_text()
  except OSError:
    return False
  return state.rsplit(')', 1)[1].split()[0] != 'Z'
