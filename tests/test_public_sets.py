"""Manifests of public datasets: replicas of their layouts, and real tables."""

import gzip
import json
import os
import subprocess
import sys
import zipfile

import dicom_files
import numpy as np
import pytest
from PIL import Image

from data_prep import manifest, manifest_reader
from data_prep.public import layout
from pnx_jax.errors import UserError
from pnx_jax.formats import rle


@pytest.fixture
def root(tmp_path):
  return tmp_path / 'dataset'


def put(path, content=None):
  """Writes text, or a film of 8 x 8 pixels without any."""
  path.parent.mkdir(parents=True, exist_ok=True)
  if content is not None:
    path.write_text(content)
  elif path.suffix in ('.png', '.jpg'):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
  else:
    dicom_files.write(path, dicom_files.film(8, 8))


def read(dataset, root, tmp_path, **options):
  """Makes a manifest; returns its rows, what the build reads, and the notes."""
  found = manifest.read(dataset, str(root), layout.Options(**options))
  manifest.write(found.rows, str(tmp_path / 'films.csv'))
  entries = manifest_reader.read(tmp_path / 'films.csv').entries
  assert all(os.path.isfile(entry.path) for entry in entries)
  return {entry.image_id: entry for entry in entries}, found.notes


NIH_HEADER = (
  'Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,'
  'Patient Gender,View Position,OriginalImage[Width,Height],'
  'OriginalImagePixelSpacing[x,y],\n'
)


def test_nih(root, tmp_path):
  put(
    root / 'Data_Entry_2017.csv',
    NIH_HEADER
    + '00000001_000.png,Cardiomegaly,0,1,058Y,M,PA,2682,2749,0.143,0.143,\n'
    '00000013_000.png,Effusion|Pneumothorax,0,13,060Y,F,AP,2048,2500,0.168,'
    '0.171\n'
    '00000013_001.png,Pneumothorax,1,13,61,F,AP,2048,2500,0.168,0.171\n'
    '00000099_000.png,No Finding,0,99,411Y,F,AP,2048,2500,0.168,0.171\n',
  )
  put(
    root / 'BBox_List_2017.csv',
    'Image Index,Finding Label,Bbox [x,y,w,h],,,\n'
    '00000013_000.png,Pneumothorax,10.5,20.25,30,40\n'
    '00000013_000.png,Pneumothorax,100,200,30.5,40,,,\n'
    '00000013_000.png,Effusion,1,2,3,4,,,\n',
  )
  put(root / 'test_list.txt', '00000001_000.png\n')
  put(root / 'images_001' / 'images' / '00000001_000.png')
  put(root / 'images_002' / 'images' / '00000013_000.png')
  put(root / 'small' / '00000013_001.jpg')
  films, notes = read('nih', root, tmp_path)
  assert notes == ['1 films of the table are not below the root']
  one, boxed = films['00000001_000'], films['00000013_000']
  assert (one.part, one.label, one.age, one.view) == ('test', 0, 58, 'PA')
  assert (boxed.label, boxed.part, boxed.sex) == (1, 'train', 'F')
  assert boxed.boxes == ((10, 20, 31, 41), (100, 200, 31, 40))
  assert boxed.annotation_size == (1024, 1024)
  assert not boxed.boxes_exhaustive
  assert boxed.patient == films['00000013_001'].patient == '00000013'
  # Of the stored 8 x 8 pixels: rows, then columns.
  assert boxed.pixel_spacing == pytest.approx((0.171 * 2500 / 8, 0.168 * 256))


CHEXPERT_HEADER = 'Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Pneumothorax\n'


