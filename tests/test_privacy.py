"""No header field and no odd file name gets where it does not belong."""

import os
import shutil

import dicom_files
from output_files import csv_rows, folder_contents

from pnx_jax.formats import dicom
from pnx_jax.inference import journal

# Stand-ins for what no output may hold.
SECRETS = {
  'PatientName': 'Canaryone^Canarytwo',
  'PatientID': 'canary-id',
  'PatientBirthDate': '19010203',
  'InstitutionName': 'Canary Hospital',
  'ReferringPhysicianName': 'Canarythree^Canaryfour',
  'AccessionNumber': 'canaryaccession',
  'StudyDate': '19040506',
  'StudyInstanceUID': '1.2.3.99999.1',
  'SeriesInstanceUID': '1.2.3.99999.2',
  'SOPInstanceUID': '1.2.3.99999.3',
  'PatientComments': 'canary comment',
  'DeviceSerialNumber': 'canary-serial',
}


def test_names_never_become_paths_or_formulas(predict, five_films, tmp_path):
  def copy(source, path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    shutil.copy(five_films / source, path)

  odd = os.fsencode(tmp_path / 'odd')
  names = [
    b'=cmd|calc.dcm',
    b'@sum.dcm',
    b'-1\t\x1b[31m.dcm',
    b'new\nline.dcm',
    b'\xff\xfe.dcm',
    b'...dcm',
    b'"quoted", and, commas.dcm',
    b'same/film.dcm',
    b'other/film.dcm',
    b'x' * 250 + b'.dcm',
    '\u202egnp.dcm'.encode(),
  ]
  for name in names:
    copy('a.dcm', os.path.join(odd, name))
  copy('b.dcm', os.path.join(odd, b'lateral/+plus.dcm'))
  before = folder_contents(five_films)
  predict(tmp_path / 'odd', tmp_path / 'odd' / 'same')
  assert folder_contents(five_films) == before
  out = tmp_path / 'out'
  written = [path for path in out.rglob('*') if path.is_file()]
  for path in written:
    assert path.name.isascii() and path.name.isprintable()
    assert len(path.parts) <= len(out.parts) + 2
  assert len(list((out / 'pictures').iterdir())) == len(names) + 1
  for table in ('worklist.csv', 'masks/masks.csv'):
    text = (out / table).read_bytes().decode()
    assert not [c for c in text if not c.isprintable() and c != '\n']
    cells = csv_rows(out / table)
    assert len(cells) == len(names) + 1
    first = [row.get('image_id') or row['ImageId'] for row in cells]
    assert len(set(first)) == len(names) + (table != 'worklist.csv')
    # masks.csv has the challenge's columns, whose ids are never changed.
    if table == 'worklist.csv':
      assert not [name for name in first if name[0] in '=+-@\t\r']
      assert "'=cmd|calc" in first
  paths = [row['path'] for row in csv_rows(out / 'worklist.csv')]
  assert any(r'\udcff\udcfe.dcm' in path for path in paths)
  # Known again, whatever it is called.
  read = (out / journal.NAME).read_bytes()
  predict(tmp_path / 'odd')
  assert (out / journal.NAME).read_bytes() == read


def test_no_header_field_but_the_allowed_ones_is_written(
  predict, five_films, tmp_path, caplog, capfd
):
  pixels = dicom.read(five_films / 'a.dcm').pixels
  folder = tmp_path / 'secret'
  dicom_files.write(folder / 'good.dcm', pixels, **SECRETS)
  for name, attributes in (
    ('lateral', {'ViewPosition': 'LL'}),
    ('color', {'PhotometricInterpretation': 'RGB'}),
    ('cut', {'Rows': 4000}),
    ('bits', {'BitsAllocated': 12}),
    ('frames', {'NumberOfFrames': 1}),
  ):
    dicom_files.write(folder / f'{name}.dcm', pixels, **SECRETS | attributes)
  # A value that its type does not allow, as exceptions quote it.
  bad = (
    (folder / 'frames.dcm')
    .read_bytes()
    .replace(
      b'\x28\x00\x08\x00IS\x02\x001 ', b'\x28\x00\x08\x00IS\x06\x00Quoted'
    )
  )
  assert b'Quoted' in bad
  (folder / 'frames.dcm').write_bytes(bad)
  with caplog.at_level('DEBUG', 'pnx_jax'):
    readings = predict(folder)
  # That there is one frame shows in the pixel data.
  assessed = sorted(r.image_id for r in readings.values() if r.assessed)
  assert assessed == ['frames', 'good']
  captured = capfd.readouterr()
  written = b'\n'.join(folder_contents(tmp_path / 'out').values())
  said = (caplog.text + captured.out + captured.err).encode()
  for secret in (*SECRETS.values(), 'Quoted'):
    for part in secret.split('^'):
      assert part.encode() not in written + said, part
