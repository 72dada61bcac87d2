"""Predictions of other programs, and submissions of another size."""

import csv
import dataclasses
import json
import shutil

import cv2
import dicom_files
import numpy as np
import pytest
import small_run

from pnx_jax.errors import UserError
from pnx_jax.evaluation import evaluate as evaluation
from pnx_jax.evaluation.dataset_predictor import DatasetPredictor
from pnx_jax.evaluation.stored_predictions import StoredPredictions
from pnx_jax.formats import letterbox, rle, schema
from pnx_jax.input import pipeline
from pnx_jax.metrics.rules import Rule
from pnx_jax.prediction import deployment
from pnx_jax.prediction.ensemble import Ensemble
from pnx_jax.prediction.postprocess import Postprocess


def in_16_bits(probs):
  return np.round(probs * np.float32(65535)).astype(np.uint16)


class Rounded(Ensemble):
  """The probabilities as they are stored."""

  def means(self, batches):
    for batch, mean in super().means(batches):
      steps = in_16_bits(np.asarray(mean['probs']))
      yield batch, mean | {'probs': steps.astype(np.float32) / 65535}


@pytest.fixture(scope='module')
def predictions(evaluated_run, dataset_dir, tmp_path_factory):
  """What the small run predicts of all folds, as another program's files."""
  folder = tmp_path_factory.mktemp('predictions')
  predictor = DatasetPredictor(
    deployment.load(evaluated_run), pipeline.Loader(batch_size=8)
  )
  for fold in pipeline.folds(dataset_dir):
    dataset = pipeline.Dataset(dataset_dir, [fold])
    rows = []
    for record, (probs, probability) in zip(
      dataset.records, predictor.probabilities(dataset), strict=True
    ):
      picture = in_16_bits(probs)
      cv2.imwrite(str(folder / f'{record.image_id}.png'), picture)
      rows.append((record.image_id, probability))
    with (folder / f'{fold}.csv').open('w', newline='') as file:
      csv.writer(file).writerows([('image_id', 'probability'), *rows])
  return folder


def test_stored_predictions_score_like_the_network_that_made_them(
  predictions, evaluated_run, dataset_dir
):
  ensemble = Rounded(**vars(deployment.load(evaluated_run)))
  predictor = DatasetPredictor(ensemble, pipeline.Loader(batch_size=8))
  dataset = pipeline.Dataset(dataset_dir, ['fold1'])
  wanted = predictor.statistics(dataset)
  found = StoredPredictions(predictions).statistics(dataset)
  assert found.keys() == wanted.keys()
  for name in ('truth_area', 'predicted_area', 'intersection'):
    np.testing.assert_array_equal(found[name], wanted[name])
  assert found['intersection'].any()
  np.testing.assert_allclose(
    found['probability'], wanted['probability'], atol=1e-6
  )


def test_evaluation_of_predictions_needs_no_network(
  predictions, dataset_dir, tmp_path
):
  changes = {
    'eval.predictions': str(predictions),
    'eval.bootstrap': 20,
    'eval.num_overlays': 1,
    'image_size': 512,  # More than is stored; for the pictures it is lowered.
  }
  metrics = evaluation.evaluate(
    small_run.config(dataset_dir, **changes), tmp_path / 'other'
  )
  folder = tmp_path / 'other' / 'eval'
  assert json.loads((folder / 'metrics.json').read_text()) == metrics
  assert metrics['num_images'] == 60
  assert metrics['num_folds'] == 3
  assert not (folder / 'deployment.json').exists()
  assert not (folder / 'submission.csv').exists()
  page = (folder / 'report.html').read_text()
  assert 'another program' in page
  assert 'Training kept the checkpoint' not in page
  # Nothing is known of how they came about.
  lines = (folder / 'claim.md').read_text().splitlines()
  claim, tripod = (
    lines.index(f'## {name}') for name in ('CLAIM 2024', 'TRIPOD+AI')
  )
  sheets = {'C': lines[claim:tripod], 'T': lines[tripod:]}
  for sheet, items in (
    ('C', '1 9 19 20 22 23 24 25 26 27'),
    ('T', '7 9b 12a 12b 12c 12g 13 14 22 27a'),
  ):
    for item in items.split():
      (row,) = (x for x in sheets[sheet] if x.startswith(f'| {item} |'))
      assert row.endswith('**open** |'), row


