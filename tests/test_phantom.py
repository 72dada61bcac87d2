"""Phantoms against the challenge's statistics, layout and file format."""

import collections
import csv
import hashlib
import json
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pydicom
import pytest

from data_prep.phantom import air, anatomy, film, generate
from pnx_jax.errors import UserError
from pnx_jax.formats import dicom, rle

REQUEST = generate.PhantomSet(
  num_images=10, num_test_images=2, prevalence=0.5, seed=3, image_size=128
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('phantom') / 'films'
  generate.write(REQUEST, folder, num_workers=1)
  return folder


def digests(folder):
  return {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).digest()
    for path in pathlib.Path(folder).rglob('*')
    if path.is_file()
  }


def test_layout_and_tables_are_the_challenges(folder):
  train = list(folder.glob('dicom-images-train/*/*/*.dcm'))
  test = list(folder.glob('dicom-images-test/*/*/*.dcm'))
  assert (len(train), len(test)) == (10, 2)
  lines = (folder / 'train-rle.csv').read_text().splitlines()
  assert lines[0] == 'ImageId, EncodedPixels'
  assert all(line.partition(',')[2].startswith(' ') for line in lines)
  annotations = rle.read_csv(folder / 'train-rle.csv')
  assert set(annotations) == {path.stem for path in train}
  assert sum(map(bool, annotations.values())) == 5
  patients = (folder / 'nih_id.csv').read_text().splitlines()
  assert patients[0] == 'Kaggle_ID,NIH_ID'
  assert {line.split(',')[0] for line in patients[1:]} == set(annotations)
  names = [line.split(',')[1] for line in patients[1:]]
  assert len(set(names)) == len(names)
  # No patient of another set, or of ChestX-ray14, has the number of one here.
  assert {name[:3] for name in names} == {'103'}
  assert json.loads((folder / 'phantom.json').read_text())['seed'] == 3


def test_files_are_jpeg_baseline_radiographs(folder):
  path = next(folder.glob('dicom-images-train/*/*/*.dcm'))
  dataset = pydicom.dcmread(path)
  assert path.parts[-4:] == (
    'dicom-images-train',
    dataset.StudyInstanceUID,
    dataset.SeriesInstanceUID,
    f'{dataset.SOPInstanceUID}.dcm',
  )
  assert dataset.file_meta.TransferSyntaxUID == '1.2.840.10008.1.2.4.50'
  assert dataset.Modality == 'CR'
  assert dataset.PatientAge.isdecimal()
  film = dicom.read(path)
  assert film.pixels.shape == (128, 128)
  assert np.ptp(film.pixels) > 100
  assert film.header.view in ('PA', 'AP')


def test_annotations_are_the_drawn_pneumothorax(folder):
  annotations = rle.read_csv(folder / 'train-rle.csv')
  by_area = collections.Counter(
    int(rle.union(rows, 128, 128).sum()) for rows in annotations.values()
  )
  drawn = collections.Counter(
    int(
      np.any([np.zeros((128, 128)), *generate.draw(job, REQUEST)[1]], 0).sum()
    )
    for job in generate.plan(REQUEST)[:10]
  )
  assert by_area == drawn


@pytest.mark.parametrize('num_workers', [1, 2])
def test_same_seed_same_bytes(folder, tmp_path, num_workers):
  command = [sys.executable, '-m', 'data_prep.phantom']
  command += [f'--{name}={value}' for name, value in REQUEST._asdict().items()]
  command += [f'--output_dir={tmp_path}/b', f'--num_workers={num_workers}']
  subprocess.run(command, check=True, capture_output=True)
  assert digests(tmp_path / 'b') == digests(folder)


def test_another_seed_draws_others(folder):
  other = REQUEST._replace(seed=4)
  first, second = (
    generate.draw(generate.plan(request)[0], request)[0]
    for request in (REQUEST, other)
  )
  assert np.mean(first != second) > 0.5


def test_its_own_folder_is_replaced_and_no_other(tmp_path):
  small = REQUEST._replace(num_images=1, num_test_images=0, image_size=64)
  generate.write(small, tmp_path / 'films', num_workers=1)
  generate.write(small._replace(seed=5), tmp_path / 'films', num_workers=1)
  assert len(list(tmp_path.glob('films/*/*/*/*.dcm'))) == 1
  (tmp_path / 'theses').mkdir()
  (tmp_path / 'theses' / 'mine.txt').touch()
  with pytest.raises(UserError, match='not made by'):
    generate.write(small, tmp_path / 'theses', num_workers=1)
  assert (tmp_path / 'theses' / 'mine.txt').exists()


