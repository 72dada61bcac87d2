"""A trained model as one object, against what its evaluation wrote."""

import csv
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

import pnx_jax
from pnx_jax.errors import UserError
from pnx_jax.formats import boxes, rle
from pnx_jax.formats.dicom import UnusableDicom
from pnx_jax.prediction.deployment import Deployment
from pnx_jax.prediction.ensemble import Member
from pnx_jax.prediction.network import Network
from pnx_jax.prediction.postprocess import Postprocess
from pnx_jax.prediction.predictor import Prediction
from pnx_jax.training import sharding

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope='module')
def model(evaluated_run):
  return pnx_jax.load(evaluated_run)


def _film(dataset_dir, image_id):
  films = pathlib.Path(dataset_dir).parent / 'films'
  (path,) = films.rglob(f'{image_id}.dcm')
  return path


def test_masks_are_those_of_the_submission(model, evaluated_run, dataset_dir):
  lines = (evaluated_run / 'eval' / 'submission.csv').read_text().split()[1:]
  assert len(lines) == 3
  for line in lines:
    image_id, encoded = line.split(',', 1)
    found = model.predict(_film(dataset_dir, image_id))
    assert rle.encode(found.mask) == encoded.strip('"')
    np.testing.assert_array_equal(found.boxes, boxes.boxes(found.mask))


def test_probabilities_are_those_of_the_table(
  model, evaluated_run, dataset_dir
):
  folder = evaluated_run / 'eval'
  rules = json.loads((folder / 'postprocess.json').read_text())
  with (folder / 'per_image.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))[:4]
  for row in rows:
    odds = 1 / float(row['probability']) - 1
    expected = 1 / (1 + odds ** (1 / rules['temperature']))
    found = model.predict(_film(dataset_dir, row['image_id']))
    assert found.probability == pytest.approx(expected, abs=1e-5)
    reached = {
      point['threshold']: point['name']
      for point in rules['operating_points'][::-1]
      if found.probability >= point['threshold']
    }
    assert found.operating_point == reached.get(max(reached, default=0), '')


def test_a_file_without_a_film_is_refused_with_a_reason(model, tmp_path):
  path = tmp_path / 'film.dcm'
  path.write_bytes(b'no film')
  with pytest.raises(UnusableDicom, match='not_dicom'):
    model.predict(path)


def test_it_is_printed_in_a_few_words(model):
  assert model.version in repr(model) and model.rules_version in repr(model)
  mask = np.zeros((5, 7), bool)
  mask[1:3, 2:6] = True
  words = repr(Prediction(0.25, 'specificity 90%', mask, boxes.boxes(mask)))
  assert 'bool[5, 7] of 8 px, boxes=[[2, 1, 4, 2, 8]]' in words


def _copy(run, path, **changes):
  """The run with another deployment.json."""
  shutil.copytree(run, path)
  file = path / 'eval' / 'deployment.json'
  file.write_text(json.dumps(json.loads(file.read_text()) | changes))
  return path


def _best_two(run):
  """The steps of a run's two best checkpoints."""
  members = [Member(str(run), 0, place) for place in (0, 1)]
  return [Network.load(one, sharding.mesh()).steps for one in members]


def test_a_run_that_was_trained_on_is_to_be_evaluated_again(
  evaluated_run, tmp_path
):
  path = _copy(evaluated_run, tmp_path / 'run', steps=[[10**6]])
  with pytest.raises(UserError, match='trained on since it was evaluated'):
    pnx_jax.load(path)


def test_the_version_tells_models_apart(model, evaluated_run, tmp_path):
  same = _copy(evaluated_run, tmp_path / 'same')
  assert pnx_jax.load(same).version == model.version
  for name, change in {
    'flip': {'flip': False},
    'scales': {'scales': [1.5]},
    'weights': {'checkpoints': 2, 'steps': _best_two(evaluated_run)},
  }.items():
    other = pnx_jax.load(_copy(evaluated_run, tmp_path / name, **change))
    assert other.version != model.version
    assert other.rules_version == model.rules_version
  rules = same / 'eval' / 'postprocess.json'
  text = rules.read_text()
  rules.write_text(text.replace('"area": ', '"area": 1'))
  assert pnx_jax.load(same).rules_version != model.rules_version


@pytest.fixture
def deployment():
  return Deployment(
    runs=('.', '../other'),
    folds=(0, 2),
    checkpoints=1,
    flip=True,
    scales=(0.75, 1.0),
    window='dicom',
    steps=((3,), (4,), (5, 6), (7,)),
    data='Trained on films.',
  )


def test_a_deployment_is_read_as_it_was_written(deployment, tmp_path):
  run = tmp_path / 'run'
  (run / 'eval').mkdir(parents=True)
  deployment.save(run)
  assert Deployment.load(run) == deployment
  for name in ('run', 'other'):
    for fold in (0, 2):
      checkpoints = tmp_path / name / f'fold{fold}' / 'checkpoints'
      (checkpoints / '1').mkdir(parents=True)
  assert deployment.members(run) == [
    Member(str(tmp_path / name), fold)
    for name in ('run', 'other')
    for fold in (0, 2)
  ]
  shutil.rmtree(tmp_path / 'other')
  with pytest.raises(UserError, match='other has no checkpoint of fold 0'):
    deployment.members(run)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda text: text[:40], 'is damaged'),
    (lambda text: '[]', 'is damaged'),
    (lambda text: text.replace('"flip"', '"flop"'), 'is damaged.*flop'),
    (lambda text: text.replace('"dicom"', '"sun"'), "no known window: 'sun'"),
  ],
)
def test_a_damaged_deployment_is_one_line(
  deployment, tmp_path, change, message
):
  (tmp_path / 'eval').mkdir()
  deployment.save(tmp_path)
  path = tmp_path / 'eval' / 'deployment.json'
  path.write_text(change(path.read_text()))
  with pytest.raises(UserError, match=message) as caught:
    Deployment.load(tmp_path)
  assert '\n' not in str(caught.value)


def test_a_folder_that_is_no_model_is_one_line(tmp_path):
  with pytest.raises(UserError, match='is no evaluated run; evaluate it'):
    pnx_jax.load(tmp_path / 'nothing')


def test_damaged_rules_are_one_line(tmp_path):
  path = tmp_path / 'postprocess.json'
  with pytest.raises(UserError, match=r'--mode=eval .* writes it'):
    Postprocess.load(path)
  Postprocess().save(path)
  path.write_text(path.read_text().replace('"rule"', '"role"'))
  with pytest.raises(UserError, match='is damaged'):
    Postprocess.load(path)


def test_importing_the_package_loads_nothing_else():
  code = (
    'import sys; before = set(sys.modules); import pnx_jax; '
    'print(*(set(sys.modules) - before))'
  )
  found = subprocess.run(
    [sys.executable, '-c', code],
    check=True,
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert found.stdout.split() == ['pnx_jax']
