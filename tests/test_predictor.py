"""The library against what the evaluation of the same run wrote."""

import csv
import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

import dicom_files
import numpy as np
import pydicom
import pytest

import pnx_jax
from configs import default
from pnx_jax.errors import UserError
from pnx_jax.formats import boxes, dicom, letterbox, rle
from pnx_jax.formats.dicom import UnusableDicom
from pnx_jax.prediction.deployment import Deployment, Member
from pnx_jax.prediction.network import SIZE, Network
from pnx_jax.prediction.postprocess import Postprocess
from pnx_jax.training import run_files, sharding

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope='module')
def predictor(evaluated_run):
  return pnx_jax.load(evaluated_run)


def _film(dataset_dir, image_id):
  films = pathlib.Path(dataset_dir).parent / 'films'
  (path,) = films.rglob(f'{image_id}.dcm')
  return path


def test_masks_are_those_of_the_submission(
  predictor, evaluated_run, dataset_dir
):
  lines = (evaluated_run / 'eval' / 'submission.csv').read_text().split()[1:]
  assert len(lines) == 3
  for line in lines:
    image_id, encoded = line.split(',', 1)
    found = predictor.predict(_film(dataset_dir, image_id))
    assert rle.encode(found.mask) == encoded.strip('"')
    np.testing.assert_array_equal(found.boxes, boxes.boxes(found.mask))


