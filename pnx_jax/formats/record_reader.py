"""Records of a dataset: small fields from its index, images when asked for."""

import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Self, overload

import numpy as np

from pnx_jax.errors import UserError
from pnx_jax.formats import built_dataset, record_index, schema, tfrecord
from pnx_jax.storage import ranges

# Compared with the index when a record is read, beside its checksum.
_COMPARED = ('image_id', 'label', 'rle')


class Records(Sequence[schema.Record]):
  """Some records of a dataset, without their images; made when asked for.

  Args:
    index: The small fields of all records.
    positions: Which of them, i64[N].
  """

  def __init__(self, index: record_index.Index, positions: np.ndarray):
    self._index = index
    self._positions = positions

  def __len__(self) -> int:
    return len(self._positions)

  @overload
  def __getitem__(self, place: int) -> schema.Record: ...
  @overload
  def __getitem__(self, place: slice) -> list[schema.Record]: ...
  def __getitem__(
    self, place: int | slice
  ) -> schema.Record | list[schema.Record]:
    if isinstance(place, slice):
      return list(self._index.records(self._positions[place]))
    position = self._positions[place]
    return next(self._index.records(np.array([position])))

  def __iter__(self) -> Iterator[schema.Record]:
    return self._index.records(self._positions)

  def chosen(self, wanted: np.ndarray) -> Self:
    """Returns the records where bool[N] is true."""
    return type(self)(self._index, self._positions[wanted])

  def column(self, name: str) -> np.ndarray:
    """Returns a field but `boxes` of every record, [N] or [N, 2]."""
    return self._index.column(name)[self._positions]

  def payload(self, place: int) -> schema.Record:
    """Reads a whole record, with its images.

    Raises:
      UserError: It is not the one that the index describes.
    """
    position = int(self._positions[place])
    data = (self._ahead or self._source)[position]
    found = tfrecord.parse(data)
    same = all(
      self._index.values_of(name, np.array([position]))
      == [getattr(found, name)]
      for name in _COMPARED
    )
    if (
      not same
      or tfrecord.checksum(data) != self._index.columns['crc'][position]
    ):
      raise UserError(
        f'{self._index.folder}: the record of {found.image_id} is not the one '
        f'that {record_index.FILE} describes: restore the record files, or '
        'build the dataset again'
      )
    return found

  def expect(self, places: Iterable[int]) -> None:
    """Tells in which order payloads will be asked for.

    Those in a bucket are read ahead in that order.
    """
    if self._ahead is not None:
      self._ahead.expect(int(self._positions[place]) for place in places)

  @functools.cached_property
  def _ahead(self) -> ranges.ReadAhead | None:
    if any(map(ranges.is_object, self._source.paths)):
      return ranges.ReadAhead(self._source.__getitem__)
    return None

  @functools.cached_property
  def _source(self) -> tfrecord.TFRecordSource:
    places = self._index.columns
    return tfrecord.TFRecordSource(
      [self._index.folder / name for name in self._index.shards],
      places=tfrecord.Places(
        places['file'], places['offset'], places['length']
      ),
    )


def read(data_dir: str | os.PathLike[str], splits: Sequence[str]) -> Records:
  """Returns the records of some splits, one split after the other.

  Raises:
    UserError: A split is unknown, or the record files are not those that the
      build has written.
  """
  folder = built_dataset.folder(data_dir)
  built_dataset.check_splits(folder, splits)
  index = record_index.load(folder, splits)
  parts = [np.arange(*index.splits[split]) for split in splits]
  return Records(index, np.concatenate([np.zeros(0, np.int64), *parts]))
