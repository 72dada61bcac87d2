import json
import os
import shutil

import cv2
import dicom_files
import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_prep import dataset, metadata, siim
from data_prep.request import Request
from pnx_jax.errors import UserError
from pnx_jax.formats import rle, schema

SIZE = 32


@pytest.fixture(scope='module')
def archive(tmp_path_factory):
  """Eleven films, ten of them annotated, and two for testing."""
  folder = tmp_path_factory.mktemp('archive')
  rows = ['ImageId, EncodedPixels']
  for number in range(11):
    image_id = f'1.2.{number}'
    dicom_files.write(
      folder / 'train' / f'study{number}' / 'series' / f'{image_id}.dcm',
      dicom_files.film(SIZE, SIZE, seed=number),
      PatientID=f'patient {number // 2}',
      jpeg=number == 0,
    )
    if number < 4:
      rows += [f'{image_id}, {SIZE * number + 3} 5 27 5']
    elif number < 10:
      rows += [f'{image_id}, -1']
  rows += ['1.2.1, 40 6', 'nowhere, -1']
  (folder / 'train' / '._1.2.0.dcm').write_bytes(b'no DICOM')
  (folder / 'train-rle.csv').write_text('\n'.join(rows))
  for number in (20, 21):
    dicom_files.write(
      folder / 'test' / f'ID_{number}.dcm',
      dicom_files.film(SIZE, SIZE, seed=number),
    )
  return folder


def request(archive, output_dir, **changes):
  values = {
    'dicom_dir': str(archive / 'train'),
    'rle_csv': str(archive / 'train-rle.csv'),
    'test_dicom_dir': str(archive / 'test'),
    'patient_key': str(archive / 'patient.key'),
    'output_dir': str(output_dir),
    'image_size': 16,
    'num_folds': 2,
  }
  return Request(**values | changes)


@pytest.fixture(scope='module')
def built(archive, tmp_path_factory):
  output_dir = tmp_path_factory.mktemp('built') / 'siim'
  return output_dir, dataset.build(request(archive, output_dir))


def test_counts_add_up(built):
  output_dir, summary = built
  text = (output_dir / 'build.json').read_text()
  assert text == json.dumps(summary, indent=2) + '\n'
  assert summary['found'] == 12
  assert summary['written'] == 10
  assert summary['positive'] == 4
  assert summary['synthetic'] == 0
  assert summary['unlabeled'] == 1
  assert summary['unlabeled_images'] == ['1.2.10']
  assert summary['rejected_by_reason'] == {'not_dicom': 1}
  assert summary['annotations_without_image'] == 1
  assert summary['test_written'] == 2
  assert summary['patient_safe']
  rejected = (output_dir / 'rejected.csv').read_text().splitlines()
  assert len(rejected) == 2
  assert '._1.2.0,not_dicom' in rejected[1]


@pytest.mark.parametrize('fault', ['lost', 'twice'])
def test_counts_that_do_not_add_up_are_noticed(
  archive, tmp_path, monkeypatch, fault
):
  real = siim._shards
  monkeypatch.setattr(
    siim,
    '_shards',
    lambda records: real(records[:-1] + records[:1] * (fault == 'twice')),
  )
  with pytest.raises(AssertionError, match='12 files found but 10 accounted'):
    dataset.build(request(archive, tmp_path / 'siim'))
  assert not (tmp_path / 'siim').exists()


