"""Real radiographs through the whole pipeline; skipped where there are none."""

import json
import subprocess
import sys

import pytest
import small_run

from configs import resunet
from pnx_jax.evaluation import evaluate
from pnx_jax.formats import built_dataset, rle
from pnx_jax.input import pipeline
from pnx_jax.training import train

# The probabilities of everything that changes an image.
_AUGMENTATIONS = (
  'flip_probability',
  'affine_probability',
  'distortion_probability',
  'intensity_probability',
  'noise_probability',
)


@pytest.fixture(scope='module')
def built(real_data, tmp_path_factory):
  """The competition's radiographs as records of 128 x 128."""
  data_dir = tmp_path_factory.mktemp('real') / 'siim'
  films = real_data / 'siim'
  subprocess.run(
    [
      *(sys.executable, '-m', 'data_prep.build'),
      f'--dicom_dir={films}/dicom-images-train',
      f'--rle_csv={films}/train-rle.csv',
      f'--test_dicom_dir={films}/dicom-images-test',
      f'--patient_map={films}/nih_id.csv',
      f'--output_dir={data_dir}',
      '--image_size=128',
    ],
    check=True,
  )
  return data_dir


def test_every_radiograph_becomes_a_record(built, real_data):
  report = json.loads((built / 'build.json').read_text())
  assert (report['written'], report['test_written']) == (68, 12)
  assert report['rejected'] == report['test_rejected'] == 0
  sizes = built_dataset.split_sizes(built)
  assert sum(sizes.values()) == 80
  annotations = rle.read_csv(real_data / 'siim' / 'train-rle.csv')
  dataset = pipeline.Dataset(str(built), pipeline.folds(built))
  for record in dataset.records:
    mask = rle.union(annotations[record.image_id], 1024, 1024)
    assert record.label == mask.any()
    assert record.rle == rle.encode(mask)


def test_the_submission_holds_each_test_id_once(built, real_data, tmp_path):
  config = small_run.config(str(built), total_steps=2)
  train.train(config, tmp_path)
  evaluate.evaluate(config, tmp_path)
  rows = (tmp_path / 'eval' / 'submission.csv').read_text().splitlines()
  sample = (real_data / 'siim' / 'sample_submission.csv').read_text()
  assert rows[0] == 'ImageId,EncodedPixels'
  assert len(rows) == 1 + 12
  assert sorted(row.split(',')[0] for row in rows) == sorted(
    row.split(',')[0] for row in sample.splitlines()
  )


@pytest.mark.slow
def test_training_can_learn_the_labels_by_heart(built, tmp_path, monkeypatch):
  """A check of the plumbing: it says nothing about unseen radiographs."""
  folds = pipeline.folds(built)
  monkeypatch.setattr(pipeline, 'split_names', lambda *_: (folds, folds))
  config = resunet.get_config()
  config.update_from_flattened_dict(
    {
      'data_dir': str(built),
      'image_size': 128,
      'batch_size': 8,
      'eval.batch_size': 8,
      'total_steps': 500,
      'positive_share': ((0, 0.6),),
      'model.width': 16,
      'optimizer.learning_rate': 2e-3,
      'optimizer.ema_decay': 0.98,
      'eval_epochs': 20.0,
      **{f'augmentation.{name}': 0.0 for name in _AUGMENTATIONS},
    }
  )
  scores = train.train(config, tmp_path)
  print(f'{len(pipeline.Dataset(str(built), folds))} images: {scores}')
  assert scores['dice_positive'] > 0.8