@pytest.mark.parametrize(
  ('options', 'labels'),
  [
    ({}, [1, 0, None, None]),
    ({'uncertain': '1'}, [1, 0, 1, None]),
    ({'uncertain': '0', 'unmentioned': '0'}, [1, 0, 0, 0]),
  ],
)
def test_chexpert(root, tmp_path, options, labels):
  names = [f'CheXpert-v1.0/train/patient0000{n}/study1' for n in range(4)]
  cells = ('1.0', '0.0', '-1.0', '')
  lines = [
    f'{name}/view1_frontal.jpg,Female,68,Frontal,AP,,{cell}\n'
    for name, cell in zip(names, cells, strict=True)
  ]
  lines.append(f'{names[0]}/view2_lateral.jpg,Male,68,Lateral,,,1.0\n')
  put(root / 'train.csv', CHEXPERT_HEADER + ''.join(lines))
  film = 'valid/patient1/study1/view1_frontal.jpg'
  put(
    root / 'valid.csv',
    f'{CHEXPERT_HEADER}CheXpert-v1.0/{film},Unknown,5,Frontal,PA,,1.0\n',
  )
  put(root / film)
  for number in range(4):
    put(root / f'train/patient0000{number}/study1/view1_frontal.jpg')
  films, notes = read('chexpert', root, tmp_path, **options)
  assert notes == ['1 lateral films were left out']
  *train, test = films.values()
  assert [film.label for film in train] == labels
  assert train[0].patient == 'chexpert-patient00000'
  assert (train[0].sex, train[0].view, train[0].age) == ('F', 'AP', 68)
  assert (test.part, test.sex, test.label) == ('test', '', 1)


def test_mimic_cxr_jpg(root, tmp_path):
  def table(name, text):
    path = root / f'mimic-cxr-2.0.0-{name}.csv.gz'
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()))

  table(
    'metadata',
    'dicom_id,subject_id,study_id,ViewPosition,Rows,Columns\n'
    'a-1,10000032,50414267,PA,3056,2544\nb-2,10000032,50414267,LATERAL,9,9\n'
    'c-3,10000033,50414268,AP,9,9\nd-4,10000033,50414269,,9,9\n',
  )
  table(
    'chexpert',
    'subject_id,study_id,No Finding,Pneumothorax\n'
    '10000032,50414267,,1.0\n10000033,50414268,1.0,\n',
  )
  table(
    'split',
    'dicom_id,study_id,subject_id,split\na-1,50414267,10000032,test\n'
    'c-3,50414268,10000033,validate\n',
  )
  put(root / 'files/p10/p10000032/s50414267/a-1.jpg')
  put(root / 'files/p10/p10000033/s50414268/c-3.jpg')
  films, notes = read('mimic_cxr_jpg', root, tmp_path)
  assert notes == ['2 films that are not AP or PA were left out']
  assert [(f.label, f.part) for f in films.values()] == [
    (1, 'test'),
    (None, 'train'),
  ]
  films, _ = read('mimic_cxr_jpg', root, tmp_path, unmentioned='0')
  assert films['c-3'].label == 0


def test_vindr(root, tmp_path):
  header = 'image_id,rad_id,class_name,x_min,y_min,x_max,y_max\n'
  put(
    root / 'annotations' / 'annotations_train.csv',
    header
    + 'two,R1,Pneumothorax,10,20,40,60\ntwo,R2,Pneumothorax,12,20,40,61\n'
    'two,R3,No finding,,,,\none,R1,Pneumothorax,1,1,2,2\none,R2,Mass,1,1,2,2\n'
    'one,R3,No finding,,,,\nnone,R1,Mass,1,1,2,2\nnone,R2,No finding,,,,\n'
    'none,R3,No finding,,,,\ngone,R1,No finding,,,,\n',
  )
  put(
    root / 'annotations' / 'annotations_test.csv',
    'image_id,class_name,x_min,y_min,x_max,y_max\nt,Pneumothorax,1,1,3,4\n',
  )
  for name in ('one', 'two', 'none'):
    put(root / 'train' / f'{name}.dicom')
  put(root / 'test' / 't.dicom')
  films, notes = read('vindr', root, tmp_path)
  assert films['two'].boxes == ((10, 20, 30, 40), (12, 20, 28, 41))
  assert [films[n].label for n in ('two', 'one', 'none', 't')] == [1, 1, 0, 1]
  assert films['t'].part == 'test'
  assert notes == [
    '1 films of the tables are not below the root',
    '1 films are marked by 1/1 of their readers',
    '1 films are marked by 1/3 of their readers',
    '1 films are marked by 2/3 of their readers',
    '1 films have boxes of two readers or more: their intersection over union '
    'has the median 0.91 (quartiles 0.91 and 0.91)',
  ]
  films, _ = read('vindr', root, tmp_path, min_readers=2)
  assert (films['one'].label, films['one'].boxes) == (None, ())
  assert films['two'].label == films['t'].label == 1
  columns = 'readers', 'readers_iou'
  kept = {
    entry.image_id: entry.kept
    for entry in manifest_reader.read(tmp_path / 'films.csv', columns).entries
  }
  # 28 x 40 pixels of 30 x 40 and 28 x 41.
  assert kept['two'] == ('2/3', f'{1120 / (1200 + 1148 - 1120):.3f}')
  assert kept['one'] == ('1/3', '')