def test_tensorflow_datasets_reads_the_records(archive, built):
  output_dir, _ = built
  builder = tfds.builder_from_directory(output_dir)
  records = {
    record['image_id'].decode(): record
    for split in ('fold0', 'fold1', 'test')
    for record in builder.as_dataset(split=split).as_numpy_iterator()
  }
  assert len(records) == 12
  assert set(builder.info.features) == set(schema.FIELDS)
  record = records['1.2.1']
  film = dicom_files.film(SIZE, SIZE, seed=1)
  small = cv2.resize(film, (16, 16), interpolation=cv2.INTER_AREA)
  np.testing.assert_array_equal(record['image'][..., 0], small)
  expected = rle.union(['35 5 27 5', '40 6'], SIZE, SIZE)
  united = record['rle'].decode()
  np.testing.assert_array_equal(rle.decode(united, SIZE, SIZE), expected)
  assert record['mask'].shape == (16, 16, 1)
  assert set(np.unique(record['mask'])) <= {0, 255}
  assert (record['label'], record['height'], record['width']) == (1, 32, 32)
  assert (record['view'], record['sex'], record['age']) == (b'PA', b'F', 69)
  # 32 pixels of 0.2 mm are not the width of a chest film.
  np.testing.assert_array_equal(record['pixel_spacing'], [-1, -1])
  assert record['spacing_plane'] == b'implausible'
  assert record['num_annotations'] == 2
  assert record['agreement'] == 0
  assert record['boxes'][:, 4].sum() == expected.sum()
  assert records['1.2.5']['rle'] == b'-1'
  assert records['ID_20']['label'] == schema.UNLABELED


def test_no_patient_in_two_folds(built):
  builder = tfds.builder_from_directory(built[0])
  patients = [
    {int(r['patient']) for r in builder.as_dataset(split=s).as_numpy_iterator()}
    for s in ('fold0', 'fold1')
  ]
  assert not patients[0] & patients[1]
  assert sum(map(len, patients)) == 5


def test_the_number_of_workers_does_not_change_a_byte(archive, built, tmp_path):
  output_dir, summary = built
  again = dataset.build(request(archive, tmp_path / 'again', num_workers=2))
  assert again == summary
  for path in output_dir.iterdir():
    assert (tmp_path / 'again' / path.name).read_bytes() == path.read_bytes()


def test_names_that_are_no_text(copied, tmp_path):
  """Latin-1 names of a film and of a file that is none."""
  folder = os.fsencode(copied / 'train')
  film = next((copied / 'train').rglob('1.2.10.dcm'))
  os.rename(film, folder + b'/M\xfcller.dcm')
  os.rename(folder + b'/._1.2.0.dcm', folder + b'/J\xfcrgen.dcm')
  summary = dataset.build(
    request(
      copied,
      tmp_path / 'siim',
      test_dicom_dir=None,
      dicom_dir=os.fsdecode(folder),
    )
  )
  assert summary['unlabeled_images'] == ['M\\udcfcller']
  rejected = (tmp_path / 'siim' / 'rejected.csv').read_text()
  assert 'J\\udcfcrgen,not_dicom' in rejected
  table, unread = metadata.read_folder(os.fsdecode(folder), 'a.csv', 1)
  metadata.write(table, tmp_path / 'a.csv')
  assert 'M\\udcfcller' in (tmp_path / 'a.csv').read_text()
  assert len(unread) == 1


def test_several_batches_by_several_workers_in_any_order(tmp_path):
  rows = ['ImageId,EncodedPixels']
  for number in range(100):
    dicom_files.write(
      tmp_path / 'train' / f'{number}.dcm',
      dicom_files.film(16, 16, seed=number),
      PatientID=f'{number}',
    )
    rows.append(f'{number},{"3 4" if number % 3 else "-1"}')
  (tmp_path / 'rle.csv').write_text('\n'.join(rows))
  one, three = (
    dataset.build(
      request(
        tmp_path,
        tmp_path / f'{num_workers}',
        test_dicom_dir=None,
        rle_csv=str(tmp_path / 'rle.csv'),
        num_workers=num_workers,
      )
    )
    for num_workers in (1, 3)
  )
  assert one == three
  assert one['written'] == 100


def test_one_patient_id_for_all_asks_for_a_map(tmp_path):
  for number in range(3):
    dicom_files.write(
      tmp_path / 'train' / f'{number}.dcm',
      dicom_files.film(16, 16, seed=number),
      PatientID='ANONYMOUS',
    )
  (tmp_path / 'train-rle.csv').write_text('0,-1\n1,-1\n2,-1')
  wanted = request(tmp_path, tmp_path / 'siim', test_dicom_dir=None)
  with pytest.raises(UserError, match=r'all 3 films .* --patient_map'):
    dataset.build(wanted)


