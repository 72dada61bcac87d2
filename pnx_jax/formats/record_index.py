"""The small fields of all records of a dataset, by column, in one file.

A start reads this file instead of every record with its images. It lies beside
the record files and names them with their sizes and the checksum that
`build.json` holds; it has a checksum of each of its columns, and the checksum,
the label and the run lengths of every record, which are compared with a record
whenever that is read.

The file is: 8 bytes that mark it, the length of a header in JSON and its
CRC-32C (8 and 4 bytes), the header, the columns. Texts of few values are
numbers of their values, which the header lists; other texts, and boxes, are
one column of their content and one of where each record's ends.
"""

import dataclasses
import json
import math
import os
import pathlib
import struct
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import google_crc32c
import numpy as np
from absl import logging

from pnx_jax.errors import UserError
from pnx_jax.formats import built_dataset, files, schema, tfrecord, typed_json

FILE = 'record_index.bin'
_MAGIC = b'PNXINDEX'
_PREFIX = struct.Struct('<8sQI')
_FEW_VALUES = 256  # a text of at most so many values is stored as numbers
_CHUNK = 16 << 20
_AT_A_TIME = 4096
_FIELDS = {
  field.name: field.type
  for field in dataclasses.fields(schema.Record)
  if field.type is not bytes
}
_DTYPES: dict[Any, Any] = {
  int: np.int32,
  float: np.float32,
  tuple[float, float]: np.float32,
}
# The content of other texts is read for one record when that is asked for: it
# is most of the file.
_AT_ONCE = 'image_id'
_NOT_FEW = ('image_id', 'rle')


class _Column(NamedTuple):
  dtype: str
  shape: tuple[int, ...]
  offset: int
  crc: int


class _Shard(NamedTuple):
  name: str
  size: int


class _Split(NamedTuple):
  name: str
  start: int
  stop: int


class _Header(NamedTuple):
  """What binds an index to its records, and where its columns lie."""

  checksum: str
  fields: tuple[str, ...]
  shards: tuple[_Shard, ...]
  splits: tuple[_Split, ...]
  values: dict[str, tuple[str, ...]]
  columns: dict[str, _Column]


class _Damaged(Exception):
  """The file is not what was written, or is of other records."""


@dataclasses.dataclass(frozen=True)
class Index:
  """The small fields of all records of a dataset.

  Attributes:
    folder: The dataset.
    shards: Names of the record files.
    splits: First record of every split, and the one after its last.
    values: Of every text that is stored as numbers, what these stand for.
    columns: The columns by name.
    texts: By name, what returns the content of a text between two bytes.
  """

  folder: pathlib.Path
  shards: tuple[str, ...]
  splits: dict[str, tuple[int, int]]
  values: dict[str, tuple[str, ...]]
  columns: dict[str, np.ndarray]
  texts: dict[str, Callable[[int, int], bytes]]

  def __len__(self) -> int:
    return len(self.columns['crc'])

  def column(self, name: str) -> np.ndarray:
    """Returns a field but `boxes` of every record, [N] or [N, 2]."""
    if name in self.texts:
      return np.array(self.values_of(name, np.arange(len(self))), object)
    column = self.columns[name]
    if name in self.values:
      return np.array(self.values[name], object)[column]
    return column

  def records(self, positions: np.ndarray) -> Iterator[schema.Record]:
    """Yields the records at i64[N] without their images."""
    for first in range(0, len(positions), _AT_A_TIME):
      part = positions[first : first + _AT_A_TIME]
      fields = [self.values_of(name, part) for name in _FIELDS]
      for values in zip(*fields, strict=True):
        known = dict(zip(_FIELDS, values, strict=True))
        yield schema.Record(image=b'', mask=b'', **known)

  def values_of(self, name: str, positions: np.ndarray) -> list[Any]:
    """Returns a field of the records at i64[N], as a record has it."""
    column = self.columns[name] if name not in self.texts else None
    if name in self.values:
      names = self.values[name]
      return [names[value] for value in column[positions].tolist()]
    if f'{name}.ends' not in self.columns:
      values = column[positions].tolist()
      return list(map(tuple, values)) if column.ndim == 2 else values
    ends = self.columns[f'{name}.ends']
    stops = ends[positions].tolist()
    starts = np.where(positions > 0, ends[positions - 1], 0).tolist()
    places = list(zip(starts, stops, strict=True))
    if column is not None:
      return [column[start:stop] for start, stop in places]
    read, low, high = self.texts[name], min(starts, default=0), max([0, *stops])
    if high - low > 2 * sum(stop - start for start, stop in places) + _CHUNK:
      return [read(start, stop).decode() for start, stop in places]
    whole = read(low, high)
    return [whole[start - low : stop - low].decode() for start, stop in places]