def test_probabilities_are_those_of_the_table(
  predictor, evaluated_run, dataset_dir
):
  folder = evaluated_run / 'eval'
  rules = json.loads((folder / 'postprocess.json').read_text())
  with (folder / 'per_image.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))[:4]
  for row in rows:
    odds = 1 / float(row['probability']) - 1
    expected = 1 / (1 + odds ** (1 / rules['temperature']))
    found = predictor.predict(_film(dataset_dir, row['image_id']))
    assert found.probability == pytest.approx(expected, abs=1e-5)
    reached = {
      point['threshold']: point['name']
      for point in rules['operating_points'][::-1]
      if found.probability >= point['threshold']
    }
    assert found.operating_point == reached.get(max(reached, default=0), '')


def test_a_file_without_a_film_is_refused_with_a_reason(predictor, tmp_path):
  path = tmp_path / 'film.dcm'
  path.write_bytes(b'no film')
  with pytest.raises(UnusableDicom, match='not_dicom'):
    predictor.predict(path)


def test_predictor_and_prediction_are_printed_in_a_few_words(predictor):
  words = repr(predictor)
  assert predictor.ensemble.version in words
  assert predictor.ensemble.rules_version in words
  mask = np.zeros((5, 7), bool)
  mask[1:3, 2:6] = True
  prediction = pnx_jax.Prediction(
    probability=0.25, mask=mask, boxes=boxes.boxes(mask)
  )
  assert 'bool[5, 7] of 8 px, boxes=[[2, 1, 4, 2, 8]]' in repr(prediction)
  refused = pnx_jax.Prediction(reason='turned', detail='by 90 degrees')
  assert "reason='turned'" in repr(refused)


def _same(found, expected):
  assert found.probability == expected.probability
  assert found.operating_point == expected.operating_point
  np.testing.assert_array_equal(found.mask, expected.mask)
  np.testing.assert_array_equal(found.boxes, expected.boxes)
  np.testing.assert_array_equal(found.probs, expected.probs)


def test_probs_lie_on_the_pixels_of_the_film(
  predictor_with_findings, five_films
):
  rule = predictor_with_findings.ensemble.postprocess.rule
  marked = 0
  for path in sorted(five_films.iterdir()):
    found = predictor_with_findings.predict(path)
    assert found.probs.shape == found.mask.shape == (128, 128)
    assert found.probs.dtype == np.float32
    if found.mask.any():
      marked += 1
      np.testing.assert_array_equal(
        found.mask, found.probs > np.float32(rule.bottom)
      )
  assert marked


def test_probs_of_a_wide_film_have_its_shape(predictor):
  film = dicom_files.film(200, 300)
  found = predictor.predict(film, pixel_spacing=(0.2, 0.1))
  assert found.probs.shape == found.mask.shape == (200, 300)
  # A pixel is twice as high as wide: the film is taller than wide.
  square = letterbox.letterbox(found.probs, SIZE, pixel_aspect=2)
  assert not square[:, : SIZE // 10].any() and square[0].any()
  assert (
    abs(square - found.square_probs)[:, SIZE // 4 : -SIZE // 4].max() < 0.02
  )


def test_datasets_and_arrays_are_predicted_like_their_file(
  predictor, five_films
):
  path = five_films / 'a.dcm'
  expected = predictor.predict(path)
  dataset = pydicom.dcmread(path)
  before = dataset.to_json(), dataset.file_meta.to_json()
  _same(predictor.predict(dataset), expected)
  assert (dataset.to_json(), dataset.file_meta.to_json()) == before
  pixels = dicom.read(path).pixels
  _same(predictor.predict(pixels), expected)
  _same(predictor.predict(255 - pixels, photometric='MONOCHROME1'), expected)
  # A dataset made in memory has no transfer syntax.
  made = dicom_files.dataset(pixels)
  del made.file_meta
  _same(predictor.predict(made), expected)


def test_arrays_of_16_bits_are_windowed_like_their_file(predictor, tmp_path):
  stored = dicom_files.film(160, 160).astype(np.uint16) * 12 + 300
  for inverted in (False, True):
    photometric = 'MONOCHROME1' if inverted else 'MONOCHROME2'
    path = dicom_files.write(
      tmp_path / 'film.dcm',
      stored,
      bits=12,
      PhotometricInterpretation=photometric,
    )
    film = dicom.read(path)
    assert film.pixels.min() == 0 and film.pixels.max() == 255
    expected = predictor.predict(film.pixels)
    found = predictor.predict(stored, bits=12, photometric=photometric)
    _same(found, expected)


@pytest.mark.parametrize(
  ('film', 'options', 'message'),
  [
    (np.zeros((9, 9), np.uint16), {}, 'needs bits='),
    (np.zeros((9, 9), np.uint16), {'bits': 17}, 'bits=17: uint16 has 2 to 16'),
    (np.full((9, 9), 4096, np.uint16), {'bits': 12}, '4096, more than 12 bits'),
    (np.zeros((9, 9, 3), np.uint8), {}, r'not uint8\[9, 9, 3\]'),
    (np.zeros((9, 9), np.float32), {}, r'not float32\[9, 9\]'),
    (np.zeros((9, 9), np.uint8), {'photometric': 'RGB'}, 'known are MONOCHR'),
    (np.zeros((9, 9), np.uint8), {'pixel_spacing': (0, 1)}, 'numbers above 0'),
    ('film.dcm', {'bits': 12}, 'are for arrays'),
  ],
)
def test_arrays_that_make_no_sense_are_refused(
  predictor, film, options, message
):
  with pytest.raises(UserError, match=message):
    predictor.predict(film, **options)


def test_arrays_are_screened_where_asked_for(predictor, five_films):
  turned = np.rot90(dicom.read(five_films / 'a.dcm').pixels)
  assert predictor.predict(turned).mask.shape == turned.shape
  with pytest.raises(UnusableDicom, match='turned'):
    predictor.predict(turned, screen=True)
  dataset = dicom_files.dataset(np.ascontiguousarray(turned))
  with pytest.raises(UnusableDicom, match='turned'):
    predictor.predict(dataset)


def test_many_films_are_predicted_in_order(
  predictor_with_findings, five_films, tmp_path
):
  refused = tmp_path / 'refused.dcm'
  refused.write_bytes(b'not a film')
  films = sorted(five_films.iterdir())
  paths = [films[0], str(refused), *films[1:], tmp_path / 'gone.dcm']
  found = list(predictor_with_findings.predict_many(paths, num_workers=2))
  assert [each.reason for each in found] == [
    *('', 'not_dicom', '', '', '', '', 'unreadable')
  ]
  assert found[1].detail and not found[1].mask.size
  assert np.isnan(found[1].probability) and found[1].probs.shape == (0, 0)
  for path, each in zip(paths, found, strict=True):
    if not each.reason:
      alone = predictor_with_findings.predict(path)
      # The last bits may depend on the batch.
      assert each.probability == pytest.approx(alone.probability, abs=1e-6)
      assert np.mean(each.mask != alone.mask) < 0.001
      np.testing.assert_allclose(each.probs, alone.probs, atol=1e-6)
  assert list(predictor_with_findings.predict_many([])) == []


def _copy(run, path, **changes):
  """The run as if it had been evaluated with another deployment."""
  shutil.copytree(run, path)
  deployment = dataclasses.replace(Deployment.load(path), **changes)
  rules = Postprocess.load(path / 'eval' / 'postprocess.json')
  deployment.save(path, path / 'eval', rules)
  return path


def _best_two(run):
  """The steps of a run's two best checkpoints."""
  mesh = sharding.mesh()
  return [
    Network.load(run, 0, image_probability='mean', place=place, mesh=mesh).steps
    for place in (0, 1)
  ]


def test_a_run_that_was_trained_on_is_to_be_evaluated_again(
  evaluated_run, tmp_path
):
  path = _copy(evaluated_run, tmp_path / 'run', steps=[[10**6]])
  with pytest.raises(UserError, match='trained on since it was evaluated'):
    pnx_jax.load(path)


def test_the_version_tells_networks_apart(predictor, evaluated_run, tmp_path):
  same = _copy(evaluated_run, tmp_path / 'same')
  ensemble = predictor.ensemble
  assert pnx_jax.load(same).ensemble.version == ensemble.version
  for name, change in {
    'flip': {'flip': False},
    'scales': {'scales': [1.5]},
    'image_probability': {'image_probability': 'mean'},
    'weights': {'checkpoints': 2, 'steps': _best_two(evaluated_run)},
  }.items():
    path = _copy(evaluated_run, tmp_path / name, **change)
    other = pnx_jax.load(path).ensemble
    assert other.version != ensemble.version
    assert other.rules_version == ensemble.rules_version
  rules = same / 'eval' / 'postprocess.json'
  text = rules.read_text()
  rules.write_text(text.replace('"area": ', '"area": 1'))
  changed = pnx_jax.load(same, accept_edited=True).ensemble
  assert changed.rules_version != ensemble.rules_version


@pytest.fixture
def deployment():
  return Deployment(
    runs=('.', '../other'),
    folds=(0, 2),
    checkpoints=1,
    flip=True,
    scales=(0.75, 1.0),
    window='dicom',
    image_probability='mean',
    steps=((3,), (4,), (5, 6), (7,)),
    data='Trained on films.',
  )


def test_a_deployment_is_read_as_it_was_written(deployment, tmp_path):
  run = tmp_path / 'run'
  for name in ('run', 'other'):
    run_files.write(tmp_path / name, default.get_config(), ['image'])
    for fold in (0, 2):
      checkpoints = tmp_path / name / f'fold{fold}' / 'checkpoints'
      (checkpoints / '1').mkdir(parents=True)
  deployment.save(run, run / 'eval', Postprocess())
  loaded = Deployment.load(run)
  assert loaded.state == 'sealed'
  names = [field.name for field in dataclasses.fields(Deployment)]
  for name in names[:-2]:
    assert getattr(loaded, name) == getattr(deployment, name)
  path = run / 'eval' / 'deployment.json'
  old = json.loads(path.read_text())
  del old['image_probability']  # A file from before there was a choice.
  path.write_text(json.dumps(old))
  loaded = Deployment.load(run, accept_edited=True)
  assert loaded.image_probability == 'presence_head'
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
    (lambda text: text.replace('"flip"', '"flop"'), 'is damaged.*flip'),
    (lambda text: text.replace('"dicom"', '"sun"'), "an unknown window: 'sun'"),
  ],
)
def test_a_damaged_deployment_is_one_line(
  deployment, tmp_path, change, message
):
  for name in ('run', 'other'):
    run_files.write(tmp_path / name, default.get_config(), ['image'])
  run = tmp_path / 'run'
  deployment.save(run, run / 'eval', Postprocess())
  path = run / 'eval' / 'deployment.json'
  path.write_text(change(path.read_text()))
  with pytest.raises(UserError, match=message) as caught:
    Deployment.load(run)
  assert '\n' not in str(caught.value)


def test_a_folder_without_run_or_export_is_one_line(tmp_path):
  with pytest.raises(UserError, match='is not an evaluated run; evaluate it'):
    pnx_jax.load(tmp_path / 'nothing')


def test_damaged_rules_are_one_line(tmp_path):
  path = tmp_path / 'postprocess.json'
  with pytest.raises(UserError, match=r'--mode=eval .* writes it'):
    Postprocess.load(path)
  Postprocess().save(path)
  path.write_text(path.read_text().replace('"rule"', '"role"'))
  with pytest.raises(UserError, match='was changed after it was written'):
    Postprocess.load(path)
  with pytest.raises(UserError, match='is damaged'):
    Postprocess.load(path, accept_edited=True)


def test_importing_the_package_loads_nothing_else():
  code = (
    'import importlib.util, sys, typing; before = set(sys.modules); '
    'import pnx_jax; '
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


def test_the_package_names_what_it_offers():
  assert set(dir(pnx_jax)) == set(pnx_jax.__all__)
  assert isinstance(pnx_jax.load, type(test_the_package_names_what_it_offers))
  assert pnx_jax.Predictor.__name__ == 'Predictor'
  assert (pathlib.Path(pnx_jax.__file__).parent / 'py.typed').exists()
  with pytest.raises(AttributeError, match="'pnx_jax' has no attribute 'lode'"):
    _ = pnx_jax.lode
