"""The marker of a published folder: the object that lists its files."""

import dataclasses
import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from pnx_jax.errors import UserError
from pnx_jax.storage.addresses import Address
from pnx_jax.storage.bucket import Bucket

NAME = 'published.json'
_FORMAT = 1


class Entry(NamedTuple):
  """A published file.

  Attributes:
    size: In bytes.
    sha256: Of its content, hexadecimal.
    object: The name of the object that holds the content.
  """

  size: int
  sha256: str
  object: str


@dataclasses.dataclass(frozen=True)
class Marker:
  """The files of a folder, and which version of the marker lists them.

  Attributes:
    files: The files by their names, with slashes.
    generation: Of the object; stands for "no object", too.
    exists: Whether the folder was ever published.
    writer: Differs between any two versions.
  """

  files: dict[str, Entry]
  generation: bytes
  exists: bool = True
  writer: str = ''

  @classmethod
  def read(cls, bucket: Bucket, folder: Address) -> 'Marker':
    """Returns the marker of a folder; empty where there is none.

    Raises:
      UserError: There is no such bucket, or the marker is damaged.
    """
    address = folder / NAME
    found = bucket.read(address.key)
    if found.content is None:
      bucket.check_exists()
      return cls({}, found.generation, exists=False)
    try:
      content = json.loads(found.content)
      version = content['format']
      files = {
        str(name): _entry(name, values)
        for name, values in content['files'].items()
      }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
      raise UserError(
        f'{address} is damaged ({error!r}): restore it from a copy, or publish '
        'the folder again'
      ) from None
    if version != _FORMAT:
      raise UserError(f'{address} was written by a newer program')
    return cls(files, found.generation)

  def changed(
    self, entries: Mapping[str, Entry], removed: Collection[str], *, writer: str
  ) -> 'Marker':
    """Returns the marker with other files, to be written in its place."""
    left = {n: e for n, e in self.files.items() if n not in removed}
    return dataclasses.replace(self, files=left | dict(entries), writer=writer)

  def write(self, bucket: Bucket, folder: Address) -> bool:
    """Writes the marker unless another process did; returns whether it did."""
    content = {
      'format': _FORMAT,
      'writer': self.writer,
      'files': {
        name: {
          'size': entry.size,
          'sha256': entry.sha256,
          **({} if entry.object == name else {'object': entry.object}),
        }
        for name, entry in sorted(self.files.items())
      },
    }
    text = json.dumps(content, separators=(',', ':')).encode()
    key = (folder / NAME).key
    return bucket.write_if(key, text, self.generation) is not None


def _entry(name: str, values: Mapping[str, Any]) -> Entry:
  entry = Entry(
    int(values['size']), values['sha256'], values.get('object', name)
  )
  for path in (name, entry.object):
    parts = path.split('/')
    if '..' in parts or '' in parts or '\\' in path:
      raise ValueError(f'file name {path!r}')
  return entry