def test_overlap_of_readers_agrees_with_pixels(root, tmp_path):
  random_state = np.random.default_rng(0)
  lines, expected = [], {}
  for film in range(5):
    pixels = np.zeros((3, 20, 20), bool)
    for reader in (0, 0, 1, 1, 2)[: film + 1]:
      x, y = random_state.integers(0, 10, 2)
      w, h = random_state.integers(1, 11, 2)
      pixels[reader, y : y + h, x : x + w] = True
      lines.append(f'{film},R{reader},Pneumothorax,{x},{y},{x + w},{y + h}')
    pairs = [
      (pixels[i] & pixels[j]).sum() / (pixels[i] | pixels[j]).sum()
      for i, j in ((0, 1), (0, 2), (1, 2))
      if pixels[i].any() and pixels[j].any()
    ]
    expected[f'{film}'] = np.mean(pairs) if pairs else None
    put(root / 'train' / f'{film}.dicom')
  lines += [f'flat,R{reader},Pneumothorax,4,4,9,4' for reader in range(2)]
  expected['flat'] = 0.0  # Boxes without an area.
  put(root / 'train' / 'flat.dicom')
  header = 'image_id,rad_id,class_name,x_min,y_min,x_max,y_max'
  put(root / 'train.csv', '\n'.join([header, *lines]))
  rows = {
    row['image_id']: row for row in manifest.read('vindr', str(root)).rows
  }
  for film, iou in expected.items():
    told = '' if iou is None else f'{iou:.3f}'
    assert rows[film].get('readers_iou', '') == told
  assert [iou is None for iou in expected.values()] == [True] * 2 + [False] * 4


def test_chestx_det(root, tmp_path):
  square = [[8, 8], [24, 8], [24, 24], [8, 24]]
  put(
    root / 'ChestX_Det_train.json',
    json.dumps(
      [
        {'file_name': '1.png', 'syms': ['Pneumothorax', 'Mass'],
         'boxes': [[8, 8, 24, 24]] * 2, 'polygons': [square, square]},
        {'file_name': '2.png', 'syms': ['Mass'], 'boxes': [[8, 8, 24, 24]],
         'polygons': [square]},
        {'file_name': '3.png', 'syms': ['Pneumothorax'],
         'boxes': [[8, 8, 24, 24]], 'polygons': [square[:2]]},
      ]
    ),
  )  # fmt: skip
  put(
    root / 'ChestX_Det_test.json',
    json.dumps([{'file_name': '4.png', 'syms': [], 'boxes': [],
                 'polygons': []}]),
  )  # fmt: skip
  for name, part in (('1', 'train'), ('2', 'train'), ('3', 'train'),
                     ('4', 'test')):  # fmt: skip
    put(root / f'{part}_data' / part / f'{name}.png')
  films, notes = read('chestx_det', root, tmp_path)
  one, two, three, four = films.values()
  assert one.polygons == (((8, 8, 24, 8, 24, 24, 8, 24),),)
  assert (one.label, two.label, four.label, four.part) == (1, 0, 0, 'test')
  assert (three.polygons, three.boxes) == ((), ((8, 8, 16, 16),))
  assert notes == ['1 films have boxes, as a polygon lacks points']
  put(root / 'ChestX_Det_test.json', json.dumps([{'file_name': '4.png'}]))
  with pytest.raises(UserError, match='an entry lacks file_name, syms'):
    read('chestx_det', root, tmp_path)


def test_candid_ptx(root, tmp_path):
  put(
    root / 'Pneumothorax_reports.csv',
    'SOPInstanceUID,EncodedPixels,Report,filename\n'
    '1.2.3,10 5 1000 7,"A report, of\ntwo lines",17_a\n'
    '1.2.3,-1,"A report",17_a\n1.2.4,-1,No,18_b\n1.2.5,-1,No,\n',
  )
  put(root / 'dataset' / '1.2.3')
  put(root / 'dataset' / '1.2.4')
  put(root / 'dataset' / '1.2.5.dcm')
  films, notes = read('candid_ptx', root, tmp_path)
  assert films['1.2.3'].rles == ('10 5 1000 7',)
  assert films['1.2.3'].patient == 'candid-17'
  assert films['1.2.4'].rles == films['1.2.5'].rles == ()
  assert notes == ['1 rows do not name a patient']
  assert 'report' not in (tmp_path / 'films.csv').read_text().lower()


