import itertools
import threading
import time

import pytest

from pnx_jax.storage.cache import Cache
from pnx_jax.storage.ranges import LocalFile, ReadAhead


def test_items_are_read_ahead_in_the_expected_order_many_at_a_time():
  order = [3, 1, 4, 1, 5, 9, 2, 6] * 20
  guard, active, most, reads = threading.Lock(), 0, 0, 0

  def read(item):
    nonlocal active, most, reads
    with guard:
      active, reads = active + 1, reads + 1
      most = max(most, active)
    time.sleep(0.005)
    with guard:
      active -= 1
    return bytes([item])

  ahead = ReadAhead(read, 8)
  ahead.expect(iter(order))
  start = time.monotonic()
  assert [ahead[item] for item in order] == [bytes([item]) for item in order]
  assert time.monotonic() - start < 0.005 * len(order) / 2
  assert most == 8 and reads == len(order)


def test_items_are_read_in_any_order_and_no_more_often():
  reads = []
  ahead = ReadAhead(lambda item: reads.append(item) or bytes([item]), 2)
  ahead.expect(iter(range(100)))
  for item in [99, 0, 50, *range(1, 50), *range(51, 99), 7]:
    assert ahead[item] == bytes([item])
  assert sorted(reads) == sorted([*range(100), 7])


def test_an_error_comes_where_the_item_is_asked_for():
  def read(item):
    if item == 2:
      raise OSError('gone')
    return b''

  ahead = ReadAhead(read)
  ahead.expect(iter(range(4)))
  assert ahead[1] == ahead[3] == b''
  with pytest.raises(OSError, match='gone'):
    ahead[2]


def test_a_new_order_replaces_the_one_before():
  ahead = ReadAhead(lambda item: bytes([item % 256]), 2)
  ahead.expect(itertools.count())
  assert ahead[0] == b'\0'
  ahead.expect(iter([5, 6]))
  assert (ahead[6], ahead[5], ahead[1]) == (b'\6', b'\5', b'\1')


def test_the_cache_holds_no_more_than_its_limit(tmp_path):
  old, others = Cache(tmp_path, limit=100), Cache(tmp_path, limit=100)
  assert old.keep('a', '0', b'x' * 40) and others.keep('a', '1', b'y' * 40)
  assert others.read('a', '0') == b'x' * 40 and old.read('a', '2') is None
  assert not old.keep('a', '2', b'z' * 40)  # What is in use stays.
  # For another object that of an ended process goes, not the ones in use.
  new = Cache(tmp_path, limit=100)
  assert new.keep('b', '0', b'z' * 40)
  assert new.read('a', '0') is None and new.read('b', '0') == b'z' * 40
  assert Cache(tmp_path, limit=100).keep('b', '1', b'z' * 60)
  assert not Cache(tmp_path, limit=100).keep('b', '2', b'z' * 101)


def test_a_local_file_is_read_at_any_place(tmp_path):
  path = tmp_path / 'a'
  path.write_bytes(bytes(range(100)))
  file = LocalFile(path)
  assert (file.size, file.read(5, 3), file.read(98, 9)) == (
    100,
    b'\5\6\7',
    b'bc',
  )
