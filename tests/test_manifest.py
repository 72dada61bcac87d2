"""Builds from a manifest: any film, any truth, and what it must not say."""

import cv2
import dicom_files
import numpy as np
import pytest
from drawn_masks import SHAPE, blob, polygon_of
from PIL import Image

from data_prep import dataset, manifest_reader, truth
from data_prep.request import Request
from pnx_jax.errors import UserError
from pnx_jax.formats import (
  built_dataset,
  letterbox,
  rle,
  schema,
  tfrecord,
)
from pnx_jax.input import pipeline


def build(folder, rows, *, header=None, **changes):
  """Builds from rows of a manifest; returns the report and the records."""
  header = header or 'path,label,mask,rle,box,polygon'
  table = folder / 'films.csv'
  table.write_text('\n'.join([header, *rows, '']))
  output_dir = folder / 'records'
  values = {
    'manifest': str(table),
    'output_dir': str(output_dir),
    'image_size': 64,
    'num_folds': 2,
  }
  summary = dataset.build(Request(**values | changes))
  splits = sorted(built_dataset.split_sizes(output_dir))
  records = {
    record.image_id: (split, record)
    for split in splits
    for record in map(
      tfrecord.parse, built_dataset.split_source(output_dir, [split])
    )
  }
  return summary, records


def film(seed):
  return dicom_files.film(*SHAPE, seed=seed)


def picture_of(record):
  return cv2.imdecode(
    np.frombuffer(record.image, np.uint8), cv2.IMREAD_GRAYSCALE
  )


def test_one_truth_in_every_form(tmp_path):
  mask = blob()
  for number in range(6):
    Image.fromarray(film(number)).save(tmp_path / f'{number}.png')
  Image.fromarray(mask.astype(np.uint8) * 7).save(tmp_path / 'mask.png')
  twice = mask.repeat(2, 0).repeat(2, 1)
  Image.fromarray(twice).save(tmp_path / 'large.png')
  dicom_files.write(tmp_path / '6.dcm', film(6))
  text = rle.encode(mask)
  summary, records = build(
    tmp_path,
    [
      '0.png,,mask.png,,,',
      f'1.png,,,{text},,',
      f'2.png,,,,,{polygon_of(mask)}',
      '3.png,,large.png,,,',
      '4.png,0,,,,',
      f'5.png,1,,{rle.encode(mask & (np.arange(80) < 40))},,',
      f'5.png,1,,{rle.encode(mask & (np.arange(80) >= 40))},,',
      f'6.dcm,1,,{text},,',
    ],
  )
  assert summary['truth'] == {'mask': 7}
  assert summary['scaled_masks'] == 1
  for name, (_, record) in records.items():
    decoded = rle.decode(record.rle, *SHAPE)
    np.testing.assert_array_equal(decoded, mask & (name != '4'), err_msg=name)
    expected = letterbox.letterbox(film(int(name)), 64)
    np.testing.assert_array_equal(picture_of(record), expected)
    assert record.label == int(name != '4') and record.truth == 'mask'
  assert records['5'][1].num_annotations == 2
  assert (
    len(pipeline.Dataset(str(tmp_path / 'records'), ['fold0', 'fold1'])) == 7
  )


@pytest.mark.parametrize(
  ('rows', 'message'),
  [
    (['0.png,0,0,', '1.png,1,3,'], 'are in the folds 0, 3: number two or more'),
    (['0.png,0,0,', '1.png,1,0,'], 'are in the folds 0: number two or more'),
    (
      ['0.png,0,0,x', '1.png,1,1,x'],
      'puts 0 in fold 0 and 1 in fold 1, but they are of one patient',
    ),
    (['0.png,0,test,', '1.png,1,test,'], 'is in the split test: none is left'),
    (['0.png,,,', '1.png,,,'], r'films.csv has a label, mask or box'),
  ],
)
def test_splits_that_cannot_be_used_are_named(tmp_path, rows, message):
  for number in range(2):
    Image.fromarray(film(number)).save(tmp_path / f'{number}.png')
  with pytest.raises(UserError, match=message):
    build(tmp_path, rows, header='path,label,split,patient')