def test_ptx498(root, tmp_path):
  for site in ('SiteA', 'SiteB'):
    for name in ('1.1.img.png', '1.2.mask.png', '1.3.merge.png', '2.1.img.png'):
      put(root / site / name)
  films, notes = read('ptx498', root, tmp_path)
  assert list(films) == ['ptx498-SiteA-1', 'ptx498-SiteB-1']
  assert films['ptx498-SiteB-1'].masks == (
    str(root / 'SiteB' / '1.2.mask.png'),
  )
  assert notes == ['2 films without a mask were left out']


def test_siim(root, tmp_path):
  put(
    root / 'train-rle.csv',
    'ImageId, EncodedPixels\na,1 2\na,5 6\nb, -1\nelsewhere, -1\n',
  )
  put(root / 'nih_id.csv', 'Kaggle_ID,NIH_ID\na,00000013_000.png\n')
  put(
    tmp_path / 'Data_Entry_2017_v2020.csv',
    NIH_HEADER
    + '00000013_000.png,Pneumothorax,0,13,60,F,AP,2048,2500,0.168,0.171\n',
  )
  for name in ('a', 'b', 'c'):
    put(root / 'dicom-images-train' / '1' / '2' / f'{name}.dcm')
  put(root / 'dicom-images-test' / 't.dcm')
  films, notes = read(
    'siim',
    root,
    tmp_path,
    nih_table=str(tmp_path / 'Data_Entry_2017_v2020.csv'),
  )
  assert films['a'].rles == ('1 2', '5 6') and films['b'].rles == ()
  assert films['a'].patient == '00000013'
  assert films['a'].pixel_spacing == pytest.approx(
    (0.171 * 2500 / 8, 0.168 * 2048 / 8)
  )
  assert (films['c'].rles, films['t'].part) == (None, 'test')
  assert notes == [
    '1 training films have no annotation',
    '3 films are not in the table of NIH',
  ]


def test_every_dataset_has_a_reader_and_says_what_is_missing(tmp_path):
  for dataset in manifest.DATASETS:
    with pytest.raises(UserError, match=r'--root=.* has no '):
      manifest.read(dataset, str(tmp_path))
  with pytest.raises(UserError, match='is not a folder'):
    manifest.read('nih', str(tmp_path / 'nothing'))


def test_a_table_without_a_column_is_named(root, tmp_path):
  put(root / 'train.csv', 'Path,Sex\na,b\n')
  with pytest.raises(UserError, match=r"train\.csv has no column 'Age'"):
    read('chexpert', root, tmp_path)


def test_a_cell_of_a_table_that_cannot_be_used_is_named(root, tmp_path):
  put(root / 'train' / 'a.dicom')
  header = 'image_id,rad_id,class_name,x_min,y_min,x_max,y_max'
  put(root / 'train.csv', f'{header}\na,R1,Pneumothorax,1,2,x,4\n')
  with pytest.raises(
    UserError, match=r"train\.csv, line 2: x_max is 'x', not a number"
  ):
    manifest.read('vindr', str(root))


