"""Sources that differ in processing are distinguished, equal ones are not."""

import cv2
import numpy as np
import pytest
from PIL import Image

from data_prep import dataset, source_audit
from data_prep.request import Request
from pnx_jax.errors import UserError
from pnx_jax.formats import files

SIDE = 64


def films(number, *, seed, blur=0.0, quality=0):
  """Soft shadows with grain, perhaps blurred or encoded as JPEG."""
  random_state = np.random.default_rng(seed)
  made = []
  for _ in range(number):
    soft = cv2.GaussianBlur(random_state.normal(size=(SIDE, SIDE)), (0, 0), 6)
    grain = random_state.normal(size=(SIDE, SIDE))
    image = 128 + 40 * soft / soft.std() + 6 * grain
    image = np.clip(image, 0, 255).astype(np.uint8)
    if blur:
      image = cv2.GaussianBlur(image, (0, 0), blur)
    if quality:
      settings = [cv2.IMWRITE_JPEG_QUALITY, quality]
      image = cv2.imdecode(cv2.imencode('.jpg', image, settings)[1], 0)
    made.append(image)
  return made


def auc(one, other, remedy=lambda image: image):
  found = np.array(
    [source_audit.features(remedy(image)) for image in [*one, *other]]
  )
  source = np.arange(len(found)) < len(one)
  patient = np.arange(len(found)) // 2
  return source_audit.audit(found, source, patient)


def test_equal_sources_are_not_told_apart():
  value, (low, high) = auc(films(60, seed=1), films(60, seed=2))
  assert low < 0.5 < high and abs(value - 0.5) < 0.2


@pytest.mark.parametrize('processing', [{'blur': 0.6}, {'quality': 50}])
def test_processing_is_noticed(processing):
  value, (low, _) = auc(films(60, seed=1), films(60, seed=2, **processing))
  assert value > 0.95 and low > 0.9


def test_a_common_resolution_hides_sharpness():
  sharp, soft = films(60, seed=1), films(60, seed=2, blur=0.6)
  before, _ = auc(sharp, soft)
  steps = source_audit.remedies(SIDE // 4)
  assert next(iter(steps)) == 'as stored'
  after, _ = auc(sharp, soft, list(steps.values())[-1])
  assert after < before - 0.1


def test_gray_levels_of_one_window_are_equal():
  (image,) = films(1, seed=1)
  darker = (image * 0.5).astype(np.uint8)
  stretched = list(source_audit.remedies(SIDE).values())[-1]
  difference = stretched(image).astype(int) - stretched(darker)
  assert np.abs(difference).mean() < 6


def test_what_tells_patients_apart_does_not_tell_sources_apart():
  """Features that say who a patient is say nothing of other patients."""
  random_state = np.random.default_rng(0)
  person = random_state.normal(size=(40, 30)).repeat(6, axis=0)
  found = person + 0.01 * random_state.normal(size=person.shape)
  source = random_state.permutation(np.arange(40) < 20).repeat(6)
  value, _ = source_audit.audit(found, source, np.arange(240) // 6)
  assert value < 0.75


def test_audit_of_a_dataset(tmp_path):
  rows = ['path,source,label,patient']
  for source, quality in (('a', 0), ('b', 40)):
    for number, image in enumerate(
      films(20, seed=ord(source), quality=quality)
    ):
      name = f'{source}{number}.png'
      Image.fromarray(image).save(tmp_path / name)
      rows.append(f'{name},{source},{int(number == 0)},{source}{number // 2}')
  (tmp_path / 'films.csv').write_text('\n'.join([*rows, '']))
  data_dir = str(tmp_path / 'records')
  dataset.build(
    Request(
      manifest=str(tmp_path / 'films.csv'),
      output_dir=data_dir,
      image_size=SIDE,
      num_folds=2,
    )
  )
  predictions = tmp_path / 'per_image.csv'
  files.write_csv(
    predictions,
    ('image_id', 'probability'),
    [(f'{s}{n}', 0.1 + 0.5 * (s == 'b')) for s in 'ab' for n in range(20)],
  )
  options = {'image_size': SIDE, 'most_films': 100}
  report = source_audit.run(data_dir, **options, predictions=str(predictions))
  assert report['negatives'] == {'a': 19, 'b': 19}
  assert float(report['auc']['as stored']['a'].split()[0]) > 0.9
  assert len(report['auc']) == 4
  assert report['probability']['b']['median'] == 0.6
  assert report['probability']['b']['auc'].startswith('1.000')
  assert '(n 19)' in source_audit.text(report)
  files.write_csv(predictions, ('image_id', 'probability'), [('a1', 0.5)])
  with pytest.raises(UserError, match='negatives of one source only'):
    source_audit.run(data_dir, **options, predictions=str(predictions))
