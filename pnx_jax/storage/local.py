"""Paths that users give, as local ones: a local path stays as it is.

What an address names is copied to a local folder first, and what is written
there is published; no other code knows of buckets.
"""

import contextlib
import fcntl
import functools
import hashlib
import itertools
import os
import pathlib
import threading
from collections.abc import Callable, Collection, Iterator, Mapping

from pnx_jax.errors import UserError
from pnx_jax.storage import heartbeat, lease, marker, ranges
from pnx_jax.storage.addresses import Address, is_address, parse
from pnx_jax.storage.bucket import Bucket
from pnx_jax.storage.published import IN_FLIGHT, Folder

Path = str | os.PathLike[str]


def cache_folder() -> pathlib.Path:
  """Returns the folder of local copies; it may be removed at any time."""
  home = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return pathlib.Path(home) / 'pnx_jax' / 'buckets'


class WorkingCopy:
  """A local folder that stands for a path; of a local path, that path.

  Attributes:
    path: The local folder.
  """

  def __init__(self, path: Path, folder: Folder | None = None):
    self.path: pathlib.Path = pathlib.Path(path)
    self._folder = folder
    self._guard = threading.Lock()

  @property
  def is_published(self) -> bool:
    """Whether the path is an address."""
    return self._folder is not None

  def publish(self) -> None:
    """Publishes what changed; does nothing for a local path.

    Raises:
      UserError: The bucket refuses it, or another process took the lock.
    """
    if self._folder is not None:
      with self._guard:
        self._folder.publish()

  def try_to_publish(self) -> None:
    """Publishes if that is possible now; the last time reports errors."""
    with contextlib.suppress(UserError):
      self.publish()


@contextlib.contextmanager
def working_copy(
  path: Path,
  *,
  lock: str,
  wanted: Callable[[str], bool] = lambda name: True,
  replaces: bool = False,
  seconds: float | None = None,
) -> Iterator[WorkingCopy]:
  """Yields a folder to work in; publishes it at the end, without an error.

  Args:
    path: A local path, or the address of a published folder, new or not.
    lock: The name of the part that this process alone may change.
    wanted: Chooses the files that are needed, by their names.
    replaces: What is not wanted is removed in the bucket at the end.
    seconds: Publishes so often, too, in the background.

  Raises:
    UserError: Another process holds the lock, or the bucket cannot be used.
  """
  if not is_address(path):
    yield WorkingCopy(path)
    return
  address = parse(path)
  local = _local(address)
  with contextlib.ExitStack() as stack:
    held = stack.enter_context(lease.held(address / f'{lock}.lease'))
    folder = Folder(address, local, check=held.check)
    listed = folder.fetch(wanted)
    if replaces:
      folder.replace(listed)
    copy = WorkingCopy(local, folder)
    if seconds is not None:
      with heartbeat.repeating(copy.try_to_publish, seconds):
        yield copy
    else:
      yield copy
    copy.publish()


@contextlib.contextmanager
def reading_copy(
  path: Path, *, wanted: Callable[[str], bool] = lambda name: True
) -> Iterator[WorkingCopy]:
  """Yields a folder with what was published; nothing of it is published.

  Args:
    path: The address of a published folder, new or not.
    wanted: Chooses the files that are needed, by their names.

  Raises:
    UserError: The bucket cannot be used.
  """
  address = parse(path)
  local = _local(address)
  Folder(address, local).fetch(wanted)
  yield WorkingCopy(local)


@functools.cache
def fetched(path: Path) -> str:
  """Returns a local copy of a file or folder; a local path as it is.

  A folder that this program has published holds the files that its marker
  lists; any other one all objects whose names begin with the address.

  Raises:
    UserError: There is nothing at the address, or it cannot be read.
  """
  if not is_address(path):
    return os.fspath(path)
  address = parse(path)
  local = _local(address)
  folder = Folder(address, local)
  if folder.listed().exists:
    folder.fetch()
    return str(local)
  if address.key:
    content = Bucket(address).read(address.key).content
    if content is not None:
      target = local.parent / 'object' / address.name
      _origins[os.path.realpath(target)] = address
      _put(target, content)
      return str(target)
  bucket = Bucket(address)
  keys = bucket.keys(address.key)
  if not keys:
    raise UserError(
      f'there is no object {address}, and none in a folder of that name'
    )
  start = len(address.key) + 1 if address.key else 0
  targets = {key: local / key[start:] for key in keys}
  # What an earlier copy holds may have been removed in the bucket.
  copied = {*filter(pathlib.Path.is_file, local.rglob('*'))}
  for removed in copied.difference(targets.values()):
    removed.unlink()
  _fetch_all(bucket, targets)
  return str(local)