def test_films_of_which_less_is_known(tmp_path):
  for number in range(5):
    Image.fromarray(film(number)).save(tmp_path / f'{number}.png')
  summary, records = build(
    tmp_path,
    [
      '0.png,0,,,',
      '1.png,1,,,',
      '2.png,,10 20 30 15,,1',
      '3.png,,,,',
      '4.png,,,test,',
    ],
    header='path,label,box,split,boxes_exhaustive',
  )
  kinds = {name: record.truth for name, (_, record) in records.items()}
  assert kinds == {
    '0': 'mask', '1': 'label', '2': 'box', '3': 'none', '4': 'none',
  }  # fmt: skip
  splits = {name: split for name, (split, _) in records.items()}
  assert (splits['3'], splits['4']) == (schema.UNLABELED_SPLIT, 'test')
  assert {'3', '4'}.isdisjoint(built_dataset.folds_of(tmp_path / 'records'))
  assert records['2'][1].boxes.tolist() == [[10, 20, 30, 15, 450]]
  assert [records[name][1].label for name in '0123'] == [0, 1, 1, -1]
  exhaustive = [records[name][1].boxes_exhaustive for name in '0123']
  assert exhaustive == [0, 0, 1, 0]
  assert (summary['written'], summary['unlabeled']) == (3, 1)
  # The mask of a film with a label alone must not be taken for an empty one.
  data = pipeline.Dataset(str(tmp_path / 'records'), ['fold0', 'fold1'])
  known = zip(data.records, data.mask_known, data.partly_known, strict=True)
  assert {record.image_id: (whole, part) for record, whole, part in known} == {
    '0': (True, False), '1': (False, False), '2': (False, True),
  }  # fmt: skip


def test_what_the_manifest_says_of_a_film(tmp_path):
  for number in range(4):
    Image.fromarray(film(number)).save(tmp_path / f'{number}.png')
  summary, records = build(
    tmp_path,
    [
      '0.png;one;p;a;fold1;0;pa;f;069Y;6 3',
      '1.png;two;p;a;1;0;;;;',
      '2.png;three;q;b;0;0;AP;M;7;0.2 0.1',
      '3.png;four;r;b;0;0;;;;',
    ],
    header='path;image_id;patient;source;split;label;view;sex;age;'
    'pixel_spacing_mm',
  )
  assert {n: s for n, (s, _) in records.items()} == {
    'one': 'fold1', 'two': 'fold1', 'three': 'fold0', 'four': 'fold0',
  }  # fmt: skip
  one, two = records['one'][1], records['two'][1]
  assert (one.view, one.sex, one.age, one.source) == ('PA', 'F', 69, 'a')
  assert (one.pixel_spacing, one.spacing_plane) == ((6, 3), 'patient')
  assert one.pixel_aspect == 2
  assert summary['patient_safe']
  # A film of 12 x 8 mm: its spacing is that of other pixels.
  three = records['three'][1]
  assert (three.pixel_spacing, three.pixel_aspect) == ((-1, -1), 2)
  assert three.spacing_plane == 'implausible'
  assert one.patient == two.patient != records['three'][1].patient
  assert (two.view, two.age, two.pixel_spacing) == ('', -1, (-1, -1))


def test_boxes_say_whether_they_are_all_there_is(tmp_path):
  for number in range(4):
    Image.fromarray(film(number)).save(tmp_path / f'{number}.png')
  _, records = build(
    tmp_path,
    ['0.png,1,1 2 3 4,1', '0.png,,9 9 9 9,', '1.png,1,1 2 3 4,0',
     '2.png,1,1 2 3 4,', '3.png,0,,1'],
    header='path,label,box,boxes_exhaustive',
  )  # fmt: skip
  found = {
    name: record.boxes_exhaustive for name, (_, record) in records.items()
  }
  assert found == {'0': 1, '1': 0, '2': 0, '3': 0}
  assert len(records['0'][1].boxes) == 2


