"""Random access to TFRecord files in TFDS layout, without TensorFlow."""

import csv
import dataclasses
import json
import os
import pathlib
import struct
import weakref
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from tensorflow_datasets.proto import tf_example_pb2

from pnx_jax.errors import UserError
from pnx_jax.formats import schema

# A record is: length (8 bytes), its checksum (4), data, checksum (4).
_HEADER_BYTES = 12
_FOOTER_BYTES = 4


class TFRecordSource:
  """A sequence of serialised records over any number of files.

  Holds an offset index of 24 bytes a record and reads each record with one
  `os.pread`, so that any thread may read any record.
  """

  def __init__(self, paths: Sequence[str | os.PathLike]):
    files = [os.open(path, os.O_RDONLY) for path in paths]
    weakref.finalize(self, lambda: [os.close(file) for file in files])
    self._index = [
      (file, offset, length)
      for file, path in zip(files, paths, strict=True)
      for offset, length in _scan(file, path)
    ]

  def __len__(self) -> int:
    return len(self._index)

  def __getitem__(self, index: int) -> bytes:
    file, offset, length = self._index[index]
    return os.pread(file, length, offset)


def _scan(file: int, path) -> list[tuple[int, int]]:
  """The (offset, length) of every record's data."""
  size = os.fstat(file).st_size
  records = []
  offset = 0
  while offset < size:
    header = os.pread(file, _HEADER_BYTES, offset)
    length = struct.unpack('<Q', header[:8])[0] if len(header) == 12 else size
    end = offset + _HEADER_BYTES + length + _FOOTER_BYTES
    if end > size:
      raise UserError(
        f'{path}: record {len(records)} runs past the end of the file; '
        'the file is damaged: build the dataset again'
      )
    records.append((offset + _HEADER_BYTES, length))
    offset = end
  return records


def dataset_info(data_dir: str | os.PathLike) -> dict:
  """The `dataset_info.json` of a dataset in TFDS layout.

  Raises:
    UserError: there is no dataset at `data_dir`, or one of another kind.
  """
  path = pathlib.Path(data_dir) / 'dataset_info.json'
  if not path.is_file():
    raise UserError(
      f'no dataset at {data_dir}. Make one from radiographs with '
      f'`python -m data_prep.build --dicom_dir=... --rle_csv=... '
      f'--output_dir={data_dir}`, or synthetic radiographs to build from with '
      f'`python -m data_prep.phantom --output_dir=data/phantom`'
    )
  try:
    info = json.loads(path.read_text(encoding='utf-8'))
    found = info['name'], info['version']
    info['splits']
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f'{path} is damaged ({error!r}): build it again') from error
  if found != (schema.NAME, schema.VERSION):
    raise UserError(
      f'{data_dir} holds the dataset {found[0]} {found[1]}, this program reads '
      f'{schema.NAME} {schema.VERSION}: build it again'
    )
  return info


def split_sizes(data_dir: str | os.PathLike) -> dict[str, int]:
  """Number of records of every split."""
  return {
    split['name']: sum(int(n) for n in split.get('shardLengths', ()))
    for split in dataset_info(data_dir)['splits']
  }


class Origin(NamedTuple):
  """What a build says of its records.

  Attributes:
    window: how their grey levels were made, see `greyscale.to_uint8`.
    patient_safe: whether no true patient is in two folds.
    written: the labelled films.
    positive: those of them with a pneumothorax.
    synthetic: those of them that show no patient, by their header.
    patients: whose films they are.
    patients_from: what tells the patients apart.
  """

  window: str
  patient_safe: bool
  written: int
  positive: int
  synthetic: int
  patients: int
  patients_from: str


def origin(data_dir: str | os.PathLike) -> Origin:
  """Raises UserError where there is no dataset or its report is damaged."""
  dataset_info(data_dir)
  path = pathlib.Path(data_dir) / 'build.json'
  try:
    report = json.loads(path.read_text(encoding='utf-8'))
    report.setdefault('synthetic', 0)  # Was not counted before.
    return Origin(
      report['options']['window'],
      *(report[name] for name in Origin._fields[1:]),
    )
  except (AttributeError, OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(f'{path} is damaged ({error!r}): build it again') from error


def folds_of(data_dir: str | os.PathLike) -> dict[str, int]:
  """The fold of each labelled image by its id, without reading the records.

  Raises:
    UserError: the build's table of folds is missing or damaged.
  """
  path = pathlib.Path(data_dir) / 'folds.csv'
  try:
    with path.open(encoding='utf-8', newline='') as file:
      return {row['image_id']: int(row['fold']) for row in csv.DictReader(file)}
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(f'{path} is damaged ({error!r}): build it again') from error


def split_files(
  data_dir: str | os.PathLike, splits: Sequence[str]
) -> list[pathlib.Path]:
  """The files of `splits`, one split after the other.

  Raises:
    UserError: a split is unknown.
  """
  sizes = split_sizes(data_dir)
  for split in splits:
    if split not in sizes:
      raise UserError(
        f'{data_dir} has no split {split!r}; it has {", ".join(sorted(sizes))}'
      )
  return [
    path
    for split in splits
    for path in sorted(pathlib.Path(data_dir).glob(f'*-{split}.tfrecord-*'))
  ]


def split_source(
  data_dir: str | os.PathLike, splits: Sequence[str]
) -> TFRecordSource:
  """The records of `splits`, one split after the other.

  Raises:
    UserError: a split is unknown or its files do not hold what
      `dataset_info.json` promises.
  """
  source = TFRecordSource(split_files(data_dir, splits))
  sizes = split_sizes(data_dir)
  expected = sum(sizes[split] for split in splits)
  if len(source) != expected:
    raise UserError(
      f'{data_dir} holds {len(source)} records of {", ".join(splits)}, not '
      f'the {expected} of its dataset_info.json: build the dataset again'
    )
  return source


def parse(example: bytes) -> schema.Record:
  """The record in a serialised `tf.train.Example`; its PNGs stay encoded.

  Raises:
    UserError: a field is missing.
  """
  features = tf_example_pb2.Example.FromString(example).features.feature
  missing = [name for name in schema.FIELDS if name not in features]
  if missing:
    raise UserError(
      f'a record of the dataset lacks {", ".join(missing)}: build it again'
    )
  values = {
    field.name: _VALUES[field.type](features[field.name])
    for field in dataclasses.fields(schema.Record)
  }
  return schema.Record(**values)


_VALUES = {
  bytes: lambda feature: feature.bytes_list.value[0],
  str: lambda feature: feature.bytes_list.value[0].decode(),
  int: lambda feature: feature.int64_list.value[0],
  float: lambda feature: feature.float_list.value[0],
  tuple[float, float]: lambda feature: tuple(feature.float_list.value),
  np.ndarray: lambda feature: np.array(
    feature.int64_list.value, np.int32
  ).reshape(-1, 5),
}
