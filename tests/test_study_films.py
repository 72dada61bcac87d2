"""Other films beside the study's: NIH's, and those that networks annotate."""

import dataclasses
import gzip

import cv2
import flax.linen as nn
import jax
import numpy as np
import pytest

from benchmarks.study import (
  nih_films,
  other_films,
  pretrain,
  pseudo_masks,
)
from data_prep import manifest_reader
from pnx_jax.formats import files
from pnx_jax.models import pretrained, segmenter

KEY = jax.random.key(0)


def test_a_network_starts_from_the_encoder_that_learned_findings(tmp_path):
  random = np.random.default_rng(0)

  def drawn(model):
    """Variables of a model, without compiling it."""
    image = np.zeros((1, 64, 64, 1), np.float32)
    shapes = jax.eval_shape(lambda key: model.init(key, image, False), KEY)
    return jax.tree.map(
      lambda x: random.normal(size=x.shape).astype(np.float32), dict(shapes)
    )

  learned = drawn(pretrain.Classifier())
  path = tmp_path / 'findings.safetensors'
  pretrain.write(path, learned)
  network = segmenter.create_model('efficientnet_lite0', width=4, depth=5)
  loaded = pretrained.load(path, drawn(network), encoder='efficientnet_lite0')
  for part in ('params', 'batch_stats'):
    jax.tree.map(
      np.testing.assert_array_equal,
      loaded[part]['encoder'],
      learned[part]['encoder'],
    )


class _Interrupted(Exception):
  pass


def test_an_interrupted_encoder_resumes_bit_for_bit(tmp_path, monkeypatch):
  class Model(nn.Module):
    @nn.compact
    def __call__(self, image, train):
      image = nn.BatchNorm(not train, name='norm')(image)
      return nn.Dense(len(pretrain.FINDINGS))(image.mean(axis=(1, 2)))

  monkeypatch.setattr(pretrain, '_CHECKPOINT_STEPS', 2)
  monkeypatch.setattr(
    pretrain,
    'initial',
    lambda model: model.init(KEY, np.zeros((1, 8, 8, 1)), False),
  )
  random = np.random.default_rng(0)
  images = random.integers(0, 256, (10, 8, 8)).astype(np.uint8)
  findings = random.random((10, len(pretrain.FINDINGS))) < 0.5

  def trained(name):
    return pretrain.train(
      Model(),
      images,
      findings,
      steps=6,
      batch_size=4,
      checkpoint=tmp_path / name,
    )

  undisturbed = trained('undisturbed')
  write = files.write

  def interrupt(path, content):
    write(path, content)
    raise _Interrupted

  with monkeypatch.context() as patched:
    patched.setattr(files, 'write', interrupt)
    with pytest.raises(_Interrupted):
      trained('interrupted')
  jax.tree.map(
    np.testing.assert_array_equal, undisturbed, trained('interrupted')
  )


def test_only_the_surest_predictions_become_masks():
  films = []
  for number in range(30):
    probs = np.full((1024, 1024), 0.01 * number, np.float32)
    probs[:2, 3] = 0.3 + 0.01 * (number - 27)
    films.append((probs, 0.5))
  # No pixel of film 27 is above the level of masks: it is one of the surest.
  assert pseudo_masks.confident(films) == {
    **dict.fromkeys(range(15), ''),
    28: '3072 2',
    29: '3072 2',
  }


def test_films_of_nih_stand_unlabeled_beside_the_folds(tmp_path, monkeypatch):
  study = tmp_path / 'siim_study'
  study.mkdir()
  (study / 'nih_id.csv').write_text(
    'Kaggle_ID,NIH_ID\na,00000001_000.png\nb,00000002_000.png\n'
  )
  (study / 'train-rle.csv').write_text(
    'ImageId, EncodedPixels\na, 1 2\na, 9 1\nb, -1\n'
  )
  monkeypatch.setattr(
    nih_films,
    'usable',
    lambda _: [
      {'image_id': '00000003_000', 'patient': '00000003', 'nih_labels': name}
      for name in ('Mass|Pneumothorax', 'No Finding')
    ],
  )
  path = tmp_path / 'films.csv'
  rows = (
    *other_films.annotated(tmp_path, {'a': 1, 'b': 0}),
    next(other_films.others(tmp_path, 'nih', held_out=4)),
  )
  files.write_csv(path, other_films.COLUMNS, rows)
  (one, other, third), _ = manifest_reader.read(path)
  assert (one.image_id, one.fold, one.patient) == ('a', 1, '00000001')
  assert one.path == str(study / 'dicom-images' / 'a.dcm')
  assert list(one.rles) == ['1 2', '9 1']
  assert (other.image_id, other.fold, other.label) == ('b', 0, 0)
  assert (third.image_id, third.fold, third.label) == (
    '00000003_000',
    None,
    None,
  )
  assert third.source == 'nih'
  (negative,) = other_films.others(tmp_path, 'nih_negatives', held_out=4)
  assert negative[1:] == ('00000003_000', '00000003', 'nih', '0', '0', '')


def test_films_that_show_patients_of_the_study_are_left_out(
  tmp_path, monkeypatch
):
  """NIH's films tell whose films of the second test set they copy."""
  random = np.random.default_rng(0)
  pictures = {
    name: cv2.resize(random.integers(0, 256, (16, 16), np.uint8), (256, 256))
    for name in ('00000001_005', '00000002_000', '00000003_000')
  }
  for name in (
    *('siim_study', 'labels', 'siim_stage2_320'),
    'nih_labelled/images',
  ):
    (tmp_path / name).mkdir(parents=True)
  (tmp_path / 'siim_study' / 'nih_id.csv').write_text(
    'Kaggle_ID,NIH_ID\na,00000001_000.png\n'
  )
  (tmp_path / 'nih_labelled' / 'labels.csv').write_text(
    'image_id,patient,nih_labels\n'
    + ''.join(f'{name},{name[:8]},Mass\n' for name in pictures)
  )
  for name, pixels in pictures.items():
    image = tmp_path / 'nih_labelled' / 'images' / f'{name}.jpg'
    cv2.imwrite(str(image), pixels)
  test = dict(zip(('x', 'y'), pictures.values(), strict=False))
  for name in test:
    (tmp_path / 'siim_stage2_320' / f'{name}.dcm').touch()
  film = dataclasses.make_dataclass('Film', ['pixels'])
  monkeypatch.setattr(
    nih_films.dicom, 'read', lambda path: film(test[path.stem])
  )
  rows = other_films.others(tmp_path, 'test', held_out=0)
  assert [row[1] for row in rows] == ['y']
  assert [row['image_id'] for row in nih_films.usable(tmp_path)] == [
    '00000003_000'
  ]
  with gzip.open(tmp_path / 'labels' / 'nih_id.csv.gz', 'wt') as file:
    file.write('Kaggle_ID,NIH_ID\na,00000001_000.png\nb,00000002_009.png\n')
  # Their only other film is tested, and film 5 is at least the sixth.
  assert nih_films.expected_tested(tmp_path) == 5
