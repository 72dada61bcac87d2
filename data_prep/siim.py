"""The TFDS builder: records of a working folder -> TFRecords in TFDS layout."""

import dataclasses
import functools
import hashlib
import itertools
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer, file_adapters, writer
from tensorflow_datasets.proto import tf_example_pb2

from data_prep import prepare
from pnx_jax.formats import schema

_Example = tf_example_pb2.Example
# One shard passes through memory at a time.
_RECORDS_PER_SHARD = 512

# A record, the number of its patient and that patient's keyed digest.
_Film = tuple[prepare.Prepared, int, str]


class Siim(tfds.core.ShardBasedBuilder):
  """Chest radiographs with masks of pneumothorax."""

  name = schema.NAME
  VERSION = tfds.core.Version(schema.VERSION)

  def __init__(
    self,
    *,
    splits: Mapping[str, Sequence[_Film]],
    folder: str | os.PathLike[str],
    image_size: int,
    written: str | os.PathLike[str] = '',
    **kwargs: Any,
  ):
    """Takes the records of every split, each with patient and digest.

    Args:
      splits: The records.
      folder: The working folder.
      image_size: Side of the images.
      written: The folder in which `write_shard` left all shards, if it did.
      **kwargs: Of the base class.
    """
    self._splits = splits
    self._folder = os.fspath(folder)
    self._image_size = image_size
    self._written = os.fspath(written)
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      description=type(self).__doc__, features=features(self._image_size)
    )

  def _example_writer(self) -> writer.ExampleWriter:
    if self._written:
      return _Moved(self._written, file_format=self.info.file_format)
    return _SameBytes(file_format=self.info.file_format)

  def _shard_iterators_per_split(self, dl_manager):
    del dl_manager
    return {
      name: [
        # Of shards that are written TFDS has to know the length alone.
        functools.partial(itertools.repeat, None, len(shard))
        if self._written
        else functools.partial(_examples, self._folder, shard)
        for shard in _shards(records)
      ]
      for name, records in self._splits.items()
    }


class _SameBytes(writer.ExampleWriter):
  """Writes the fields of every record in one order.

  Protocol buffers do not promise any for maps, and follow Python's hash seed.
  """

  def write(self, path, examples):
    return super().write(
      path,
      (
        (key, _Example.FromString(data).SerializeToString(deterministic=True))
        for key, data in examples
      ),
    )


class _Moved(writer.ExampleWriter):
  """Moves shards to their places, instead of writing them."""

  def __init__(self, folder: str, **kwargs: Any):
    super().__init__(**kwargs)
    self._folder = folder

  def write(self, path, examples):
    del examples
    os.rename(os.path.join(self._folder, os.path.basename(path)), path)


def shards(
  splits: Mapping[str, Sequence[_Film]],
) -> list[tuple[str, list[_Film]]]:
  """Returns the shards of all splits, each with the name of its file."""
  return [
    (f'{schema.NAME}-{name}.tfrecord-{i:05}-of-{len(parts):05}', part)
    for name, records in splits.items()
    for parts in [_shards(records)]
    for i, part in enumerate(parts)
  ]


def write_shard(
  shard: tuple[str, Sequence[_Film]],
  *,
  folder: str | os.PathLike[str],
  image_size: int,
  to: str | os.PathLike[str],
) -> None:
  """Writes a shard as the builder does, in whatever process.

  Args:
    shard: One of `shards`.
    folder: The working folder.
    image_size: Side of the images.
    to: The folder for the shard, which appears there as a whole.
  """
  name, records = shard
  kinds = features(image_size)
  serializer = example_serializer.ExampleSerializer(kinds.get_serialized_info())
  file_format = file_adapters.FileFormat.TFRECORD
  partial = tfds.core.Path(to) / f'.{name}.{uuid.uuid4().hex}'
  writer.ShardWriter(
    kinds, serializer, _SameBytes(file_format=file_format)
  ).write(_examples(os.fspath(folder), records), partial)
  os.replace(partial, os.path.join(to, name))


def features(image_size: int) -> tfds.features.FeaturesDict:
  """Returns the features that hold a `schema.Record`."""
  picture = tfds.features.Image(
    shape=(image_size, image_size, 1), encoding_format='png'
  )
  by_type = {
    bytes: picture,
    str: tfds.features.Text(),
    int: np.int64,
    float: np.float32,
  }
  special = {
    'pixel_spacing': tfds.features.Tensor(shape=(2,), dtype=np.float32),
    'boxes': tfds.features.Tensor(shape=(None, 5), dtype=np.int32),
  }
  return tfds.features.FeaturesDict(
    {
      field.name: special.get(field.name) or by_type[field.type]
      for field in dataclasses.fields(schema.Record)
    }
  )


def _shards(records: Sequence[_Film]) -> list[list[_Film]]:
  """Returns the records in an order that depends on their ids alone."""
  records = sorted(
    records,
    key=lambda entry: hashlib.sha256(entry[0].image_id.encode()).digest(),
  )
  number = -(-len(records) // _RECORDS_PER_SHARD)
  edges = np.linspace(0, len(records), number + 1).round().astype(int).tolist()
  return [records[start:stop] for start, stop in itertools.pairwise(edges)]


def _examples(
  folder: str, shard: Sequence[_Film]
) -> Iterator[tuple[str, dict[str, Any]]]:
  for prepared, patient, digest in shard:
    record = prepare.read_record(folder, prepared)
    example = {name: getattr(record, name) for name in schema.FIELDS}
    example |= {'patient': patient, 'patient_digest': digest}
    yield record.image_id, example
