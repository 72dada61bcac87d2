"""A lock in a bucket: one object that is changed by conditional writes only.

The holder writes it again and again. Whoever wants it watches by its own
monotonic clock: where the object did not change for several heartbeats, the
holder has ended. A holder that was overtaken learns it before its next write.
"""

import contextlib
import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator

from pnx_jax.errors import UserError
from pnx_jax.storage import heartbeat
from pnx_jax.storage.addresses import Address
from pnx_jax.storage.bucket import Bucket


class Lease:
  """The lock that this process holds as long as it renews it; see `held`.

  Args:
    address: The object.

  Raises:
    UserError: Another process holds it.
  """

  def __init__(self, address: Address):
    self._address = address
    self._bucket = Bucket(address)
    self._owner = f'{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex}'
    self._beats = 0
    self._lost = False
    self._guard = threading.Lock()
    generation = self._write_if(self._wait_for_silence())
    if generation is None:
      raise UserError(self._busy())
    self._generation = generation

  def check(self) -> None:
    """Asks the bucket whether this process still holds the lock.

    Raises:
      UserError: Another process took it.
    """
    self._renew()
    if self._lost:
      raise UserError(
        f'another process took {self._address} while this one did not answer: '
        'it stops here; what it published before is complete'
      )

  def release(self) -> None:
    """Gives the lock back."""
    with self._guard:
      if not self._lost:
        self._bucket.write_if(
          self._address.key, self._content(''), self._generation
        )
      self._lost = True

  def renew(self) -> None:
    """Gives a sign of life; an error is left to the next one."""
    with contextlib.suppress(UserError):
      self._renew()

  def _renew(self) -> None:
    with self._guard:
      if self._lost:
        return
      generation = self._write_if(self._generation)
      if generation is None:
        self._lost = True
      else:
        self._generation = generation

  def _write_if(self, generation: bytes) -> bytes | None:
    self._beats += 1
    return self._bucket.write_if(
      self._address.key, self._content(self._owner), generation
    )

  def _content(self, owner: str) -> bytes:
    return json.dumps({'owner': owner, 'beat': self._beats}).encode()

  def _wait_for_silence(self) -> bytes:
    """Returns the object's generation when nobody holds the lock."""
    first = self._bucket.read(self._address.key)
    if first.content is None or not _owner(first.content):
      return first.generation
    if heartbeat.stays(
      first.generation, lambda: self._bucket.read(self._address.key).generation
    ):
      return first.generation
    now = self._bucket.read(self._address.key)
    if now.content is None or not _owner(now.content):
      return now.generation
    raise UserError(self._busy(now.content))

  def _busy(self, content: bytes = b'{}') -> str:
    host, process, *_ = [*_owner(content).split(), '?', '?']
    return (
      f'{self._address} is held by process {process} on {host}: wait until it '
      'ends, or choose another address'
    )


@contextlib.contextmanager
def held(address: Address) -> Iterator[Lease]:
  """Holds a lock until the end, by signs of life in the background."""
  lease = Lease(address)
  try:
    with heartbeat.repeating(lease.renew):
      yield lease
  finally:
    lease.release()


def _owner(content: bytes) -> str:
  try:
    return str(json.loads(content).get('owner', ''))
  except (ValueError, AttributeError):
    return 'unknown'