def test_command(root, tmp_path):
  put(root / 'S' / '1.1.img.png')
  put(root / 'S' / '1.2.mask.png')
  done = subprocess.run(
    [sys.executable, '-m', 'data_prep.manifest', '--dataset=ptx498',
     f'--root={root}', f'--output={tmp_path}/films.csv'],
    capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert '1 films in 1 rows' in done.stdout
  lines = (tmp_path / 'films.csv').read_text().splitlines()
  assert lines[1].startswith('dataset/S/1.1.img.png,ptx498-S-1')


@pytest.fixture
def real_tables():
  """Returns the bytes of a table in torchxrayvision's wheel, by its name."""
  wheel = os.environ.get('PNX_TORCHXRAYVISION_WHEEL', '')
  if not os.path.isfile(wheel):
    pytest.skip(
      'PNX_TORCHXRAYVISION_WHEEL names no file: pip download --no-deps '
      'torchxrayvision'
    )
  with zipfile.ZipFile(wheel) as archive:
    yield lambda name: archive.read(f'torchxrayvision/data/{name}')


@pytest.mark.slow
def test_real_tables_of_nih(real_tables, root, tmp_path):
  root.mkdir()
  for name in ('BBox_List_2017.csv.gz', 'Data_Entry_2017_v2020.csv.gz'):
    (root / name).write_bytes(real_tables(name))
  boxes = gzip.decompress(real_tables('BBox_List_2017.csv.gz')).decode()
  boxed = [
    line.split(',') for line in boxes.splitlines() if ',Pneumothorax,' in line
  ]
  assert len(boxed) == 98
  for name, *_ in boxed:
    put(root / 'images' / name)
  put(root / 'images' / '00000001_000.png')
  films, notes = read('nih', root, tmp_path)
  assert notes == ['112021 films of the table are not below the root']
  assert [film.label for film in films.values()].count(1) == 98
  assert sum(len(film.boxes) for film in films.values()) == 98
  for name, _, *corners in boxed:
    (box,) = films[name.removesuffix('.png')].boxes
    x, y, width, height = map(float, corners[:4])
    assert box[0] <= x < box[0] + 1 and box[1] <= y < box[1] + 1
    assert 0 <= box[0] + box[2] - (x + width) < 1
    assert 0 <= box[1] + box[3] - (y + height) < 1
  one = films['00000001_000']
  assert one.pixel_spacing == pytest.approx(
    (0.143 * 2749 / 8, 0.143 * 2682 / 8), rel=1e-5
  )


@pytest.mark.slow
def test_real_table_of_chexpert(real_tables, root, tmp_path, monkeypatch):
  root.mkdir()
  (root / 'train.csv.gz').write_bytes(real_tables('chexpert_train.csv.gz'))
  # The films are not there, but for their names.
  monkeypatch.setattr(
    os.path,
    'isfile',
    lambda path: path.endswith('.jpg') or os.path.exists(path),
  )
  found = manifest.read('chexpert', str(root))
  labels = [row['label'] for row in found.rows]
  counts = {label: labels.count(label) for label in ('1', '0', '')}
  # Of frontal films: 17,693 positive, 47,823 negative, 2,708 uncertain.
  assert counts == {'1': 17693, '0': 47823, '': 122803 + 2708}
  assert found.notes == ['32387 lateral films were left out']
  certain = layout.Options(uncertain='1', unmentioned='0')
  labels = [
    row['label'] for row in manifest.read('chexpert', str(root), certain).rows
  ]
  assert labels.count('1') == 17693 + 2708 and '' not in labels


@pytest.mark.slow
def test_real_table_of_vinbigdata(real_tables, root, tmp_path):
  root.mkdir()
  table = gzip.decompress(real_tables('vinbigdata-train.csv.gz')).decode()
  (root / 'train.csv').write_text(table)
  names = {line.split(',')[0] for line in table.splitlines()[1:]}
  marked = {
    line.split(',')[0]
    for line in table.splitlines()
    if ',Pneumothorax,' in line
  }
  (root / 'train').mkdir()
  for name in names:
    (root / 'train' / f'{name}.dicom').touch()
  found = manifest.read('vindr', str(root))
  assert sum('box' in row for row in found.rows) == 226
  assert {r['image_id'] for r in found.rows if r['label'] == '1'} == marked
  assert len({r['image_id'] for r in found.rows}) == 15000
  assert found.notes == [
    '38 films are marked by 1/3 of their readers',
    '13 films are marked by 2/3 of their readers',
    '45 films are marked by 3/3 of their readers',
    '58 films have boxes of two readers or more: their intersection over union '
    'has the median 0.71 (quartiles 0.55 and 0.85)',
  ]


def test_run_lengths_of_the_readers_are_the_challenges(root, tmp_path):
  mask = np.zeros((1024, 1024), bool)
  mask[10:20, 5:9] = True
  put(
    root / 'Pneumothorax_reports.csv',
    f'SOPInstanceUID,EncodedPixels\n1.2,{rle.encode(mask)}\n',
  )
  put(root / 'dataset' / '1.2')
  films, _ = read('candid_ptx', root, tmp_path)
  np.testing.assert_array_equal(rle.union(films['1.2'].rles, 1024, 1024), mask)