def fetched_objects(paths: Collection[str]) -> dict[str, str]:
  """Returns local copies of many objects, by what was given.

  A local path is returned as it is, and the name of a copy without the copy
  where there is no such object: reading it tells.

  Raises:
    UserError: A bucket cannot be read.
  """
  found = dict(zip(paths, paths, strict=True))
  by_bucket: dict[Address, dict[str, str]] = {}
  for path in filter(is_address, found):
    address = parse(path)
    by_bucket.setdefault(address._replace(key=''), {})[address.key] = path
  for address, names in by_bucket.items():
    bucket, folder = Bucket(address), _local(address)
    bucket.check_exists()
    _fetch_all(bucket, {key: folder / key for key in names})
    found |= {path: str(folder / key) for key, path in names.items()}
  return found


@functools.cache
def with_large_files_in_place(
  path: Path, *, is_large: Callable[[str], bool], index: str
) -> str:
  """Returns a local copy of a published folder, without its large files.

  These are read from the bucket by parts, see `ranges`. A folder without an
  index, whose large files are read as a whole, is copied as a whole.

  Args:
    path: The address; a local path is returned as it is.
    is_large: Chooses files by their names.
    index: The file that tells where the parts lie.

  Raises:
    UserError: Nothing was published at the address, or it cannot be read.
  """
  if not is_address(path):
    return os.fspath(path)
  address = parse(path)
  folder = Folder(address, _local(address))
  listed = folder.listed()
  if not listed.exists:
    raise UserError(
      f'no folder was published at {address} (there is no {marker.NAME}); '
      'build it there, or publish a copy with `python -m pnx_jax.publish`'
    )
  if index not in listed.files:
    folder.fetch()
    return str(folder.path)
  listed = folder.fetch(lambda name: not is_large(name))
  for name, entry in listed.files.items():
    if is_large(name):
      ranges.stand_in(folder.path / name, address, entry)
  return str(folder.path)


def _fetch_all(bucket: Bucket, targets: Mapping[str, pathlib.Path]) -> None:
  """Copies objects, many at a time, each to its local path."""
  import concurrent.futures

  def fetch(key: str) -> None:
    if key.endswith('/') or '..' in key.split('/'):
      return
    content = bucket.read(key).content
    if content is not None:
      _put(targets[key], content)
    else:  # What an earlier copy holds is there no more.
      targets[key].unlink(missing_ok=True)

  with concurrent.futures.ThreadPoolExecutor(IN_FLIGHT) as pool:
    list(pool.map(fetch, targets))


def _put(target: pathlib.Path, content: bytes) -> None:
  """Writes a file, unless it is the same: builds resume where none changed."""
  if target.is_file() and target.read_bytes() == content:
    return
  target.parent.mkdir(parents=True, exist_ok=True)
  target.write_bytes(content)


def origin(path: str) -> str:
  """Returns the address of a local copy; any other path as it is."""
  for folder, address in _origins.items():
    if path == folder or path.startswith(f'{folder}/'):
      return f'{address}{path[len(folder) :]}'
  return path


def with_addresses(text: str) -> str:
  """Returns a message that names addresses instead of local copies."""
  for folder, address in _origins.items():
    text = text.replace(folder, str(address))
  return text


def is_copy(path: Path) -> bool:
  """Whether a path lies in a local copy that this process alone has."""
  path = os.path.realpath(path)
  return origin(path) != path


# The addresses of the local copies of this process.
_origins: dict[str, Address] = {}


def _local(address: Address) -> pathlib.Path:
  """Returns the local folder of an address, of this process alone."""
  digest = hashlib.sha256(str(address).encode()).hexdigest()[:12]
  path = _slot(os.getpid()) / digest / address.name
  _origins[os.path.realpath(path)] = address
  return path


@functools.cache
def _slot(process: int) -> pathlib.Path:
  """Returns a folder that no other running process has.

  Copies of a process that has ended are found again, and compared.
  """
  del process  # A forked process needs a folder of its own.
  root = cache_folder()
  root.mkdir(parents=True, exist_ok=True)
  root = root.resolve()  # As `origin` knows it.
  for number in itertools.count():
    descriptor = os.open(
      root / f'{number}.lock', os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      os.close(descriptor)
      continue
    return root / str(number)  # The lock ends with the process.
  raise AssertionError
