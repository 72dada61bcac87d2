"""Parts of objects on the local disk, shared by the processes of a host.

Nothing that was kept is dropped while its object is in use: records are read in
passes, and what is dropped for a new one would be missed before it is needed.
When the folder is full, the parts of other objects go, the longest unused
first; then nothing more is kept.
"""

import contextlib
import fcntl
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator

_COUNT = 'bytes'


class Cache:
  """A folder of parts of objects.

  Args:
    folder: The folder; made where it is missing.
    limit: The most bytes that it holds.
  """

  def __init__(self, folder: str | os.PathLike[str], *, limit: int):
    self._folder = pathlib.Path(folder)
    self._limit = limit
    self._folder.mkdir(parents=True, exist_ok=True)
    self._used: set[str] = set()
    with self._count() as count:
      count.value = _size(self._folder)

  def read(self, version: str, name: str) -> bytes | None:
    """Returns a part of an object, or None.

    Args:
      version: Names the object as it is now; a valid name of a folder.
      name: Names the part.
    """
    if version not in self._used:
      self._used.add(version)
      with contextlib.suppress(OSError):
        os.utime(self._folder / version)
    try:
      return (self._folder / version / name).read_bytes()
    except OSError:
      return None

  def keep(self, version: str, name: str, content: bytes) -> bool:
    """Keeps a part, if there is room; returns whether it did."""
    self._used.add(version)
    folder = self._folder / version
    try:
      with self._count() as count:
        if count.value + len(content) > self._limit:
          self._make_room(len(content), count)
        if count.value + len(content) > self._limit:
          return False
        count.value += len(content)
      folder.mkdir(exist_ok=True)
      partial = folder / f'.{uuid.uuid4().hex}'
      partial.write_bytes(content)
      partial.replace(folder / name)
    except OSError:  # A full disk costs time, not the training.
      return False
    return True

  def _make_room(self, size: int, count: '_Count') -> None:
    others = [
      folder
      for folder in self._folder.iterdir()
      if folder.is_dir() and folder.name not in self._used
    ]
    for folder in sorted(others, key=lambda each: each.stat().st_mtime):
      if count.value + size <= self._limit:
        return
      freed = _size(folder)
      shutil.rmtree(folder, ignore_errors=True)
      count.value -= freed

  @contextlib.contextmanager
  def _count(self) -> Iterator['_Count']:
    """Locks how many bytes all processes have kept."""
    descriptor = os.open(
      self._folder / _COUNT, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX)
      count = _Count(int(os.pread(descriptor, 32, 0) or b'0'))
      try:
        yield count
      finally:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(count.value).encode(), 0)
    finally:
      os.close(descriptor)


class _Count:
  def __init__(self, value: int):
    self.value = value


def _size(folder: pathlib.Path) -> int:
  total = 0
  for path in folder.rglob('*'):
    with contextlib.suppress(OSError):
      if path.is_file() and path.name != _COUNT:
        total += path.stat().st_size
  return total