def load(
  data_dir: str | os.PathLike[str], splits: Sequence[str] | None = None
) -> Index:
  """Returns the index of a dataset.

  One that is damaged, or not of these records, is made again, which one line
  tells. Without an index, as builds before version 1.2.0 left none, every
  record is read.

  Args:
    data_dir: The dataset.
    splits: All that has to be known where every record is read.

  Raises:
    UserError: The record files are not those that the build has written.
  """
  folder = built_dataset.folder(data_dir)
  built_dataset.noted_checksum(folder)  # Refuses a dataset that lost it.
  path = folder / FILE
  if not path.exists():
    return scan(folder, splits)
  try:
    return _load(path)
  except _Damaged as error:
    logging.warning('%s is made again: %s', path, error)
    index = scan(folder)
    write(index)
    return index


def scan(
  data_dir: str | os.PathLike[str], splits: Sequence[str] | None = None
) -> Index:
  """Makes an index by reading every record of some splits, or of all.

  Raises:
    UserError: The record files are damaged, or not those that the build has
      written.
  """
  folder = built_dataset.folder(data_dir)
  if splits is None:
    splits = sorted(built_dataset.split_sizes(folder))
  source = built_dataset.split_source(folder, splits)
  sizes = built_dataset.split_sizes(folder)
  stops = np.cumsum([sizes[split] for split in splits]).tolist()
  starts = [0, *stops[:-1]]
  content = _Content()
  crcs = np.fromiter(map(content.add, source), np.uint32, len(source))
  values, columns = content.columns()
  texts = {
    name: _Memory(columns.pop(name).tobytes())
    for name, kind in _FIELDS.items()
    if kind is str and name not in values
  }
  columns |= {**source.places._asdict(), 'crc': crcs}
  return Index(
    folder=folder,
    shards=tuple(
      path.name for path in built_dataset.split_files(folder, splits)
    ),
    splits={
      split: (start, stop)
      for split, start, stop in zip(splits, starts, stops, strict=True)
    },
    values=values,
    columns=columns,
    texts=dict(texts),
  )


def write(index: Index) -> None:
  """Writes an index beside its records, if their folder can be written to."""
  columns = {**index.columns}
  for name, part in index.texts.items():
    ends = columns[f'{name}.ends']
    whole = part(0, int(ends[-1]) if len(ends) else 0)
    columns[name] = np.frombuffer(whole, np.uint8)
  placed: dict[str, _Column] = {}
  end = 0
  for name, column in columns.items():
    columns[name] = column = np.ascontiguousarray(column)
    crc = google_crc32c.value(column.tobytes())
    placed[name] = _Column(column.dtype.str, column.shape, end, crc)
    end += column.nbytes
  header = _Header(
    checksum=built_dataset.noted_checksum(index.folder),
    fields=tuple(_FIELDS),
    shards=tuple(_sizes(index.folder, index.shards)),
    splits=tuple(_Split(n, *places) for n, places in index.splits.items()),
    values=index.values,
    columns=placed,
  )
  text = json.dumps(_as_objects(header)).encode()
  prefix = _PREFIX.pack(_MAGIC, len(text), google_crc32c.value(text))
  try:
    with files.atomic(index.folder / FILE, contended=True) as file:
      file.write(prefix + text)
      for column in columns.values():
        file.write(column.tobytes())
  except UserError:
    pass  # The folder may be another user's; the next start reads all records.


class _Content:
  """Gathers the small fields of records, one record after the other."""

  def __init__(self) -> None:
    self._fields: dict[str, list[Any]] = {name: [] for name in _FIELDS}

  def add(self, data: bytes) -> int:
    """Takes the fields of a record; returns its checksum."""
    record = tfrecord.parse(data)
    for name, found in self._fields.items():
      found.append(getattr(record, name))
    return tfrecord.checksum(data)

  def columns(self) -> tuple[dict[str, tuple[str, ...]], dict[str, np.ndarray]]:
    """Returns the values of texts that are numbers, and all columns."""
    values: dict[str, tuple[str, ...]] = {}
    columns: dict[str, np.ndarray] = {}
    for name, found in self._fields.items():
      kind = _FIELDS[name]
      if kind is np.ndarray:
        columns[name] = np.concatenate([np.zeros((0, 5), np.int32), *found])
        columns[f'{name}.ends'] = _ends(found)
      elif kind is not str:
        columns[name] = np.array(found, _DTYPES[kind])
      elif name in _NOT_FEW or len(set(found)) > _FEW_VALUES:
        encoded = [text.encode() for text in found]
        columns[name] = np.frombuffer(b''.join(encoded), np.uint8)
        columns[f'{name}.ends'] = _ends(encoded)
      else:
        values[name] = tuple(sorted(set(found)))
        number = {text: index for index, text in enumerate(values[name])}
        columns[name] = np.array([number[text] for text in found], np.uint8)
    return values, columns


