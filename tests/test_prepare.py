"""What becomes of one file and its annotations."""

import dataclasses

import cv2
import dicom_files
import numpy as np
import pytest

from data_prep import dataset, entries, prepare
from data_prep.request import Request
from pnx_jax.errors import UserError
from pnx_jax.formats import letterbox, rle, schema

OPTIONS = prepare.RecordOptions(16, 'auto', ('CR', 'DX'), ('CHEST',))


def run(folder, pixels, rles, *, part=entries.TRAIN, **attributes):
  """Returns the outcome of one file, and its record if there is one."""
  path = dicom_files.write(folder / 'a.dcm', pixels, **attributes)
  source = entries.Entry(str(path), 'a', part, rles)
  (outcome,) = prepare.run_batch(
    [(0, source)], options=OPTIONS, folder=folder, salt=b'salt'
  )
  assert prepare.finished(folder) == {source.path: outcome}
  if isinstance(outcome, entries.Rejection) or not outcome.is_written:
    return outcome, None
  return outcome, prepare.read_record(folder, outcome)


def picture(png):
  return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize(
  ('shape', 'aspect'), [((40, 24), None), ((24, 40), None), ((30, 30), [2, 1])]
)
def test_a_mask_returns_to_the_films_own_pixels(tmp_path, shape, aspect):
  mask = np.zeros(shape, bool)
  mask[4:14, 6:18] = True
  _, record = run(
    tmp_path,
    dicom_files.film(*shape),
    (rle.encode(mask),),
    PixelSpacing=None,
    PixelAspectRatio=aspect or [1, 1],
  )
  assert picture(record.image).shape == picture(record.mask).shape == (16, 16)
  np.testing.assert_array_equal(rle.decode(record.rle, *shape), mask)
  assert (record.height, record.width) == shape
  back = letterbox.unletterbox(
    picture(record.mask), *shape, pixel_aspect=record.pixel_aspect
  )
  overlap = (back > 127) & mask
  assert 2 * overlap.sum() / ((back > 127).sum() + mask.sum()) > 0.8


def test_annotations_are_united_and_compared(tmp_path):
  masks = np.zeros((3, 20, 20), bool)
  masks[0, 2:6, 2:6] = True
  masks[1, 4:8, 2:6] = True
  masks[2, 12:15, 12:15] = True
  outcome, record = run(
    tmp_path, dicom_files.film(20, 20), tuple(map(rle.encode, masks))
  )
  united = rle.decode(record.rle, 20, 20)
  np.testing.assert_array_equal(united, masks.any(axis=0))
  assert record.num_annotations == 3
  pairs = [2 * 8 / 32, 0, 0]
  assert record.agreement == pytest.approx(np.mean(pairs))
  assert outcome.area == united.mean()
  assert record.boxes.tolist() == [[2, 2, 4, 6, 24], [12, 12, 3, 3, 9]]


@pytest.mark.parametrize(
  ('rles', 'part', 'label', 'written'),
  [
    (('3 4',), entries.TRAIN, schema.POSITIVE, True),
    ((), entries.TRAIN, schema.NEGATIVE, True),
    (None, entries.TRAIN, schema.UNLABELED, False),
    (None, entries.TEST, schema.UNLABELED, True),
  ],
)
def test_labels(tmp_path, rles, part, label, written):
  outcome, record = run(tmp_path, dicom_files.film(), rles, part=part)
  assert outcome.label == label
  assert (record is not None) == written
  if written:
    assert record.label == label
    assert (record.rle == rle.EMPTY) == (label != schema.POSITIVE)


@pytest.mark.parametrize(
  ('rles', 'attributes', 'reason'),
  [
    (('3 4 5',), {}, 'malformed_rle'),
    (('3 4', 'a b'), {}, 'malformed_rle'),
    (('1023 2',), {}, 'rle_past_end'),
    (('1022 2',), {}, None),
    ((), {'Modality': 'MR'}, 'modality'),
    ((), {'BodyPartExamined': 'SKULL'}, 'body_part'),
  ],
)
def test_rejections(tmp_path, rles, attributes, reason):
  outcome, record = run(tmp_path, dicom_files.film(), rles, **attributes)
  if reason is None:
    assert record is not None
  else:
    assert outcome.reason == reason
    assert outcome.image_id == 'a'


def test_no_name_or_number_of_a_person_is_kept(tmp_path):
  run(tmp_path, dicom_files.film(), (), PatientID='Miller', PatientName='Ann')
  for path in tmp_path.iterdir():
    if path.suffix != '.dcm':
      assert b'Miller' not in path.read_bytes()
      assert b'Ann' not in path.read_bytes()


def test_a_patient_is_not_found_by_trying_all_ids(tmp_path):
  path = dicom_files.write(tmp_path / 'a.dcm', dicom_files.film())
  batch = [(0, entries.Entry(str(path), 'a', entries.TRAIN, ()))]
  one, same, other = (
    prepare.run_batch(batch, options=OPTIONS, folder=tmp_path, salt=salt)[0]
    for salt in (b'1', b'1', b'2')
  )
  assert one.patient == same.patient != other.patient


def test_another_films_record_is_not_taken(tmp_path):
  outcome, _ = run(tmp_path, dicom_files.film(), ())
  other = dataclasses.replace(outcome, image_id='b')
  with pytest.raises(UserError, match='holds a where b should be'):
    prepare.read_record(tmp_path, other)


def test_a_copy_under_another_name_stays_in_the_same_fold(tmp_path):
  rows = ['ImageId,EncodedPixels']
  for number in range(12):
    dicom_files.write(
      tmp_path / 'train' / f'{number}.dcm',
      dicom_files.film(64, 64, seed=number % 10),
      PatientID=f'person {number}',
    )
    rows.append(f'{number},-1')
  (tmp_path / 'rle.csv').write_text('\n'.join(rows))
  summary = dataset.build(
    Request(
      dicom_dir=str(tmp_path / 'train'),
      rle_csv=str(tmp_path / 'rle.csv'),
      output_dir=str(tmp_path / 'built'),
      image_size=64,
      num_folds=3,
    )
  )
  assert summary['near_duplicates'] == [['0', '10'], ['1', '11']]
  rows = (tmp_path / 'built' / 'folds.csv').read_text().splitlines()[1:]
  fold = dict(row.split(',') for row in rows)
  assert len(fold) == 12
  assert fold['0'] == fold['10']
  assert fold['1'] == fold['11']
  assert not summary['patient_safe']
  assert (
    summary['patients_from'] == 'PatientID, which differs from image to image'
  )
