"""Records and what a built dataset says of them, damaged in every way."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest

from pnx_jax.errors import UserError
from pnx_jax.formats import (
  built_dataset,
  record_reader,
  schema,
  seal,
  tfrecord,
)

RECORD = schema.Record(
  image=b'png',
  mask=b'',
  rle='3 4',
  image_id='1.2.3',
  patient=7,
  label=1,
  height=5,
  width=4,
  pixel_aspect=1.5,
  view='PA',
  sex='F',
  age=-1,
  pixel_spacing=(0.25, 0.5),
  spacing_plane='patient',
  mirrored=0,
  num_annotations=2,
  agreement=0.5,
  boxes=np.arange(10, dtype=np.int32).reshape(2, 5),
)


def crc32c(data):
  """The checksum bit by bit (Castagnoli's polynomial)."""
  crc = 0xFFFFFFFF
  for byte in data:
    crc ^= byte
    for _ in range(8):
      crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
  return crc ^ 0xFFFFFFFF


def masked(data):
  crc = crc32c(data)
  return ((crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF).to_bytes(
    4, 'little'
  )


def written(path, *payloads):
  with open(path, 'wb') as file:
    return [tfrecord.write(file, payload) for payload in payloads]


def test_a_record_comes_back_as_it_was():
  back = tfrecord.parse(tfrecord.serialize(RECORD))
  for name in schema.FIELDS:
    np.testing.assert_array_equal(getattr(back, name), getattr(RECORD, name))
  empty = dataclasses.replace(RECORD, boxes=np.zeros((0, 5), np.int32))
  assert tfrecord.parse(tfrecord.serialize(empty)).boxes.shape == (0, 5)


def test_framing_is_that_of_tfrecord_files(tmp_path):
  assert crc32c(b'123456789') == 0xE3069283  # the published check value
  offsets = written(tmp_path / 'a', b'first', b'')
  expected = b''
  for payload in (b'first', b''):
    length = len(payload).to_bytes(8, 'little')
    expected += length + masked(length) + payload + masked(payload)
  assert (tmp_path / 'a').read_bytes() == expected
  assert offsets == [0, 21]
  source = tfrecord.TFRecordSource([tmp_path / 'a'])
  assert list(source) == [b'first', b'']
  assert tfrecord.read(tmp_path / 'a', 21) == b''


def test_every_flipped_bit_of_a_file_is_noticed(tmp_path):
  path = tmp_path / 'a'
  payloads = [tfrecord.serialize(RECORD), b'second']
  written(path, *payloads)
  whole = path.read_bytes()
  for place in range(len(whole)):
    damaged = bytearray(whole)
    damaged[place] ^= 1 << place % 8
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=rf'{path}, offset \d+.*build') as error:
      list(tfrecord.TFRecordSource([path]))
    first = f'offset {0 if place < len(whole) - 22 else len(whole) - 22}'
    assert first in str(error.value)


def test_a_damaged_record_is_named(tmp_path):
  path = tmp_path / 'a'
  written(path, b'first', tfrecord.serialize(RECORD))
  damaged = path.read_bytes().replace(b'3 4', b'3 5')
  path.write_bytes(damaged)
  source = tfrecord.TFRecordSource([path])
  assert source[0] == b'first'
  with pytest.raises(
    UserError, match=r"offset 21: the record of image '1\.2\.3' is not what"
  ):
    source[1]


def test_a_record_that_changes_while_it_is_used(tmp_path):
  path = tmp_path / 'a'
  written(path, b'first', b'second')
  source = tfrecord.TFRecordSource([path])
  os.truncate(path, 30)
  assert source[0] == b'first'
  with pytest.raises(UserError, match='offset 21: a record that no longer'):
    source[1]


@pytest.mark.parametrize(
  'data', [b'', b'\xff' * 50, b'\x0a\x02\x08\x01', b'\x0a\x04\x0a\x02\x0a\x00']
)
def test_what_is_not_a_record_is_refused(data):
  with pytest.raises(UserError, match='build the dataset again'):
    tfrecord.parse(data)


@pytest.fixture
def dataset(dataset_dir, tmp_path):
  """A built dataset that may be changed."""
  return shutil.copytree(dataset_dir, tmp_path / 'records')


def change_json(path, **changes):
  """Changes fields as if the build had written them so."""
  content = json.loads(path.read_text()) | changes
  if path.name == 'build.json':
    content = seal.sealed(content)
  path.write_text(json.dumps(content))


@pytest.mark.parametrize(
  'change',
  [
    {'patient_safe': False},
    {'written': 61},
    {'near_duplicates': [['a', 'b']]},
    {'seal': None},
    {'seal': ''},
  ],
)
def test_an_edited_report_is_refused(dataset, change):
  path = dataset / 'build.json'
  content = json.loads(path.read_text())
  path.write_text(json.dumps(content | change))
  with pytest.raises(UserError, match=r'build\.json was changed after'):
    built_dataset.origin(dataset)
  del content['seal']
  path.write_text(json.dumps(content))
  with pytest.raises(UserError, match=r'build\.json has lost its seal'):
    built_dataset.origin(dataset)
  del content['folds_checksum']  # A build before there were seals.
  path.write_text(json.dumps(content))
  with pytest.raises(UserError, match=r'build\.json has lost its seal'):
    built_dataset.origin(dataset)
  change_json(dataset / 'dataset_info.json', version='1.0.0')
  assert built_dataset.origin(dataset).written == 60
  path.unlink()
  assert not built_dataset.noted_checksum(dataset)
  change_json(dataset / 'dataset_info.json', version=schema.VERSION)
  with pytest.raises(UserError, match=r'has lost its build\.json'):
    record_reader.read(dataset, ['fold0'])


def test_records_of_another_build_are_noticed(dataset):
  built_dataset.split_source(dataset, ['fold0'])
  change_json(dataset / 'build.json', checksum='0' * 64)
  with pytest.raises(UserError, match=r'not those whose checksum.*build\.json'):
    built_dataset.split_source(dataset, ['fold0'])


def test_records_that_changed_places_are_noticed(dataset):
  """Whole records of right checksums, but not where the build put them."""
  (path,) = dataset.glob('*-fold1.tfrecord*')
  first, *others = tfrecord.TFRecordSource([path])
  written(path, *others, first)
  with pytest.raises(UserError, match='not those whose checksum'):
    built_dataset.split_source(dataset, ['fold0'])


@pytest.mark.parametrize(
  ('name', 'changes'),
  [
    ('build.json', {'patient_safe': 'yes'}),
    ('build.json', {'written': None}),
    ('build.json', {'options': {}}),
    ('build.json', {'checksum': 5}),
    ('dataset_info.json', {'splits': {}}),
    ('dataset_info.json', {'splits': [{'name': 3}]}),
    (
      'dataset_info.json',
      {'splits': [{'name': 'fold0', 'shardLengths': ['x']}]},
    ),
    ('dataset_info.json', {'version': 1}),
  ],
)
def test_reports_of_other_types_are_refused(dataset, name, changes):
  change_json(dataset / name, **changes)
  with pytest.raises(
    UserError, match=f'{name} is damaged: .*build the dataset'
  ):
    built_dataset.origin(dataset)
    built_dataset.split_sizes(dataset)


@pytest.mark.parametrize('keep', [0.0, 0.3, 0.7, 0.99])
@pytest.mark.parametrize(
  'name', ['build.json', 'dataset_info.json', 'folds.csv']
)
def test_files_that_are_cut_off_are_refused(dataset, name, keep):
  content = (dataset / name).read_bytes()
  (dataset / name).write_bytes(content[: int(keep * len(content))])
  with pytest.raises(UserError, match='build the dataset again'):
    built_dataset.origin(dataset)
    built_dataset.folds_of(dataset)


@pytest.mark.parametrize(
  'change',
  [
    lambda rows: rows[:-1],
    lambda rows: [*rows, rows[-1]],
    lambda rows: [*rows[:-1], rows[-1].replace(',', ',1')],
    lambda rows: [*rows[:-1], rows[-1].replace(',', ',-')],
    lambda rows: [*rows[:-1], 'x' + rows[-2]],
  ],
)
def test_folds_that_do_not_fit_the_records_are_refused(dataset, change):
  path = dataset / 'folds.csv'
  assert len(built_dataset.folds_of(dataset)) == 60
  path.write_text('\n'.join([*change(path.read_text().splitlines()), '']))
  with pytest.raises(UserError, match=r'folds\.csv'):
    built_dataset.folds_of(dataset)
