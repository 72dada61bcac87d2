"""A local folder that is published to a bucket, file by file.

What the folder in the bucket holds is what its marker lists: every file with
size and checksum. The marker is written last, on the condition that nobody
else did meanwhile. An object that it lists is never overwritten: a file that
changed goes to an object of another name, and to its own name, for people and
other programs, when no marker depends on that any more.
"""

import concurrent.futures
import hashlib
import os
import pathlib
import re
import uuid
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from pnx_jax.errors import UserError
from pnx_jax.storage import marker
from pnx_jax.storage.addresses import Address
from pnx_jax.storage.bucket import Bucket
from pnx_jax.storage.marker import Entry, Marker

IN_FLIGHT = 16
_DIGEST_LENGTH = 12
# Orbax' unfinished checkpoints; files and folders being written, and locks.
_UNFINISHED = re.compile(
  r'.*orbax-checkpoint-tmp.*|\..*\.(partial|old|lock)|lock'
)
# Files that changed and are larger can be found through the marker alone.
_LARGEST_COPY = 1 << 24
_TRIES = 100


class _Seen(NamedTuple):
  """A file as it was when it equaled the published one."""

  status: tuple[int, int]
  entry: Entry


class Folder:
  """A local folder and the address that it is published to.

  Args:
    address: The folder in the bucket.
    path: The local folder. It belongs to this object alone.
    check: Called before anything is published; raises where it must not be.

  Attributes:
    path: The local folder.
  """

  def __init__(
    self,
    address: Address,
    path: pathlib.Path,
    *,
    check: Callable[[], None] = lambda: None,
  ):
    self.path: pathlib.Path = path
    self._address = address
    self._check = check
    self._bucket = Bucket(address)
    self._seen: dict[str, _Seen] = {}
    path.mkdir(parents=True, exist_ok=True)

  def listed(self) -> Marker:
    """Returns the marker of the folder in the bucket."""
    return Marker.read(self._bucket, self._address)

  def fetch(self, wanted: Callable[[str], bool] = lambda name: True) -> Marker:
    """Makes the local folder equal the published one.

    Args:
      wanted: Chooses files by name. Others are removed here; in the bucket
        they stay.

    Returns:
      The marker, which lists all files.

    Raises:
      UserError: A file is missing or damaged in the bucket.
    """
    for _ in range(_TRIES):
      listed = self.listed()
      names = [*filter(wanted, listed.files)]
      self._remove_others(names)
      lost = self._fetch_all({name: listed.files[name] for name in names})
      if not lost:
        return listed
      # Where it was published meanwhile, files of before may be gone.
      if self.listed().generation == listed.generation:
        raise UserError(
          f'{self._address / lost[0]} is missing or damaged, by the checksum '
          f'in {marker.NAME}: restore it from a copy, or publish it again'
        )
    raise UserError(f'{self._address} changes faster than it can be read')

  def replace(self, listed: Marker) -> None:
    """Makes `publish` remove every listed file that is not here then."""
    for name, entry in listed.files.items():
      self._seen.setdefault(name, _Seen((-1, -1), entry))

  def publish(self) -> None:
    """Publishes what changed locally since this folder equaled the bucket's.

    Raises:
      UserError: The bucket refuses it, or `check` does.
    """
    changed = {
      name: status
      for name, status in self._local()
      if name not in self._seen or self._seen[name].status != status
    }
    removed = {name for name in self._seen if not (self.path / name).exists()}
    if not changed and not removed:
      return
    entries: dict[str, Entry] = {}
    for _ in range(_TRIES):
      self._check()
      before = self.listed()
      if not entries:
        entries = self._upload_all(changed, before)
      after = before.changed(entries, removed, writer=uuid.uuid4().hex)
      self._check()
      if after.write(self._bucket, self._address):
        break
    else:
      raise UserError(f'{self._address} changes faster than it can be written')
    for name, entry in entries.items():
      self._seen[name] = _Seen(changed[name], entry)
    for name in removed:
      del self._seen[name]
    self._tidy(before, after, entries)

  def _local(self) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yields name, size and time of every finished file here."""
    for folder, folders, names in os.walk(self.path):
      folders[:] = [each for each in folders if not _UNFINISHED.fullmatch(each)]
      for name in names:
        path = pathlib.Path(folder, name)
        if _UNFINISHED.fullmatch(name) or path.is_symlink():
          continue
        status = path.stat()
        relative = path.relative_to(self.path).as_posix()
        yield relative, (status.st_size, status.st_mtime_ns)

  def _remove_others(self, names: Collection[str]) -> None:
    keep = set(names)
    for folder, _, found in os.walk(self.path, topdown=False):
      for name in found:
        path = pathlib.Path(folder, name)
        if path.relative_to(self.path).as_posix() not in keep:
          path.unlink()
      if not any(pathlib.Path(folder).iterdir()) and folder != f'{self.path}':
        os.rmdir(folder)

  def _fetch_all(self, entries: dict[str, Entry]) -> list[str]:
    """Returns the names of files that could not be had."""
    with concurrent.futures.ThreadPoolExecutor(IN_FLIGHT) as pool:
      had = pool.map(lambda item: self._fetch(*item), entries.items())
      return [name for name, good in zip(entries, had, strict=True) if not good]

  def _fetch(self, name: str, entry: Entry) -> bool:
    path = self.path / name
    if not _is(path, entry):
      key = (self._address / entry.object).key
      content = self._bucket.read(key, size=entry.size).content
      if content is None or _sha256(content) != entry.sha256:
        return False
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(content)
    status = path.stat()
    self._seen[name] = _Seen((status.st_size, status.st_mtime_ns), entry)
    return True

  def _upload_all(
    self, changed: dict[str, tuple[int, int]], listed: Marker
  ) -> dict[str, Entry]:
    def upload(item: tuple[str, tuple[int, int]]) -> Entry:
      name, (size, _) = item
      return self._upload(name, size, listed)

    with concurrent.futures.ThreadPoolExecutor(IN_FLIGHT) as pool:
      entries = pool.map(upload, changed.items())
      return dict(zip(changed, entries, strict=True))

  def _upload(self, name: str, size: int, listed: Marker) -> Entry:
    """Puts a file into an object of its own; returns what to list.

    It may grow meanwhile, as files of events do: its first `size` bytes go.
    """
    with (self.path / name).open('rb') as file:
      content = file.read(size)
    digest = _sha256(content)
    before = listed.files.get(name)
    if before and before.sha256 == digest:
      return before
    key = (self._address / name).key
    if before is None and self._bucket.create(key, content):
      return Entry(len(content), digest, name)
    # It is listed, or remained of a process that was killed.
    other = f'{name}~{digest[:_DIGEST_LENGTH]}'
    self._bucket.write((self._address / other).key, content)
    return Entry(len(content), digest, other)

  def _tidy(
    self, before: Marker, after: Marker, entries: dict[str, Entry]
  ) -> None:
    """Gives changed files their own names; removes what no marker lists."""
    needed = {entry.object for entry in after.files.values()}
    unused = {entry.object for entry in before.files.values()} - needed
    unused |= before.files.keys() - after.files.keys()
    for name, entry in entries.items():
      if entry.object == name or entry == before.files.get(name):
        continue
      unused.discard(name)
      if entry.size <= _LARGEST_COPY:
        with (self.path / name).open('rb') as file:
          content = file.read(entry.size)
        self._bucket.write((self._address / name).key, content)
      else:
        unused.add(name)
    with concurrent.futures.ThreadPoolExecutor(IN_FLIGHT) as pool:
      keys = [(self._address / name).key for name in unused]
      list(pool.map(self._bucket.delete, keys))


def _is(path: pathlib.Path, entry: Entry) -> bool:
  """Whether a local file is the published one."""
  try:
    if path.stat().st_size != entry.size:
      return False
    with path.open('rb') as file:
      return hashlib.file_digest(file, 'sha256').hexdigest() == entry.sha256
  except OSError:
    return False


def _sha256(content: bytes) -> str:
  return hashlib.sha256(content).hexdigest()