def _as_objects(value: Any) -> Any:
  """Returns named tuples as dicts, whose names JSON keeps."""
  if hasattr(value, '_asdict'):
    return _as_objects(value._asdict())
  if isinstance(value, dict):
    return {name: _as_objects(each) for name, each in value.items()}
  if isinstance(value, tuple):
    return [_as_objects(each) for each in value]
  return value


def _ends(found: Iterable[Any]) -> np.ndarray:
  return np.cumsum([len(each) for each in found], dtype=np.int64)


def _sizes(folder: pathlib.Path, names: Iterable[str]) -> Iterator[_Shard]:
  return (_Shard(name, (folder / name).stat().st_size) for name in names)


def _load(path: pathlib.Path) -> Index:
  """Reads an index.

  Raises:
    _Damaged: It cannot be used for the records in its folder.
  """
  try:
    with path.open('rb') as file:
      header, start = _header(file)
      folder = path.parent
      names = [shard.name for shard in header.shards]
      present = {each.name for each in built_dataset.record_files(folder)}
      if set(names) != present or header.shards != tuple(_sizes(folder, names)):
        raise _Damaged('the record files are others')
      if header.checksum != built_dataset.noted_checksum(folder):
        raise _Damaged('build.json is that of other records')
      sizes = {split.name: split.stop - split.start for split in header.splits}
      if sizes != built_dataset.split_sizes(folder) or header.fields != tuple(
        _FIELDS
      ):
        raise _Damaged('it is of another version')
      columns, texts = {}, {}
      for name, column in header.columns.items():
        if _FIELDS.get(name) is not str or name in header.values:
          columns[name] = _read(file, start, column)
        elif name == _AT_ONCE:
          texts[name] = _Memory(_read(file, start, column).tobytes())
        else:
          _check(file, start, column)
          texts[name] = _Part(path, start + column.offset)
  except (OSError, ValueError, KeyError) as error:
    raise _Damaged(str(error)) from None
  return Index(
    folder=path.parent,
    shards=tuple(names),
    splits={split.name: (split.start, split.stop) for split in header.splits},
    values=header.values,
    columns=columns,
    texts=texts,
  )


def _header(file: BinaryIO) -> tuple[_Header, int]:
  """Returns the header and where the columns start."""
  prefix = file.read(_PREFIX.size)
  if len(prefix) < _PREFIX.size:
    raise _Damaged('it is cut off')
  magic, length, crc = _PREFIX.unpack(prefix)
  if magic != _MAGIC or length > os.fstat(file.fileno()).st_size:
    raise _Damaged('it is damaged')
  text = file.read(length)
  if google_crc32c.value(text) != crc:
    raise _Damaged('it is damaged')
  header: _Header = typed_json.convert(json.loads(text), _Header)
  return header, _PREFIX.size + length


def _read(file: BinaryIO, start: int, column: _Column) -> np.ndarray:
  dtype = np.dtype(column.dtype)
  file.seek(start + column.offset)
  data = file.read(math.prod(column.shape) * dtype.itemsize)
  if google_crc32c.value(data) != column.crc:
    raise _Damaged('it is damaged')
  return np.frombuffer(data, dtype).reshape(column.shape)


def _check(file: BinaryIO, start: int, column: _Column) -> None:
  """Compares a column with its checksum, without keeping it."""
  file.seek(start + column.offset)
  left = column.shape[0]
  crc = 0
  while left:
    data = file.read(min(left, _CHUNK))
    if not data:
      raise _Damaged('it is cut off')
    crc = google_crc32c.extend(crc, data)
    left -= len(data)
  if crc != column.crc:
    raise _Damaged('it is damaged')


class _Memory:
  """Parts of bytes."""

  def __init__(self, content: bytes):
    self._content = content

  def __call__(self, start: int, stop: int) -> bytes:
    return self._content[start:stop]


class _Part:
  """Reads parts of a file that stays open."""

  def __init__(self, path: pathlib.Path, start: int):
    self._file = os.open(path, os.O_RDONLY)
    weakref.finalize(self, os.close, self._file)
    self._start = start

  def __call__(self, start: int, stop: int) -> bytes:
    return os.pread(self._file, stop - start, self._start + start)
