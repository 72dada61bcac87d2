"""Addresses of objects in buckets, such as `gs://bucket/runs/a`."""

import os
import re
from typing import NamedTuple

from pnx_jax.errors import UserError, nearest

SCHEMES = ('gs', 's3')
_ADDRESS = re.compile(r'([A-Za-z][\w+.-]+):(/+)(.*)', re.DOTALL)


class Address(NamedTuple):
  """Where an object, or a folder of objects, lies.

  Attributes:
    scheme: `gs` or `s3`.
    bucket: The name of the bucket.
    key: The name within the bucket, without slashes at its ends.
  """

  scheme: str
  bucket: str
  key: str

  def __str__(self) -> str:
    return f'{self.scheme}://{self.bucket}/{self.key}'.rstrip('/')

  def __truediv__(self, name: str) -> 'Address':
    return self._replace(key=f'{self.key}/{name}'.lstrip('/'))

  @property
  def name(self) -> str:
    """The last part of the key, or the bucket."""
    return self.key.rpartition('/')[2] or self.bucket


def is_address(path: str | os.PathLike[str]) -> bool:
  """Whether a path is an address, whatever its scheme."""
  found = _ADDRESS.fullmatch(os.fspath(path))
  return bool(found) and (len(found[2]) > 1 or found[1] in SCHEMES)


def parse(path: str | os.PathLike[str]) -> Address:
  """Returns the parts of an address.

  Raises:
    UserError: It is none, the scheme is unknown, or there is no bucket.
  """
  text = os.fspath(path)
  found = _ADDRESS.fullmatch(text)
  if not found:
    raise UserError(f'{text!r} is not an address such as gs://bucket/folder')
  scheme, slashes, rest = found.groups()
  bucket, _, key = rest.partition('/')
  if scheme not in SCHEMES:
    raise UserError(
      f'{text}: unknown scheme {scheme!r}, the nearest is '
      f'{nearest(scheme, SCHEMES)!r}; give a local path, gs://bucket/folder or '
      's3://bucket/folder'
    )
  if slashes != '//' or not bucket:
    raise UserError(
      f'{text}: an address has two slashes and the name of a bucket, as in '
      f'{scheme}://bucket/folder'
    )
  return Address(scheme, bucket, '/'.join(filter(None, key.split('/'))))
