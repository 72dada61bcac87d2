"""The index of small fields: same records, bound to their files, checked."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from pnx_jax.errors import UserError
from pnx_jax.formats import (
  built_dataset,
  record_index,
  record_reader,
  schema,
  seal,
  tfrecord,
)
from pnx_jax.input import pipeline

SPLITS = ('fold1', 'fold0')
NUM_RECORDS = 41


@pytest.fixture
def dataset(dataset_dir, tmp_path):
  """A copy that a test may damage."""
  return shutil.copytree(dataset_dir, tmp_path / 'records')


def without_images(example):
  record = tfrecord.parse(example)
  return dataclasses.replace(record, image=b'', mask=b'')


def fields(record):
  return {**dataclasses.asdict(record), 'boxes': record.boxes.tolist()}


def test_the_index_holds_what_the_records_hold(dataset_dir):
  expected = [
    fields(without_images(example))
    for example in built_dataset.split_source(dataset_dir, SPLITS)
  ]
  records = record_reader.read(dataset_dir, SPLITS)
  assert [fields(record) for record in records] == expected
  assert [fields(record) for record in records[3:5]] == expected[3:5]
  for name in ('label', 'patient', 'view', 'age', 'truth', 'rle'):
    column = records.column(name)
    assert column.tolist() == [record[name] for record in expected]
  assert fields(records[-1]) == expected[-1]
  some = records.chosen(np.arange(len(records)) % 3 == 1)
  assert some[1].image_id == expected[4]['image_id']
  assert some.payload(1).image and some.payload(1).rle == expected[4]['rle']


def test_a_start_reads_no_record(dataset, monkeypatch):
  monkeypatch.setattr(tfrecord, 'parse', None)
  monkeypatch.setattr(built_dataset, 'checksum', None)
  assert len(pipeline.Dataset(str(dataset), SPLITS)) == NUM_RECORDS


def test_a_dataset_without_an_index_is_read_record_by_record(dataset, caplog):
  (dataset / record_index.FILE).unlink()
  assert len(record_reader.read(dataset, SPLITS)) == NUM_RECORDS
  assert not (dataset / record_index.FILE).exists()
  assert not caplog.text


@pytest.mark.parametrize('place', [0, 30, 400, -1])
def test_a_damaged_index_is_made_again(dataset, place, caplog):
  path = dataset / record_index.FILE
  whole = path.read_bytes()
  damaged = bytearray(whole)
  damaged[place] ^= 1
  path.write_bytes(damaged)
  assert len(record_reader.read(dataset, SPLITS)) == NUM_RECORDS
  (line,) = caplog.messages
  assert 'record_index.bin is made again: it is damaged' in line
  assert path.read_bytes() == whole


@pytest.mark.parametrize('length', [0, 10, 300, 5000])
def test_an_index_that_was_cut_off_is_made_again(dataset, length, caplog):
  path = dataset / record_index.FILE
  path.write_bytes(path.read_bytes()[:length])
  assert len(record_reader.read(dataset, SPLITS)) == NUM_RECORDS
  assert 'is made again' in caplog.text


def test_an_index_of_other_records_is_made_again(dataset, caplog):
  report = json.loads((dataset / 'build.json').read_text())
  report['checksum'] = '0' * 64
  (dataset / 'build.json').write_text(json.dumps(seal.sealed(report)))
  with pytest.raises(UserError, match='not those whose checksum'):
    record_reader.read(dataset, SPLITS)
  assert 'build.json is that of other records' in caplog.text


def test_a_shard_of_another_size_is_named(dataset, caplog):
  (path, *_) = built_dataset.split_files(dataset, ['fold1'])
  path.write_bytes(path.read_bytes()[:-7])
  with pytest.raises(UserError, match='runs past the end of the file'):
    record_reader.read(dataset, SPLITS)
  assert 'the record files are others' in caplog.text


def test_a_payload_is_compared_with_the_index(dataset):
  """Records that pass their own checksum, but are not those of the index."""
  (path,) = built_dataset.split_files(dataset, ['fold0'])
  examples = list(tfrecord.TFRecordSource([path]))
  size = path.stat().st_size
  record = tfrecord.parse(examples[0])
  changed = dataclasses.replace(record, label=1 - record.label)
  with path.open('wb') as file:
    for example in [tfrecord.serialize(changed), *examples[1:]]:
      tfrecord.write(file, example)
  assert path.stat().st_size == size
  data = pipeline.Dataset(str(dataset), ['fold0'])
  with pytest.raises(UserError, match=f'{record.image_id} is not the one'):
    data.image(0, 32)
  assert data.image(1, 32).shape == (32, 32)


def test_an_index_without_writing_rights_is_no_obstacle(
  dataset, monkeypatch, caplog
):
  (dataset / record_index.FILE).write_bytes(b'')

  def refuse(path, **_):
    raise UserError(f'cannot write {path}')

  monkeypatch.setattr(record_index.files, 'atomic', refuse)
  assert len(record_reader.read(dataset, SPLITS)) == NUM_RECORDS
  assert 'is made again: it is cut off' in caplog.text


def test_every_split_can_be_asked_for_alone(dataset_dir):
  for split, size in built_dataset.split_sizes(dataset_dir).items():
    assert len(record_reader.read(dataset_dir, [split])) == size
  with pytest.raises(UserError, match="no split 'fold9'"):
    record_reader.read(dataset_dir, ['fold9'])
  label = record_reader.read(dataset_dir, [schema.TEST_SPLIT]).column('label')
  assert (label == schema.UNLABELED).all()
