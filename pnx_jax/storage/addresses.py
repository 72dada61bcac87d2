"""Addresses of objects in buckets, such as `gs://bucket/runs/a`."""

import os
import re
from typing import NamedTuple

from pnx_jax.errors import UserError

SCHEMES = ('gs', 's3')
_ADDRESS = re.compile(r'([A-Za-z][\w+.-]+)://([^/]*)(.*)', re.DOTALL)
_MISTYPED = re.compile(r'(gc?s|s3)(:|//)', re.IGNORECASE)


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
  """Whether a path is an address, of any scheme, or meant to be one."""
  text = os.fspath(path)
  return bool(_ADDRESS.fullmatch(text) or _MISTYPED.match(text))


def parse(path: str | os.PathLike[str]) -> Address:
  """Returns the parts of an address.

  Raises:
    UserError: It is none, the scheme is unknown, or there is no bucket.
  """
  text = os.fspath(path)
  found = _ADDRESS.fullmatch(text)
  if not found or found[1] not in SCHEMES or not found[2]:
    raise UserError(
      f'{text!r} is not an address: write gs://bucket/folder or '
      's3://bucket/folder, or a local path'
    )
  scheme, bucket, key = found.groups()
  return Address(scheme, bucket, '/'.join(filter(None, key.split('/'))))
