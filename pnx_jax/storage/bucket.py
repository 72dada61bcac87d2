"""Objects of one bucket: reading, ranges, conditional writes, with retries.

TensorStore, which Orbax brings, speaks to both kinds of buckets. It raises
ValueError for everything; the status at the start of the text tells what.
"""

import dataclasses
import functools
import os
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

from pnx_jax.errors import UserError
from pnx_jax.storage.addresses import Address

# How long requests that fail are repeated; see `repeat_for`.
DEADLINE_SECONDS = 300.0
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 15.0
# One attempt may take this long, and longer for each byte that it moves.
_ATTEMPT_SECONDS = 30.0
_LEAST_BYTES_PER_SECOND = 1_000_000
_REASON_LENGTH = 200
# The generation of a key without an object.
_ABSENT = b'\x02'
_NAME_OF_NOTHING = '.pnx_jax-nothing'
_GOOGLE = 'https://storage.googleapis.com'
_deadline_seconds = DEADLINE_SECONDS


def repeat_for(seconds: float) -> None:
  """Sets how long this process repeats requests that fail."""
  global _deadline_seconds
  _deadline_seconds = seconds


@dataclasses.dataclass(frozen=True)
class Object:
  """An object as it was read.

  Attributes:
    content: The bytes, None where there is no object.
    generation: Changes with each write; stands for "no object", too.
  """

  content: bytes | None
  generation: bytes


class Bucket:
  """The objects of a bucket, by their keys. Any thread may use it.

  Args:
    address: An address in the bucket; its key has no meaning here.

  Raises:
    UserError: The bucket cannot be used, by any method.
  """

  def __init__(self, address: Address):
    self._address = address._replace(key='')
    self._store = _open(address.scheme, address.bucket)

  def read(self, key: str, *, size: int = 0) -> Object:
    """Returns an object, or that there is none.

    Args:
      key: The key.
      size: Of a large object, in bytes: it may take that much longer.
    """
    found = self._ask(lambda: self._store.read(key), f'read {key}', size)
    there = found.state == 'value'
    return Object(found.value if there else None, found.stamp.generation)

  def read_range(self, key: str, start: int, length: int) -> bytes:
    """Returns `length` bytes of an object from `start`.

    Raises:
      UserError: There is no such object, or it ends before.
    """
    part = slice(start, start + length)
    found = self._ask(
      lambda: self._store.read(key, byte_range=part), f'read {key}', length
    )
    if found.state != 'value':
      self._raise_if_final('OUT_OF_RANGE', f'read {key}')
    return found.value

  def write(self, key: str, content: bytes) -> None:
    """Writes an object, whatever was there."""
    self._write(key, content, None)

  def create(self, key: str, content: bytes) -> bool:
    """Writes an object where there is none; returns whether it did."""
    return self._write(key, content, _ABSENT) is not None

  def write_if(
    self, key: str, content: bytes, generation: bytes
  ) -> bytes | None:
    """Writes an object on the condition that nobody did since it was read.

    Args:
      key: The key.
      content: Differs from all that others write: where an answer was lost, it
        tells whether the write was done.
      generation: What `read` returned.

    Returns:
      The new generation, or None where the condition does not hold.
    """
    written = self._write(key, content, generation)
    if written:
      return written
    now = self.read(key)
    if now.content is None:
      self.check_exists()
    return now.generation if now.content == content else None

  def delete(self, key: str) -> None:
    """Removes an object, if it is there."""
    self._ask(lambda: self._store.write(key, None), f'remove {key}')

  def keys(self, folder: str) -> list[str]:
    """Returns the keys of all objects in a folder, sorted."""
    prefix = f'{folder}/' if folder else ''
    keys = self._ask(lambda: self._store.list(_range(prefix)), f'list {prefix}')
    return sorted(key.decode() for key in keys)

  def check_exists(self) -> None:
    """Raises UserError where there is no such bucket."""
    if self._address.scheme == 's3':
      self._ask(lambda: self._store.list(_range(_NAME_OF_NOTHING)), 'list')
      return
    # TensorStore takes Google's missing buckets for empty ones. This needs no
    # credentials: a bucket that is there refuses in another way.
    url = os.environ.get('TENSORSTORE_GCS_HTTP_URL', _GOOGLE)
    url = f'{url}/storage/v1/b/{urllib.parse.quote(self._address.bucket)}'
    try:
      urllib.request.urlopen(url, timeout=_ATTEMPT_SECONDS).close()
    except OSError as error:
      if isinstance(error, urllib.error.HTTPError) and error.code == 404:
        self._raise_if_final('NOT_FOUND', 'read')

  def _write(
    self, key: str, content: bytes, generation: bytes | None
  ) -> bytes | None:
    stamp = self._ask(
      lambda: self._store.write(key, content, if_equal=generation),
      f'write {key}',
      len(content),
    )
    return stamp.generation or None

  def _ask(self, request: Callable[[], Any], action: str, size: int = 0) -> Any:
    """Repeats a request until it succeeds.

    Raises:
      UserError: The bucket refuses it, or the deadline passed.
    """
    transfer_seconds = size / _LEAST_BYTES_PER_SECOND
    end = time.monotonic() + _deadline_seconds + transfer_seconds
    pause = _FIRST_PAUSE_SECONDS
    while True:
      left = max(end - time.monotonic(), 0.1)
      future = request()
      try:
        return future.result(
          timeout=min(_ATTEMPT_SECONDS + transfer_seconds, left)
        )
      except TimeoutError:
        future.cancel()
        reason = 'no answer'
      except ValueError as error:
        reason = ' '.join(str(error).split())[:_REASON_LENGTH]
        self._raise_if_final(reason, action)
      pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
      wait = pause * random.uniform(0.5, 1)
      if time.monotonic() + wait > end:
        raise UserError(
          f'{self._address}: cannot {action} within {_deadline_seconds:g} s '
          f'({reason}): check the network and the bucket; the same command '
          'resumes'
        )
      time.sleep(wait)

  def _raise_if_final(self, reason: str, action: str) -> None:
    status = reason.partition(':')[0]
    if status == 'NOT_FOUND':
      raise UserError(
        f'there is no bucket {self._address}: check its name, or create it'
      )
    if status in ('PERMISSION_DENIED', 'UNAUTHENTICATED'):
      raise PermissionDenied(
        f'{self._address} refuses to {action}: give credentials that may (see '
        'docs/distributed.md), or choose another bucket'
      )
    if status == 'OUT_OF_RANGE':
      raise UserError(
        f'{self._address}: cannot {action}: it is shorter than it was, or gone'
      )
    if status in ('INVALID_ARGUMENT', 'FAILED_PRECONDITION', 'UNIMPLEMENTED'):
      raise UserError(f'{self._address}: cannot {action} ({reason})')