def test_further_columns_are_kept_when_asked_for(tmp_path):
  for number in range(3):
    Image.fromarray(film(number)).save(tmp_path / f'{number}.png')
  rows = ['0.png,0,x,3', '1.png,0,,', '2.png,0,y,=1']
  options = {'header': 'path,label,Scanner,note'}
  summary, _ = build(tmp_path, rows, **options, keep_columns=('scanner',))
  assert summary['unused_columns'] == ['note']
  kept = (tmp_path / 'records' / 'kept_columns.csv').read_text().split()
  assert kept == ['image_id,scanner', '0,x', '1,', '2,y']
  with pytest.raises(UserError, match="has no column 'site'; it has path"):
    build(tmp_path, rows, **options, keep_columns=('site',), overwrite=True)


def test_folds_hold_films_of_every_source_and_kind(tmp_path):
  rows = []
  for number in range(40):
    Image.fromarray(film(number)).save(tmp_path / f'{number}.png')
    rows.append(f'{number}.png,{"ab"[number % 2]},{number // 2 % 2}')
  _, records = build(tmp_path, rows, header='path,source,label')
  for source in 'ab':
    for kind in ('mask', 'label'):
      splits = [
        split
        for split, record in records.values()
        if (record.source, record.truth) == (source, kind)
      ]
      assert abs(splits.count('fold0') - splits.count('fold1')) <= 1


@pytest.mark.parametrize(
  ('row', 'reason'),
  [
    ('0.png,0,mask.png,,,', 'contradiction'),
    ('0.png,1,none.png,,,', 'contradiction'),
    ('0.png,,other.png,,,', 'mask_size'),
    ('0.png,,missing.png,,,', 'unusable_mask'),
    ('0.png,,mask.jpg,,,', 'unusable_mask'),
    ('0.png,,,3 4 5,,', 'malformed_rle'),
    ('0.png,,,4799 2,,', 'rle_past_end'),
    ('0.png,,,,70 50 20 5,', 'box_outside'),
    ('0.png,,,,-1 0 5 5,', 'box_outside'),
    ('color.png,0,,,,', 'color'),
    ('missing.png,0,,,,', 'unreadable'),
    ('text.png,0,,,,', 'undecodable'),
    ('transparent.png,0,,,,', 'color'),
  ],
)
def test_a_film_that_cannot_be_used_is_named(tmp_path, row, reason):
  Image.fromarray(film(0)).save(tmp_path / '0.png')
  for number in (1, 2):
    Image.fromarray(film(number)).save(tmp_path / f'{number}.png')
  Image.fromarray(blob()).save(tmp_path / 'mask.png')
  Image.fromarray(film(0)).save(tmp_path / 'mask.jpg')
  Image.fromarray(np.zeros(SHAPE, bool)).save(tmp_path / 'none.png')
  Image.fromarray(np.ones((60, 81), bool)).save(tmp_path / 'other.png')
  gray = film(3)
  Image.fromarray(np.stack([gray, gray, 255 - gray], -1)).save(
    tmp_path / 'color.png'
  )
  opacity = np.full_like(gray, 254)
  Image.fromarray(np.stack([gray, gray, gray, opacity], -1)).save(
    tmp_path / 'transparent.png'
  )
  (tmp_path / 'text.png').write_text('not a picture')
  summary, records = build(tmp_path, [row, '1.png,0,,,,', '2.png,0,,,,'])
  assert summary['rejected_by_reason'] == {reason: 1}
  assert set(records) == {'1', '2'}


