"""The metadata table against headers written here; what it must not hold."""

import csv
import subprocess
import sys

import dicom_files
import numpy as np
import pydicom
import pytest
from pyarrow import parquet

from data_prep import metadata

SECRETS = {
  'PatientName': 'Secret^Name',
  'PatientID': 'SECRETID',
  'PatientBirthDate': '19701231',
  'AccessionNumber': 'SECRETACC',
  'InstitutionName': 'Secret Hospital',
  'ReferringPhysicianName': 'Secret^Doctor',
  'StudyDescription': 'Secret study',
  'StudyDate': '20191231',
  'DeviceSerialNumber': 'SECRET0815',
}


@pytest.fixture
def folder(tmp_path):
  films = tmp_path / 'films'
  (films / 'deep' / 'er').mkdir(parents=True)

  def save(name, pixels, **attributes):
    made = dicom_files.dataset(pixels, **SECRETS, **attributes)
    made.save_as(films / name, enforce_file_format=True)

  save('deep/er/b.dcm', dicom_files.film(20, 30), Manufacturer='Acme')
  save(
    'a.dcm',
    dicom_files.film().astype(np.uint16),
    bits=12,
    PatientAge='69',
    PatientSex=None,
    PixelSpacing=None,
    ImagerPixelSpacing=[10.5, 10],
    Modality='DX',
    ViewPosition='AP',
  )
  (films / 'no.dcm').write_bytes(b'\0' * 300)
  return films


def command(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'data_prep.metadata', *arguments],
    capture_output=True,
    text=True,
  )


def test_table_of_headers(folder, tmp_path):
  output = tmp_path / 'meta.csv'
  done = command(f'--dicom_dir={folder}', f'--output={output}')
  assert done.returncode == 0, done.stderr
  assert '2 radiographs' in done.stdout
  assert 'not_dicom: 1' in done.stdout
  with open(output) as file:
    first, second = csv.DictReader(file)
  assert first == {
    'image_id': 'a', 'view': 'AP', 'sex': '', 'age': '69',
    'height': '32', 'width': '32', 'spacing_row_mm': '10.5',
    'spacing_column_mm': '10.0', 'spacing_plane': 'detector',
    'bits_stored': '12', 'photometric': 'MONOCHROME2',
    'transfer_syntax': '1.2.840.10008.1.2.1', 'modality': 'DX',
    'body_part': 'CHEST', 'manufacturer': '',
  }  # fmt: skip
  assert (second['image_id'], second['manufacturer']) == ('b', 'Acme')
  assert (second['height'], second['width']) == ('20', '30')
  # 4 x 6 mm: the spacing cannot be that of these pixels.
  assert second['spacing_plane'] == 'implausible'
  assert second['spacing_row_mm'] == '-1.0'


def test_nothing_that_identifies_anybody(folder, tmp_path):
  for ending in ('csv', 'parquet'):
    output = tmp_path / f'meta.{ending}'
    table, _ = metadata.read_folder(str(folder), str(output), 1)
    metadata.write(table, output)
    written = output.read_bytes()
    for secret in SECRETS.values():
      assert secret.encode() not in written


def test_parquet_holds_the_same_with_types(folder, tmp_path):
  output = tmp_path / 'meta.parquet'
  table, unread = metadata.read_folder(str(folder), str(output), 1)
  metadata.write(table, output)
  read = parquet.read_table(output)
  assert read.column_names == list(metadata.Row._fields)
  assert [tuple(row.values()) for row in read.to_pylist()] == table
  assert [item.reason for item in unread] == ['not_dicom']


def test_processes_give_the_same_rows(folder, monkeypatch):
  monkeypatch.setattr(metadata, '_BATCH', 1)
  paths = [str(path) for path in sorted(folder.rglob('*.dcm'))] * 3
  alone = sorted(metadata.rows(paths, 1), key=str)
  assert sorted(metadata.rows(paths, 2), key=str) == alone


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('--dicom_dir=none', '--output=a.csv'), 'none is not a folder'),
    (('--dicom_dir=.', '--output=a.xls'), 'end it in .csv or .parquet'),
  ],
)
def test_mistakes_are_one_line(arguments, message):
  done = command(*arguments)
  assert done.returncode == 2
  assert message in done.stderr
  assert done.stderr.count('\n') == 1


def test_real_headers(real_data):
  folder = real_data / 'siim' / 'dicom-images-train'
  table, unread = metadata.read_folder(str(folder), 'a.csv', 1)
  assert (len(table), unread) == (68, [])
  path = next(folder.rglob(f'{table[0].image_id}.dcm'))
  header = pydicom.dcmread(path, stop_before_pixels=True)
  assert table[0].age == int(header.PatientAge)
  assert table[0].view == header.ViewPosition
  # That of the original detector: 1,024 pixels would be 172 mm.
  assert header.PixelSpacing[0] == 0.168
  assert table[0].spacing_plane == 'implausible'
  planes = [row.spacing_plane for row in table]
  assert planes.count('implausible') > planes.count('patient')
