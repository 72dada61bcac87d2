import pathlib
import random
import subprocess
import sys

import numpy as np
import pytest

from data_prep import fold_audit, folds, grouping
from pnx_jax.formats import rle


def population(patients=300, seed=0):
  """Images of patients with one to six films, a fifth of them ill."""
  random_state = np.random.default_rng(seed)
  images = []
  for patient in range(patients):
    ill = random_state.random() < 0.3
    for film in range(random_state.integers(1, 7)):
      area = random_state.random() if ill and random_state.random() < 0.7 else 0
      images.append(folds.Image(f'{patient}-{film}', patient, area))
  return images


def test_no_patient_is_in_two_folds_and_folds_are_alike():
  images = population()
  fold = folds.assign(images, 5)
  of_patient = {}
  for image in images:
    of_patient.setdefault(image.group, set()).add(fold[image.image_id])
  assert all(len(found) == 1 for found in of_patient.values())
  sizes = np.bincount(list(fold.values()))
  assert np.ptp(sizes) <= 2
  areas = [[i.area for i in images if fold[i.image_id] == k] for k in range(5)]
  positive = [np.mean(np.array(area) > 0) for area in areas]
  assert np.ptp(positive) < 0.01
  medians = [np.median([a for a in area if a]) for area in areas]
  assert np.ptp(medians) < 0.1


def test_folds_follow_the_seed_and_not_the_order():
  images = population(60)
  fold = folds.assign(images, 4, seed=3)
  shuffled = images.copy()
  random.Random(0).shuffle(shuffled)
  assert folds.assign(shuffled, 4, seed=3) == fold
  assert folds.assign(images, 4, seed=4) != fold


def test_too_few_patients():
  images = [folds.Image(str(i), i // 4, 0) for i in range(12)]
  with pytest.raises(ValueError, match='3: lower --num_folds'):
    folds.assign(images, 5)


def test_groups_are_joined_where_images_are_alike():
  number = {'a': 0, 'b': 0, 'c': 1, 'd': 2, 'e': 3, 'f': 4}
  joined = grouping.merged(number, [['c', 'd'], ['b', 'd'], ['e']])
  groups = {}
  for image_id, group in joined.items():
    groups.setdefault(group, []).append(image_id)
  assert sorted(groups.values()) == [['a', 'b', 'c', 'd'], ['e'], ['f']]
  assert grouping.merged({}, []) == {}


def test_joining_groups_does_not_take_the_square_of_their_number():
  number = {str(n): n for n in range(40_000)}
  pairs = [[str(n), str(n + 1)] for n in range(0, 40_000, 2)]
  # One by one these 20,000 pairs would take minutes.
  assert len(set(grouping.merged(number, pairs).values())) == 20_000


def test_audit_counts_shared_patients():
  fold = {'a': 0, 'b': 1, 'c': 0, 'd': 1, 'e': 1}
  label = {'a': 1, 'b': 1, 'c': 0, 'd': 0, 'e': 1}
  patient = {'a': 'x', 'b': 'x', 'c': 'y', 'd': 'z', 'e': 'w'}
  result = fold_audit.audit(fold, label, patient)
  assert result.images == 5
  assert result.positives == 3
  assert result.shared == 2 / 5
  assert result.shared_positive == 2 / 3


def test_patient_map(tmp_path):
  path = tmp_path / 'map.csv'
  path.write_text(
    'Kaggle_ID,NIH_ID\na,00002563_000.png\nb,00002563_011.png\nc,Miller_1\n'
  )
  assert folds.read_patient_map(path) == {
    'a': '00002563',
    'b': '00002563',
    'c': 'Miller_1',
  }
  path.write_text('a,1\nb,2\na,1\nb,3\n')
  with pytest.raises(ValueError, match='line 4: b has two patients, 2 and 3'):
    folds.read_patient_map(path)
  path.write_text('a,1\nb\n')
  with pytest.raises(ValueError, match='line 2'):
    folds.read_patient_map(path)


@pytest.mark.parametrize(
  'text',
  ['ImageId, EncodedPixels\na,7\n', 'a,-1\n', 'a, 12 3 4 5\n', 'a,7\nb,1 2\n'],
)
def test_masks_are_no_patients(tmp_path, text):
  path = tmp_path / 'train-rle.csv'
  path.write_text(text)
  with pytest.raises(ValueError, match=r'train-rle.*mask.*--patient_map'):
    folds.read_patient_map(path)


def run_audit(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'data_prep.folds', *arguments],
    cwd=pathlib.Path(__file__).parents[1],
    capture_output=True,
    text=True,
    check=False,
  )


def test_audit_command(tmp_path):
  table = tmp_path / 'folds.csv'
  table.write_text('image_id,fold\na,0\nb,1\nc,0\nnobody,1\n')
  labels = tmp_path / 'rle.csv'
  labels.write_text('ImageId,EncodedPixels\na,1 1\nb,-1\nc,-1\n')
  patients = tmp_path / 'map.csv'
  patients.write_text('a,x\nb,x\nc,y\n')
  done = run_audit(
    f'--audit={table}', f'--rle_csv={labels}', f'--patient_map={patients}'
  )
  assert done.returncode == 0, done.stderr
  assert '3 images (1 positive) in 2 folds; 1 left out' in done.stdout
  assert '66.7% of images' in done.stdout
  assert 'do NOT keep patients apart' in done.stdout
  failed = run_audit(
    f'--audit={tmp_path}/no.csv',
    f'--rle_csv={labels}',
    f'--patient_map={patients}',
  )
  assert failed.returncode == 2
  assert failed.stderr.startswith('error: ')
  assert len(failed.stderr.splitlines()) == 1


@pytest.fixture(scope='module')
def real(real_data):
  labels = real_data / 'labels'
  annotations = rle.read_csv(labels / 'train-rle.csv.gz')
  patients = folds.read_patient_map(labels / 'nih_id.csv.gz')
  return annotations, patients


def test_folds_of_the_real_labels(real):
  annotations, patients = real
  images = [
    folds.Image(
      i, patients[i], sum(int(n) for r in rows for n in r.split()[1::2])
    )
    for i, rows in annotations.items()
  ]
  fold = folds.assign(images, 5)
  assert len(fold) == 12047
  label = {i: int(bool(rows)) for i, rows in annotations.items()}
  result = fold_audit.audit(fold, label, patients)
  assert result.shared == 0
  assert result.lookup_auc < 0.55
  number = np.array([fold[i] for i in annotations])
  positive = np.array([label[i] for i in annotations])
  assert np.ptp(np.bincount(number)) <= 2
  shares = [positive[number == k].mean() for k in range(5)]
  assert np.ptp(shares) <= 0.002


@pytest.mark.parametrize('seed', [0, 1])
def test_audit_of_image_level_folds_of_the_real_labels(real, seed):
  annotations, patients = real
  ids = sorted(annotations)
  number = np.random.default_rng(seed).permutation(len(ids)) % 5
  label = {i: int(bool(annotations[i])) for i in ids}
  result = fold_audit.audit(
    dict(zip(ids, number, strict=True)), label, patients
  )
  assert 0.60 <= result.shared <= 0.63
  assert 0.93 <= result.shared_positive <= 0.955
  assert result.lookup_auc == pytest.approx(0.84, abs=0.01)