@pytest.mark.parametrize(
  ('header', 'row', 'message'),
  [
    ('film,label', '0.png,1', 'expected a header with the column path'),
    ('path,path', '0.png,1', 'a column is there twice'),
    ('path,label', '0.png', 'line 2: 1 cells instead of 2'),
    ('path,label', ',1', 'line 2: the cell path is empty'),
    ('path,label', '0.png,2', "line 2: label is '2'"),
    ('path,boxes_exhaustive', '0.png,all', "line 2: boxes_exhaustive is 'all'"),
    ('path,box', '0.png,1 2 3', "line 2: box is '1 2 3'"),
    ('path,box', '0.png,1 2 0 5', 'line 2: box'),
    ('path,box', '0.png,1 2 3 1e300', 'line 2: box'),
    ('path,annotation_size', '0.png,1e5 1e5', 'line 2: annotation_size is'),
    ('path,polygon', '0.png,1 2 3 4', 'line 2: a polygon needs three points'),
    ('path,polygon', '0.png,1 2 3 4 5 nan', 'line 2: a polygon needs'),
    ('path,split', '0.png,validation', "line 2: split is 'validation'"),
    ('path,age', '0.png,old', "line 2: age is 'old'"),
    ('path,pixel_spacing_mm', '0.png,0 1', 'line 2: pixel_spacing_mm'),
    ('path,window', '0.png,5 5', 'line 2: window must be'),
    ('path,window', '0.dcm,5 9', 'line 2: window is for PNG'),
    ('path,label,box', '0.png,0,1 2 3 4', 'label 0 contradicts a box'),
  ],
)
def test_a_cell_that_cannot_be_used_is_named(tmp_path, header, row, message):
  path = tmp_path / 'films.csv'
  path.write_text(f'{header}\n{row}\n')
  with pytest.raises(UserError, match=message):
    manifest_reader.read(path)


@pytest.mark.parametrize(
  ('encoding', 'delimiter'),
  [('utf-8', ';'), ('utf-8-sig', ','), ('utf-16', ','), ('utf-8', '\t')],
)
def test_csv_files_as_spreadsheets_write_them(tmp_path, encoding, delimiter):
  rows = ['a.png,nan,Genève', 'b.png,-1.0,', 'c.png,0,', 'd.png,-1,']
  path = tmp_path / 'films.csv'
  text = '\r\n'.join(['path,rle,source', *rows, '']).replace(',', delimiter)
  path.write_bytes(text.encode(encoding))
  found = manifest_reader.read(path).entries
  assert [(e.image_id, e.rles) for e in found] == [(n, ()) for n in 'abcd']
  assert found[0].source == 'Genève'


def test_a_csv_in_another_encoding_is_named(tmp_path):
  path = tmp_path / 'films.csv'
  path.write_bytes('path,source\na.png,Genève\n'.encode('latin-1'))
  with pytest.raises(UserError, match=r'films.csv is not a csv file in UTF-8'):
    manifest_reader.read(path)


def test_one_film_with_two_answers_is_named(tmp_path):
  path = tmp_path / 'films.csv'
  path.write_text('path,image_id,patient\na.png,x,1\na.png,x,\na.png,x,2\n')
  with pytest.raises(
    UserError, match='line 4: x has another patient in line 2'
  ):
    manifest_reader.read(path)
  path.write_text('path,image_id\na.png,x\nb.png,x\n')
  with pytest.raises(UserError, match='line 3: x has another path'):
    manifest_reader.read(path)
  path.write_text('path,image_id\na.png,x\n./a.png,y\n')
  with pytest.raises(
    UserError, match=r'line 3: .*a\.png is y, and x in line 2: a file is one'
  ):
    manifest_reader.read(path)


@pytest.mark.parametrize(
  ('ring', 'message'),
  [
    ((90, 10, 95, 10, 95, 20), 'polygon_outside: a polygon reaches 90, 10'),
    ((10, -40, 20, 5, 10, 5), 'polygon_outside'),
    ((10.2, 10.2, 10.4, 10.2, 10.4, 10.4), 'a polygon covers no pixel'),
  ],
)
def test_a_polygon_elsewhere_is_no_empty_mask(ring, message):
  entry = manifest_reader.Entry('a.png', 'a', 'train', (), polygons=((ring,),))
  with pytest.raises(truth.UnusableAnnotation, match=message):
    truth.of(entry, *SHAPE)


def test_annotations_measured_in_another_size():
  entry = manifest_reader.Entry(
    'a.png', 'a', 'train', boxes=((10, 20, 30, 40),), annotation_size=(160, 120)
  )
  found = truth.of(entry, *SHAPE)
  assert found.boxes.tolist() == [[5, 10, 15, 20, 300]]
  large = blob().repeat(2, 0).repeat(2, 1)
  entry = manifest_reader.Entry(
    'a.png', 'a', 'train', (rle.encode(large),), annotation_size=(160, 120)
  )
  (mask,) = truth.of(entry, *SHAPE).masks
  np.testing.assert_array_equal(mask, blob())
