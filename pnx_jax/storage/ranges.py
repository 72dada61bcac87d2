"""Files of which parts are read: on the local disk, or objects in a bucket.

A large file of a published folder is not copied. In its place lies an empty
one of the same size, so that a folder looks as it was published; `open_file`
reads the object instead.
"""

import collections
import concurrent.futures
import os
import pathlib
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Protocol

from pnx_jax.storage import marker
from pnx_jax.storage.addresses import Address
from pnx_jax.storage.bucket import Bucket
from pnx_jax.storage.cache import Cache

IN_FLIGHT = 16
# Reads that are ready or under way, for each one that is under way.
_AHEAD = 8
# What is kept of objects on the local disk; see `keep`.
_cache: Cache | None = None
_objects: dict[str, 'ObjectFile'] = {}


class ReadableFile(Protocol):
  """A file, read at any place by any thread."""

  size: int

  def read(self, offset: int, length: int) -> bytes:
    """Returns up to `length` bytes from `offset`."""
    ...


class LocalFile:
  """A file on the local disk; see `ReadableFile`.

  Attributes:
    size: In bytes.
  """

  def __init__(self, path: str | os.PathLike[str]):
    self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    weakref.finalize(self, os.close, self._descriptor)
    self.size: int = os.fstat(self._descriptor).st_size

  def read(self, offset: int, length: int) -> bytes:
    """Returns up to `length` bytes from `offset`."""
    return os.pread(self._descriptor, length, offset)


class ObjectFile:
  """An object in a bucket; see `ReadableFile`.

  Args:
    folder: The published folder.
    entry: The file in it.

  Attributes:
    size: In bytes.
  """

  def __init__(self, folder: Address, entry: marker.Entry):
    self._bucket = Bucket(folder)
    self._key = (folder / entry.object).key
    self._version = entry.sha256
    self.size: int = entry.size

  def read(self, offset: int, length: int) -> bytes:
    """Returns up to `length` bytes from `offset`.

    Raises:
      UserError: The bucket cannot be read, or the object has changed.
    """
    length = min(length, self.size - offset)
    if length <= 0:
      return b''
    name = f'{offset}-{length}'
    found = _cache.read(self._version, name) if _cache else None
    if found is None or len(found) != length:
      found = self._bucket.read_range(self._key, offset, length)
      if _cache:
        _cache.keep(self._version, name, found)
    return found


def keep(folder: str, *, limit: int) -> None:
  """Keeps what is read of objects in a local folder, up to `limit` bytes.

  Args:
    folder: The folder, for all processes of this host; '' keeps nothing.
    limit: The most bytes that it holds.
  """
  global _cache
  _cache = Cache(folder, limit=limit) if folder else None


def stand_in(path: pathlib.Path, folder: Address, entry: marker.Entry) -> None:
  """Makes a local path stand for an object that is not copied."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(b'')
  os.truncate(path, entry.size)
  _objects[os.path.realpath(path)] = ObjectFile(folder, entry)


def is_object(path: str | os.PathLike[str]) -> bool:
  """Whether a path stands for an object that is not copied."""
  return os.path.realpath(path) in _objects


def open_file(path: str | os.PathLike[str]) -> ReadableFile:
  """Opens a file, or the object that it stands for."""
  return _objects.get(os.path.realpath(path)) or LocalFile(path)


class ReadAhead:
  """Reads items before they are asked for, many at a time.

  Args:
    read: Returns an item; any thread may call it.
    in_flight: How many items are read at a time.
  """

  def __init__(self, read: Callable[[int], bytes], in_flight: int = IN_FLIGHT):
    self._read = read
    self._pool = concurrent.futures.ThreadPoolExecutor(in_flight)
    self._most = _AHEAD * in_flight
    self._guard = threading.Lock()
    self._order: Iterator[int] = iter(())
    self._ready: dict[int, list[concurrent.futures.Future[bytes]]] = {}
    self._count = 0
    # Asked for before their turn: not to be read once more.
    self._early: collections.Counter[int] = collections.Counter()

  def expect(self, order: Iterator[int]) -> None:
    """Says in which order items will be asked for, about."""
    with self._guard:
      self._order = order
      self._early.clear()
      for futures in self._ready.values():
        for future in futures:
          future.cancel()
      self._ready, self._count = {}, 0
      self._fill()

  def __getitem__(self, item: int) -> bytes:
    """Returns an item; raises what reading it raised."""
    with self._guard:
      futures = self._ready.get(item)
      future = futures.pop(0) if futures else None
      if future is None:
        self._early[item] += 1
      else:
        self._count -= 1
        if not futures:
          del self._ready[item]
      self._fill()
    return self._read(item) if future is None else future.result()

  def _fill(self) -> None:
    while self._count < self._most:
      item = next(self._order, None)
      if item is None:
        return
      if self._early[item] > 0:
        self._early[item] -= 1
        continue
      future = self._pool.submit(self._read, item)
      self._ready.setdefault(item, []).append(future)
      self._count += 1