def test_an_existing_dataset_is_kept(archive, built):
  with pytest.raises(UserError, match='--overwrite'):
    dataset.build(request(archive, built[0]))


@pytest.fixture
def copied(archive, tmp_path):
  """An archive of its own, which a build may destroy."""
  return shutil.copytree(archive, tmp_path / 'copied')


@pytest.mark.parametrize('overwrite', [False, True])
@pytest.mark.parametrize('name', ['train', 'test', 'train-rle.csv', '.'])
def test_raw_data_is_never_replaced(archive, copied, name, overwrite):
  before = sorted(copied.rglob('*'))
  wanted = request(archive, copied / name, overwrite=overwrite)
  with pytest.raises(UserError, match='not a dataset that') as error:
    dataset.build(wanted)
  assert '--overwrite' not in str(error.value)
  assert sorted(copied.rglob('*')) == before


@pytest.mark.parametrize(
  'flag', ['dicom_dir', 'test_dicom_dir', 'rle_csv', 'patient_map']
)
def test_no_input_lies_in_the_output(archive, built, copied, tmp_path, flag):
  output_dir = shutil.copytree(built[0], tmp_path / 'siim')
  for path in copied.iterdir():
    path.rename(output_dir / path.name)
  (tmp_path / 'link').symlink_to(output_dir)
  name = {'dicom_dir': 'train', 'test_dicom_dir': 'test'}.get(
    flag, 'train-rle.csv'
  )
  wanted = request(
    archive,
    output_dir,
    overwrite=True,
    **{flag: str(tmp_path / 'link' / name)},
  )
  with pytest.raises(UserError, match=rf'{name} lies in --output_dir='):
    dataset.build(wanted)
  assert (output_dir / name).exists()


def test_an_empty_folder_is_built_into(archive, built, tmp_path):
  (tmp_path / 'empty').mkdir()
  summary = dataset.build(request(archive, tmp_path / 'empty'))
  assert summary == built[1]


def test_the_first_bad_file_stops_where_wanted(archive, tmp_path):
  wanted = request(archive, tmp_path / 'siim', on_bad_file='fail')
  with pytest.raises(UserError, match=r'\._1\.2\.0.*not_dicom'):
    dataset.build(wanted)
  assert not (tmp_path / 'siim').exists()


def test_nothing_to_learn_from(archive, tmp_path):
  other = tmp_path / 'other.csv'
  other.write_text('ImageId,EncodedPixels\nelsewhere,-1\n')
  wanted = request(archive, tmp_path / 'siim', rle_csv=str(other))
  with pytest.raises(UserError, match=r'ids of the files look like'):
    dataset.build(wanted)
  wanted = request(archive, tmp_path / 'siim', dicom_dir=str(tmp_path / 'no'))
  with pytest.raises(UserError, match='cannot list'):
    dataset.build(wanted)


@pytest.mark.parametrize('mapped', [10, 11])
def test_a_wrong_csv_is_named_with_the_reason(archive, tmp_path, mapped):
  wrong = tmp_path / 'nih_id.csv'
  rows = [f'1.2.{n},0002_{n:03}.png' for n in range(mapped)]
  wrong.write_text('\n'.join(['Kaggle_ID,NIH_ID', *rows]))
  wanted = request(archive, tmp_path / 'siim', rle_csv=str(wrong))
  expected = (
    rf'{mapped + 1} of 12 .* {mapped} as malformed_rle, '
    rf"for example .*1\.2\.0\.dcm: .*'0002_000\.png'.*{wrong}"
  )
  with pytest.raises(UserError, match=expected):
    dataset.build(wanted)


@pytest.mark.parametrize('name', ['film.csv', 'film.csv.gz'])
@pytest.mark.parametrize('flag', ['rle_csv', 'patient_map'])
def test_a_binary_csv_is_named(archive, tmp_path, flag, name):
  path = tmp_path / name
  path.write_bytes(b'\x89PNG\xff')
  wanted = request(archive, tmp_path / 'siim', **{flag: str(path)})
  with pytest.raises(UserError, match=rf'{name} is not a csv file'):
    dataset.build(wanted)