@pytest.mark.parametrize(
  ('field', 'value'), [('prevalence', 1.2), ('image_size', 100)]
)
def test_impossible_requests_name_the_flag(field, value):
  with pytest.raises(UserError, match=f'--{field}={value}'):
    generate.plan(REQUEST._replace(**{field: value}))


def drawn_masks(count, size):
  request = generate.PhantomSet(count, 0, 1.0, 0, size)
  for job in generate.plan(request):
    patient = anatomy.Patient.draw((0, 1, job.patient))
    random = np.random.default_rng((0, 2, job.number))
    pose = anatomy.Pose.draw(patient, size, random)
    yield air.draw(patient, pose, job.rank, random)


def test_masks_are_distributed_like_real_ones():
  areas, upper, several, overlapping = [], [], [], []
  for drawn in drawn_masks(400, 1024):
    mask = np.any(drawn.rows, axis=0)
    areas.append(mask.sum())
    upper.append(np.nonzero(mask)[0].mean() < 512)
    several.append(len(drawn.rows) > 1)
    overlapping.append(sum(row.sum() for row in drawn.rows) > mask.sum())
  found = np.percentile(areas, [5, 25, 50, 75, 95])
  real = [1364, 4059, 8630, 18388, 45772]
  np.testing.assert_allclose(found, real, rtol=0.1)
  assert abs(np.mean(upper) - 0.86) < 0.06
  assert abs(np.mean(several) - 624 / 2669) < 0.06
  assert abs(np.mean(overlapping) - 183 / 2669) < 0.04


def test_patients_are_distributed_like_real_ones():
  jobs = generate.plan(generate.PhantomSet(12047, 0, 0.2215, 0, 1024))
  images = collections.Counter(job.patient for job in jobs)
  positive = {job.patient for job in jobs if job.rank is not None}
  assert 4500 < len(images) < 7500  # 6,171 in truth
  assert 500 < len(positive) < 1100  # 802
  assert max(images.values()) > 20  # 61


def test_test_images_are_of_other_patients():
  jobs = generate.plan(REQUEST)
  train, test = (
    {job.patient for job in jobs if job.folder.endswith(part)}
    for part in ('train', 'test')
  )
  assert train and test and not train & test


def test_air_is_dark():
  """Against the same film drawn without the pneumothorax."""
  darker = []
  for job in generate.plan(generate.PhantomSet(8, 0, 1.0, 0, 512)):
    patient = anatomy.Patient.draw((0, 1, job.patient))
    random = np.random.default_rng(0)
    pose = anatomy.Pose.draw(patient, 512, random)
    lost = air.draw(patient, pose, job.rank, random)
    with_air, without = (
      film.render(patient, pose, what, np.random.default_rng(9))
      for what in (lost, None)
    )
    inner = cv2.erode(lost.mask_u8, np.ones((3, 3))) > 0
    darker.append(without[inner].mean() - with_air[inner].mean())
  assert min(darker) > 5


def test_drains_are_listed_and_drawn(folder):
  with (folder / 'drains.csv').open(newline='') as file:
    drains = {row['image_id']: row['drain'] for row in csv.DictReader(file)}
  assert set(drains) > set(rle.read_csv(folder / 'train-rle.csv'))
  assert set(drains.values()) <= {'yes', 'no'}
  request = REQUEST._replace(drain_with_air=1.0, drain_without_air=1.0)
  jobs = generate.plan(REQUEST)
  for job in jobs[:4]:
    before, after = (generate.draw(job, each)[0] for each in (REQUEST, request))
    has = generate.has_drain(job, REQUEST)
    assert np.array_equal(before, after) == has


def test_shares_of_drains_are_those_asked_for():
  request = generate.PhantomSet(
    4000, 0, 0.5, 0, 64, drain_with_air=0.9, drain_without_air=0.05
  )
  jobs = generate.plan(request)
  for ill, share in ((True, 0.9), (False, 0.05)):
    drained = [
      generate.has_drain(job, request)
      for job in jobs
      if (job.rank is not None) == ill
    ]
    assert np.mean(drained) == pytest.approx(share, abs=0.02)
  with pytest.raises(UserError, match='drain_with_air'):
    generate.plan(request._replace(drain_with_air=1.2))