def test_a_trained_run_keeps_its_own_evaluation(
  predictions, trained_run, dataset_dir
):
  config = small_run.config(
    dataset_dir, **{'eval.predictions': str(predictions)}
  )
  with pytest.raises(UserError, match='choose another --workdir'):
    evaluation.evaluate(config, trained_run)


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    ('no table', 'holds no predictions'),
    ('no row', 'no table has a row for'),
    ('no picture', r'\.png is missing'),
    ('8 bit', r'png is uint8.*expected a square 16-bit'),
    ('not square', r'\[32, 30\].*expected a square'),
    ('percent', 'line 2: the probability of .* not between 0 and 1'),
    ('word', 'line 2: expected the columns'),
    ('twice', 'another probability than an earlier row'),
    ('latin', 'is not a csv file in UTF-8'),
  ],
)
def test_damaged_predictions_are_refused(
  predictions, dataset_dir, tmp_path, damage, message
):
  folder = tmp_path / 'damaged'
  shutil.copytree(predictions, folder)
  dataset = pipeline.Dataset(dataset_dir, ['fold0'])
  image_id = dataset.records[0].image_id
  picture, table = folder / f'{image_id}.png', folder / 'fold0.csv'
  lines = table.read_text().splitlines()
  if damage == 'no table':
    for path in folder.glob('*.csv'):
      path.unlink()
  elif damage == 'no row':
    table.write_text('\n'.join([lines[0], *lines[2:]]))
  elif damage == 'no picture':
    picture.unlink()
  elif damage == '8 bit':
    cv2.imwrite(str(picture), np.zeros((32, 32), np.uint8))
  elif damage == 'not square':
    cv2.imwrite(str(picture), np.zeros((32, 30), np.uint16))
  elif damage == 'percent':
    table.write_text('\n'.join([lines[0], f'{image_id},97', *lines[2:]]))
  elif damage == 'word':
    table.write_text('\n'.join([lines[0], f'{image_id},high', *lines[2:]]))
  elif damage == 'twice':
    table.write_text('\n'.join([*lines, f'{image_id},0.123']))
  elif damage == 'latin':
    table.write_bytes(b'image_id,probability\nM\xfcller,0.5\n')
  with pytest.raises(UserError, match=message):
    list(StoredPredictions(folder).probabilities(dataset))


class _BrightRegions:
  """Predicts bright regions of the square that a network would see."""

  def __init__(self, films):
    self._films = films

  def probabilities(self, dataset):
    del dataset
    for film in self._films:
      seen = letterbox.letterbox(film, 256).astype(np.float32) / 255
      yield letterbox.letterbox(seen, 1024), 0.9


@pytest.mark.parametrize('shape', [(1024, 1024), (1024, 800)])
def test_a_small_copy_gets_the_mask_of_its_original(
  shape, dataset_dir, monkeypatch
):
  height, width = shape
  originals = [dicom_files.film(height, width, seed=seed) for seed in range(3)]
  small = (width * 320 // 1024, height * 320 // 1024)
  copies = [
    cv2.resize(film, small, interpolation=cv2.INTER_AREA) for film in originals
  ]
  template = pipeline.Dataset(dataset_dir, ['fold0']).records[0]
  post = Postprocess(rule=Rule(top=0.6, area=100, bottom=0.6))

  def masks(films):
    class Test:
      records = [
        dataclasses.replace(
          template,
          image_id=str(number),
          height=film.shape[0],
          width=film.shape[1],
          pixel_aspect=1.0,
        )
        for number, film in enumerate(films)
      ]

    monkeypatch.setattr(pipeline, 'Dataset', lambda *_, **__: Test)
    rows = evaluation.submission_rows(
      dataset_dir, _BrightRegions(films), post, size=1024
    )
    return [rle.decode(text, height, width) for _, text in rows]

  for one, other in zip(masks(originals), masks(copies), strict=True):
    assert one.any() and not one.all()
    dice = 2 * np.count_nonzero(one & other) / (one.sum() + other.sum())
    assert dice >= 0.98


def test_masks_have_the_size_of_the_film_unless_another_is_asked_for():
  record = schema.Record(
    **{field.name: None for field in dataclasses.fields(schema.Record)}
    | {'height': 320, 'width': 240, 'pixel_spacing': (0.0, 0.0)}
  )
  same = evaluation._scaled(record, 0)
  larger = evaluation._scaled(record, 1024)
  assert (same.height, same.width) == (320, 240)
  assert (larger.height, larger.width) == (1024, 768)


def test_an_image_id_does_not_become_a_path(predictions, dataset_dir):
  records = pipeline.Dataset(dataset_dir, ['fold1']).records
  outside = f'../{predictions.name}/{records[0].image_id}'
  stored = StoredPredictions(predictions)
  with pytest.raises(UserError, match='cannot be the name of a png file'):
    stored._probs(dataclasses.replace(records[0], image_id=outside))
