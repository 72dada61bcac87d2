import dataclasses
import json
import pathlib

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from pnx_jax.errors import UserError
from pnx_jax.formats import built_dataset, schema, tfrecord
from pnx_jax.input import pipeline
from pnx_jax.input.sampling import Schedule


@pytest.fixture(scope='module')
def dataset(dataset_dir):
  return pipeline.Dataset(dataset_dir, ['fold0', 'fold1'])


def schedule(dataset, seed=0):
  return Schedule(
    dataset.labels, positive_share=((0, 0.8), (2, 0.4)), seed=seed
  )


def training(dataset, first, last, **options):
  return list(
    pipeline.training_batches(
      dataset,
      schedule(dataset),
      image_size=16,
      loader=pipeline.Loader(batch_size=4, threads=2, **options),
      first_step=first,
      last_step=last,
    )
  )


def assert_equal(one, other):
  assert one.keys() == other.keys()
  for name in one:
    np.testing.assert_array_equal(one[name], other[name])


def test_a_share_of_patients_lies_in_every_larger_share(dataset_dir, dataset):
  def patients(share):
    part = pipeline.Dataset(
      dataset_dir, ['fold0', 'fold1'], patient_share=share
    )
    for index, record in enumerate(part.records):
      whole = [each.image_id for each in dataset.records]
      position = whole.index(record.image_id)
      np.testing.assert_array_equal(
        part.image(index, 32), dataset.image(position, 32)
      )
    return {record.patient for record in part.records}

  everyone, half, quarter = patients(1.0), patients(0.5), patients(0.25)
  assert everyone == {record.patient for record in dataset.records}
  assert quarter < half < everyone
  assert len(half) == -(-len(everyone) // 2)
  assert len(quarter) == -(-len(everyone) // 4)


def test_records_equal_what_tfds_reads(dataset, dataset_dir):
  builder = tfds.builder_from_directory(dataset_dir)
  expected = {}
  for split in ('fold0', 'fold1'):
    for example in tfds.as_numpy(builder.as_dataset(split=split)):
      expected[example['image_id'].decode()] = example
  assert len(dataset) == len(expected) > 30
  for index, record in enumerate(dataset.records):
    example = expected[record.image_id]
    for name in ('patient', 'label', 'height', 'width', 'age'):
      assert getattr(record, name) == example[name]
    assert record.rle == example['rle'].decode()
    np.testing.assert_allclose(record.pixel_spacing, example['pixel_spacing'])
    np.testing.assert_array_equal(record.boxes, example['boxes'])
    image = dataset.image(index, 32)
    np.testing.assert_array_equal(image, example['image'][..., 0])
    label = dataset.label(index, 32)
    np.testing.assert_array_equal(label, example['mask'][..., 0] > 0)


def test_larger_records_are_area_resized_and_smaller_ones_refused(dataset):
  expected = cv2.resize(
    dataset.image(0, 32), (16, 16), interpolation=cv2.INTER_AREA
  )
  np.testing.assert_array_equal(dataset.image(0, 16), expected)
  with pytest.raises(UserError, match=r'data_prep\.build.*image_size=64'):
    dataset.image(0, 64)


def test_a_batch_depends_on_seed_and_step_alone(dataset):
  whole = training(dataset, 0, 9)
  for resumed, original in zip(training(dataset, 5, 9), whole[5:], strict=True):
    assert_equal(resumed, original)
  drawn = np.concatenate([batch['index'] for batch in whole])
  sequence = schedule(dataset)
  assert drawn.tolist() == [sequence.record(i) for i in range(36)]


def test_processes_share_each_batch(dataset):
  whole = training(dataset, 0, 3)
  parts = [
    training(dataset, 0, 3, process_index=i, process_count=2) for i in range(2)
  ]
  for batch, first, second in zip(whole, *parts, strict=True):
    joined = {n: np.concatenate([first[n], second[n]]) for n in batch}
    assert_equal(joined, batch)


@pytest.mark.parametrize('processes', [1, 2])
def test_evaluation_counts_every_image_once(dataset, processes):
  seen = []
  for process in range(processes):
    batches = pipeline.evaluation_batches(
      dataset,
      image_size=16,
      truth_size=64,
      loader=pipeline.Loader(
        batch_size=16, process_index=process, process_count=processes
      ),
    )
    for batch in batches:
      assert batch['image'].shape == (16 // processes, 16, 16, 1)
      assert batch['image'].dtype == np.uint8
      assert batch['truth'].shape == (16 // processes, 64, 64)
      assert (
        batch['truth'].any(axis=(1, 2)) == dataset.labels[batch['index']]
      ).all()
      seen += batch['index'][batch['valid']].tolist()
  assert sorted(seen) == list(range(len(dataset)))


def test_splits_hold_out_one_fold(dataset_dir):
  assert pipeline.split_names(dataset_dir, 1) == (['fold0', 'fold2'], ['fold1'])
  with pytest.raises(UserError, match='3 folds'):
    pipeline.split_names(dataset_dir, 3)


def test_no_dataset_tells_how_to_make_one(tmp_path):
  with pytest.raises(UserError, match=r'data_prep\.build.*data_prep\.phantom'):
    pipeline.Dataset(str(tmp_path), ['fold0'])


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda text: text[:-20], r'dataset_info\.json is damaged'),
    (lambda text: '[]', r'dataset_info\.json is damaged'),
    (lambda text: '{}', r'dataset_info\.json is damaged.*name is missing'),
    (
      lambda text: json.dumps(json.loads(text) | {'name': 'mnist'}),
      f'mnist {schema.VERSION}, this program reads siim 1',
    ),
    (
      lambda text: json.dumps(json.loads(text) | {'version': '0.9.0'}),
      'siim 0.9.0, this program reads siim 1',
    ),
  ],
)
def test_other_datasets_are_refused(dataset_dir, tmp_path, change, message):
  text = (pathlib.Path(dataset_dir) / 'dataset_info.json').read_text()
  (tmp_path / 'dataset_info.json').write_text(change(text))
  with pytest.raises(
    UserError, match=f'{message}.*build (it|the dataset) again'
  ):
    pipeline.Dataset(str(tmp_path), ['fold0'])


@pytest.mark.parametrize(
  'name',
  [
    field.name
    for field in dataclasses.fields(schema.Record)
    if field.default is dataclasses.MISSING
  ],
)
def test_a_record_lacks_a_field(dataset_dir, name):
  example = tf_example_pb2.Example.FromString(
    built_dataset.split_source(dataset_dir, ['fold0'])[0]
  )
  del example.features.feature[name]
  with pytest.raises(UserError, match=f'lacks {name}: build the dataset'):
    tfrecord.parse(example.SerializeToString())


def test_damaged_files_are_noticed(dataset_dir, tmp_path):
  whole = next(pathlib.Path(dataset_dir).glob('*fold0.tfrecord*')).read_bytes()
  cut = tmp_path / 'cut.tfrecord'
  cut.write_bytes(whole[:-100])
  with pytest.raises(UserError, match='runs past the end'):
    tfrecord.TFRecordSource([cut])
