"""Which files a build finds, and which of them are copies."""

import io
import os

import cv2
import dicom_files
import numpy as np
import pytest
from PIL import Image

from data_prep import batches, entries, near_duplicates
from pnx_jax.errors import UserError
from pnx_jax.formats import dicom


def test_files_are_found_by_name_or_by_mark(tmp_path):
  film = dicom_files.film()
  dicom_files.write(tmp_path / 'a' / 'b' / '1.2.3.dcm', film)
  dicom_files.write(tmp_path / 'UPPER.DCM', film)
  dicom_files.write(tmp_path / 'DICOM' / '1.2.4', film)
  (tmp_path / '._1.2.3.dcm').write_bytes(b'junk')
  (tmp_path / 'notes.txt').write_text('no film')
  found = entries.find(tmp_path, entries.TRAIN, {'1.2.4': ['1 2'], 'UPPER': []})
  assert {source.image_id: source.rles for source in found} == {
    '1.2.3': None,
    '1.2.4': ('1 2',),
    'UPPER': (),
    '._1.2.3': None,
  }


def test_a_csv_of_other_films_is_refused_before_any_work(tmp_path):
  dicom_files.write(tmp_path / '1.2.3.dcm', dicom_files.film())
  annotations = {'0004d4463b50': ['1 2']}
  found = entries.find(tmp_path, entries.TRAIN, annotations)
  entries.check_named(found, {'1.2.3': []}, 'theirs.csv')
  with pytest.raises(UserError, match=r'no row of other.csv.*like 1\.2\.3'):
    entries.check_named(found, annotations, 'other.csv')


def test_odd_entries_neither_stop_nor_hide_anything(tmp_path):
  film = dicom_files.film()
  folder = tmp_path / 'films'
  dicom_files.write(folder / 'a.dcm', film)
  dicom_files.write(tmp_path / 'elsewhere' / 'b.dcm', film)
  (folder / 'linked').symlink_to(tmp_path / 'elsewhere')
  (folder / 'loop').symlink_to(folder)
  os.mkfifo(folder / 'pipe')
  os.mkfifo(folder / 'pipe.dcm')
  (folder / 'gone.dcm').symlink_to(tmp_path / 'nowhere')
  (folder / 'deep').mkdir()
  (folder / 'deep' / 'a.dcm').symlink_to(tmp_path / 'nowhere')
  found = entries.find(folder, entries.TRAIN, {})
  names = sorted(os.path.relpath(source.path, folder) for source in found)
  assert names == [
    'a.dcm',
    'deep/a.dcm',
    'gone.dcm',
    'linked/b.dcm',
    'pipe.dcm',
  ]
  kept, rejected = entries.without_duplicates(found)
  assert [(r.path, r.reason) for r in rejected] == [
    (str(folder / 'deep' / 'a.dcm'), 'unreadable')
  ]
  assert len(kept) == 4
  for name in ('pipe.dcm', 'gone.dcm'):
    assert (
      batches._identity(entries.Entry(str(folder / name), name, entries.TRAIN))
      is not None
    )
    with pytest.raises(dicom.UnusableDicom, match='unreadable'):
      dicom.read(folder / name)


def test_kaggle_sample(real_data):
  found = entries.find(real_data / 'kaggle_sample', entries.TRAIN, {})
  assert len(found) == 20
  assert sum(s.image_id.startswith('._') for s in found) == 10


def test_of_equal_copies_one_stays_and_of_different_ones_none(tmp_path):
  film = dicom_files.film()
  for folder in ('a', 'b'):
    dicom_files.write(tmp_path / folder / 'same.dcm', film)
    dicom_files.write(tmp_path / folder / 'other.dcm', film, PatientID=folder)
  dicom_files.write(tmp_path / 'alone.dcm', film)
  found = entries.find(tmp_path, entries.TRAIN, {})
  kept, rejected = entries.without_duplicates(found)
  assert [source.path for source in kept] == [
    str(tmp_path / 'a' / 'same.dcm'),
    str(tmp_path / 'alone.dcm'),
  ]
  assert {r.reason for r in rejected} == {'duplicate'}
  details = sorted((r.image_id, r.detail) for r in rejected)
  assert details == [
    ('other', '2 different files have this id'),
    ('other', '2 different files have this id'),
    ('same', f'copy of {tmp_path / "a" / "same.dcm"}'),
  ]


def recompressed(film):
  buffer = io.BytesIO()
  Image.fromarray(film).save(buffer, 'JPEG', quality=50)
  return np.asarray(Image.open(buffer))


@pytest.mark.parametrize(
  'copy',
  [
    recompressed,
    lambda film: cv2.resize(film, (128, 128), interpolation=cv2.INTER_AREA),
    lambda film: (255 * (film / 255) ** 1.1).astype(np.uint8),
    lambda film: np.clip(film * 0.9 + 12, 0, 255).astype(np.uint8),
  ],
)
def test_altered_copies_are_found(real_data, copy):
  paths = sorted((real_data / 'siim').rglob('*.dcm'))[:20]
  films = {path.stem: dicom.read(path).pixels for path in paths}
  prints = {
    name: near_duplicates.fingerprint(film) for name, film in films.items()
  }
  name = paths[7].stem
  prints['zz copy'] = near_duplicates.fingerprint(copy(films[name]))
  assert near_duplicates.near_duplicates(prints) == [[name, 'zz copy']]


def test_groups_of_near_duplicates_agree_with_brute_force():
  random_state = np.random.default_rng(0)
  bits = random_state.random((300, 1024)) < 0.5
  for original, copy in ((0, 150), (150, 299), (7, 8)):
    bits[copy] = bits[original] ^ (random_state.random(1024) < 0.04)
  prints = {
    f'{number:03}': np.packbits(row).tobytes()
    for number, row in enumerate(bits)
  }
  distance = (bits[:, None] != bits[None]).sum(-1)
  close = {(i, j) for i, j in np.argwhere(distance <= 150) if i < j}
  assert close == {(0, 150), (150, 299), (0, 299), (7, 8)}
  assert near_duplicates.near_duplicates(prints) == [
    ['000', '150', '299'],
    ['007', '008'],
  ]
  assert near_duplicates.near_duplicates({}) == []
