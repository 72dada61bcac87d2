"""TFRecord files without TensorFlow: random access, checked when read."""

import dataclasses
import os
import struct
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple

import google_crc32c
import numpy as np
from tensorflow_datasets.proto import tf_example_pb2

from pnx_jax.errors import UserError
from pnx_jax.formats import schema
from pnx_jax.storage import ranges
from pnx_jax.storage.ranges import ReadableFile

# A record is: length (8 bytes), its checksum (4), data, checksum (4).
_HEADER = struct.Struct('<QI')
_FOOTER = struct.Struct('<I')
_REMEDY = 'the file is damaged: build the dataset again'


class Places(NamedTuple):
  """Where records start: a header each, followed by `length` bytes of data.

  Attributes:
    file: u16[N], number of the file.
    offset: i64[N]
    length: u32[N]
  """

  file: np.ndarray
  offset: np.ndarray
  length: np.ndarray


class TFRecordSource:
  """A sequence of serialized records over any number of files.

  Holds an offset index of 14 bytes per record and reads each record with one
  read at its place, so that any thread may read any record. What it reads has
  the checksums that were written with it.

  Args:
    paths: The files, in order.
    places: Where the records lie, if that is known; else the files are read.

  Attributes:
    paths: The files, in order.
    places: Where the records lie.

  Raises:
    UserError: A file ends within a record or has a damaged header.
  """

  def __init__(
    self,
    paths: Sequence[str | os.PathLike[str]],
    *,
    places: Places | None = None,
  ):
    self.paths: list[str] = [os.fspath(path) for path in paths]
    self._files = [ranges.open_file(path) for path in paths]
    self.places: Places = places or _found(self._files, self.paths)

  def __len__(self) -> int:
    return len(self.places.offset)

  def __getitem__(self, index: int) -> bytes:
    """Raises UserError for a record that is not what was written."""
    file, offset, length = (int(column[index]) for column in self.places)
    path = self.paths[file]
    return _read(self._files[file], offset, length, f'{path}, offset {offset}')


def write(file: BinaryIO, data: bytes) -> int:
  """Appends a record to a file; returns the offset at which it starts."""
  offset = file.tell()
  length = struct.pack('<Q', len(data))
  file.write(length + _FOOTER.pack(checksum(length)))
  file.write(data + _FOOTER.pack(checksum(data)))
  return offset


def read(path: str | os.PathLike[str], offset: int) -> bytes:
  """Returns the record that starts at an offset of a file.

  Raises:
    UserError: It is not what was written.
  """
  file = ranges.open_file(path)
  where = f'{os.fspath(path)}, offset {offset}'
  length = _length(file.read(offset, _HEADER.size), where)
  return _read(file, offset, length, where)


def parse(example: bytes) -> schema.Record:
  """Returns the record in a serialized `tf.train.Example`; PNGs stay encoded.

  Raises:
    UserError: A field is missing or of another type.
  """
  try:
    features = tf_example_pb2.Example.FromString(example).features.feature
    return schema.Record(
      **{
        field.name: _VALUES[field.type](features[field.name])
        for field in dataclasses.fields(schema.Record)
        if field.name in features
      }
    )
  except Exception as error:  # protobuf's own, and those of missing fields
    lost = 'has no valid fields'
    if isinstance(error, TypeError):
      missing = [name for name in schema.FIELDS if name not in features]
      lost = f'lacks {", ".join(missing)}' if missing else lost
    raise UserError(
      f'a record of the dataset {lost}: build the dataset again'
    ) from error


def serialize(record: schema.Record) -> bytes:
  """Returns a record as a serialized `tf.train.Example`, see `parse`."""
  example = tf_example_pb2.Example()
  for field in dataclasses.fields(schema.Record):
    feature = example.features.feature[field.name]
    value = getattr(record, field.name)
    if field.type is bytes:
      feature.bytes_list.value.append(value)
    elif field.type is str:
      feature.bytes_list.value.append(value.encode())
    elif field.type is int:
      feature.int64_list.value.append(value)
    elif field.type is np.ndarray:
      feature.int64_list.value.extend(value.ravel().tolist())
    else:
      feature.float_list.value.extend(np.atleast_1d(value).tolist())
  return example.SerializeToString(deterministic=True)


_VALUES: dict[Any, Any] = {
  bytes: lambda feature: feature.bytes_list.value[0],
  str: lambda feature: feature.bytes_list.value[0].decode(),
  int: lambda feature: feature.int64_list.value[0],
  float: lambda feature: feature.float_list.value[0],
  tuple[float, float]: lambda feature: tuple(feature.float_list.value),
  np.ndarray: lambda feature: np.array(
    feature.int64_list.value, np.int32
  ).reshape(-1, 5),
}


def _found(files: Sequence[ReadableFile], paths: Sequence[str]) -> Places:
  """Returns where the records of some files lie."""
  places = [_scan(*each) for each in zip(files, paths, strict=True)]
  counts = [len(each) for each in places]
  offset, length = np.concatenate(
    [np.zeros((0, 2), np.int64), *map(np.array, filter(None, places))]
  ).T
  return Places(
    np.repeat(np.arange(len(paths), dtype=np.uint16), counts),
    np.ascontiguousarray(offset),
    length.astype(np.uint32),
  )


def _scan(file: ReadableFile, path: str) -> list[tuple[int, int]]:
  """Returns where the records of a file start, and how long they are."""
  places: list[tuple[int, int]] = []
  offset = 0
  while offset < file.size:
    where = f'{path}, offset {offset} (record {len(places)})'
    length = _length(file.read(offset, _HEADER.size), where)
    end = offset + _HEADER.size + length + _FOOTER.size
    if end > file.size:
      raise UserError(
        f'{where}: the record runs past the end of the file; {_REMEDY}'
      )
    places.append((offset, length))
    offset = end
  return places


def _length(header: bytes, where: str) -> int:
  if len(header) < _HEADER.size:
    raise UserError(f'{where}: the file ends within a record; {_REMEDY}')
  length, noted = _HEADER.unpack(header)
  if noted != checksum(header[:8]):
    raise UserError(
      f'{where}: the length of the record is not what was written; {_REMEDY}'
    )
  return length


def _read(file: ReadableFile, offset: int, length: int, where: str) -> bytes:
  whole = file.read(offset, _HEADER.size + length + _FOOTER.size)
  data, footer = whole[_HEADER.size : -_FOOTER.size], whole[-_FOOTER.size :]
  if (
    len(data) != length
    or _HEADER.unpack(whole[: _HEADER.size])[0] != length
    or _FOOTER.unpack(footer)[0] != checksum(data)
  ):
    raise UserError(
      f'{where}: {_image_id(data)} is not what was written; {_REMEDY}'
    )
  return data


def _image_id(damaged: bytes) -> str:
  """Returns whose record this seems to be, as far as it can be read."""
  try:
    return f'the record of image {parse(damaged).image_id!r}'
  except UserError:
    return 'a record that no longer says of which image'


def checksum(data: bytes) -> int:
  """Returns the CRC-32C of bytes, masked as in TFRecord files."""
  crc = google_crc32c.value(data)
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