class PermissionDenied(UserError):
  """The credentials, or their absence, do not allow a request."""


@functools.cache
def _open(scheme: str, name: str) -> Any:
  """Returns TensorStore's view of a bucket; importing it takes a moment."""
  import tensorstore

  retries = {'max_retries': 1, 'initial_delay': '0.1s', 'max_delay': '1s'}
  spec: dict[str, Any]
  if scheme == 'gs':
    spec = {'driver': 'gcs', 'gcs_request_retries': retries}
  else:
    spec = {'driver': 's3', 's3_request_retries': retries}
    endpoint = os.environ.get('AWS_ENDPOINT_URL')
    region = os.environ.get('AWS_REGION', os.environ.get('AWS_DEFAULT_REGION'))
    if endpoint:
      spec |= {'endpoint': endpoint, 'aws_region': region or 'us-east-1'}
    elif region:
      spec |= {'aws_region': region}
    if 'AWS_ACCESS_KEY_ID' in os.environ:
      spec |= {'aws_credentials': {'type': 'environment'}}
  try:
    return tensorstore.KvStore.open(spec | {'bucket': name}).result()
  except ValueError as error:
    reason = ' '.join(str(error).split())[:_REASON_LENGTH]
    raise UserError(f'{scheme}://{name} cannot be opened: {reason}') from None


def _range(prefix: str) -> Any:
  """Returns the keys that begin with a prefix."""
  import tensorstore

  start = prefix.encode()
  end = start[:-1] + bytes([start[-1] + 1]) if start else b''
  return tensorstore.KvStore.KeyRange(start, end)
