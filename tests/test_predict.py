"""From files to a worklist, as the command does it."""

import csv
import dataclasses
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

import cv2
import dicom_files
import numpy as np
import pydicom
import pytest

from pnx_jax.case import Case
from pnx_jax.errors import UserError
from pnx_jax.evaluation import ensemble, evaluate, submission
from pnx_jax.evaluation.postprocess import Postprocess
from pnx_jax.formats import dicom, letterbox, rle
from pnx_jax.inference import export, films, journal, studies, worklist
from pnx_jax.inference import predict as predicting
from pnx_jax.inference import reader as readers
from pnx_jax.inference.reading import Reading
from pnx_jax.input import pipeline
from pnx_jax.metrics.rules import Rule
from pnx_jax.training import sharding

ROOT = pathlib.Path(__file__).parent.parent
# Stand-ins for what no output may hold.
SECRETS = {
  'PatientName': 'Canaryone^Canarytwo',
  'PatientID': 'canary-id',
  'PatientBirthDate': '19010203',
  'InstitutionName': 'Canary Hospital',
  'ReferringPhysicianName': 'Canarythree^Canaryfour',
  'AccessionNumber': 'canaryaccession',
  'StudyDate': '19040506',
  'StudyInstanceUID': '1.2.3.99999.1',
  'SeriesInstanceUID': '1.2.3.99999.2',
  'SOPInstanceUID': '1.2.3.99999.3',
  'PatientComments': 'canary comment',
  'DeviceSerialNumber': 'canary-serial',
}


@pytest.fixture(scope='session')
def run(evaluated_run, dataset_dir, tmp_path_factory) -> pathlib.Path:
  """A copy of the evaluated run whose rule marks half of the films.

  Its submission is made anew, by the evaluation from the dataset's records.
  """
  path = tmp_path_factory.mktemp('marking') / 'run'
  shutil.copytree(evaluated_run, path)
  answering = ensemble.Ensemble(
    ensemble.members([path], folds=[0]),
    mesh=sharding.mesh(),
    reading=pipeline.Reading(batch_size=8),
  )
  films = pipeline.Dataset(dataset_dir, ['fold0', 'test'], labelled_only=False)
  probs, probability = zip(*answering.probabilities(films), strict=True)
  bottom = float(np.quantile(probs, 0.98))
  gate = float(np.median(probability))
  saved = path / 'eval' / 'postprocess.json'
  post = dataclasses.replace(
    Postprocess.load(saved),
    rule=Rule(top=bottom, area=0, bottom=bottom, gate=gate),
  )
  post.save(saved)
  submission.write(
    path / 'eval' / 'submission.csv',
    evaluate._submission(dataset_dir, answering, post),
  )
  return path


@pytest.fixture(scope='session')
def phantoms(dataset_dir) -> pathlib.Path:
  return pathlib.Path(dataset_dir).parent / 'films'


@pytest.fixture
def some(phantoms, tmp_path) -> pathlib.Path:
  """A folder with five phantoms, a.dcm to e.dcm."""
  paths = sorted(phantoms.rglob('*.dcm'))[:5]
  folder = tmp_path / 'some'
  folder.mkdir()
  for path, name in zip(paths, 'abcde', strict=True):
    shutil.copy(path, folder / f'{name}.dcm')
  return folder


@pytest.fixture
def predict(run, tmp_path):
  """Predicts some inputs into one folder; returns the readings by id."""

  def predict_into(*inputs, output_dir=tmp_path / 'out', **options):
    readings = predicting.predict(
      list(map(os.fspath, inputs)), output_dir, model=run, **options
    )
    return {reading.image_id: reading for reading in readings}

  return predict_into


def rows(path):
  with path.open(newline='', encoding='utf-8') as file:
    return list(csv.DictReader(file))


def contents(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


@pytest.fixture(scope='session')
def everything(run, phantoms, tmp_path_factory):
  """The output folder of all phantoms."""
  out = tmp_path_factory.mktemp('everything')
  predicting.predict([str(phantoms)], out, model=run)
  return out


def test_films_are_read_as_the_evaluation_read_them(everything, run):
  """The test films' masks, and the probabilities of the held-out ones."""
  folder = run / 'eval'
  masks = {r['ImageId']: r for r in rows(everything / 'masks' / 'masks.csv')}
  submitted = rows(folder / 'submission.csv')
  assert len(submitted) == 3
  assert len({row['EncodedPixels'] for row in submitted}) > 1
  for row in submitted:
    assert masks[row['ImageId']] == row
  temperature = json.loads((folder / 'postprocess.json').read_text())[
    'temperature'
  ]
  table = {row['image_id']: row for row in rows(everything / 'worklist.csv')}
  held_out = rows(folder / 'per_image.csv')
  assert len(held_out) >= 15
  for row in held_out:
    odds = float(row['probability']) / (1 - float(row['probability']))
    calibrated = 1 / (1 + odds ** (-1 / temperature))
    found = float(table[row['image_id']]['probability'])
    assert found == pytest.approx(calibrated, abs=1e-5)


def test_the_table_is_in_order_and_agrees_with_the_files(
  everything, run, phantoms
):
  table = rows(everything / 'worklist.csv')
  assert tuple(table[0]) == worklist.COLUMNS
  assert [int(row['rank']) for row in table] == list(range(1, 64))
  keys = [(-float(r['probability']), -int(r['area_px'])) for r in table]
  assert keys == sorted(keys)
  rules = json.loads((run / 'eval' / 'postprocess.json').read_text())
  points = {
    point['name']: point['threshold'] for point in rules['operating_points']
  }
  masks = {
    row['ImageId']: row['EncodedPixels']
    for row in rows(everything / 'masks' / 'masks.csv')
  }
  marked = 0
  for row in table:
    header = dicom.read_header(row['path'])
    assert (header.view, header.sex) == (row['view'], row['sex'])
    mask = rle.decode(masks[row['image_id']], header.height, header.width)
    area = int(row['area_px'])
    assert area == mask.sum()
    millimetres = area * header.pixel_spacing[0] * header.pixel_spacing[1]
    assert float(row['area_mm2']) == pytest.approx(millimetres, abs=0.06)
    name = studies.name_of(row['path'])
    picture = cv2.imread(str(everything / 'pictures' / f'{name}.jpg'))
    assert picture.shape[1] == 640
    png = everything / 'masks' / f'{name}.png'
    assert png.exists() == (area > 0)
    if area:
      marked += 1
      saved = cv2.imread(str(png), cv2.IMREAD_UNCHANGED)
      np.testing.assert_array_equal(saved, mask * 255)
      count, regions = cv2.connectedComponents(mask.astype(np.uint8))
      assert len(row['boxes'].split(';')) == count - 1
      x, y, width, height = map(int, row['boxes'].split(';')[0].split())
      assert (regions[y : y + height, x : x + width] > 0).any()
    # Six digits are written.
    probability = float(row['probability'])
    reached = [at for at in points.values() if probability >= at - 1e-6]
    if row['operating_point']:
      point = points[row['operating_point']]
      assert point == pytest.approx(max(reached), abs=2e-6)
    else:
      assert not [at for at in reached if probability > at + 1e-6]
  assert marked and marked < len(table)


def test_a_second_run_reads_what_is_new_or_changed_alone(
  predict, some, tmp_path, monkeypatch
):
  out = tmp_path / 'out'
  (some / 'e.dcm').rename(tmp_path / 'e.dcm')
  assert set(predict(some)) == set('abcd')
  before = contents(out)
  read = []
  monkeypatch.setattr(
    readers.Reader,
    '_answer',
    lambda self, batch, answer=readers.Reader._answer: (
      read.extend(film.source.image_id for film in batch) or answer(self, batch)
    ),
  )
  predict(some)
  assert contents(out) == before
  assert not read
  os.utime(some / 'b.dcm', ns=(1, 1))
  next((out / 'pictures').glob('c_*')).unlink()
  (tmp_path / 'e.dcm').rename(some / 'e.dcm')
  assert set(predict(some)) == set('abcde')
  assert sorted(read) == ['b', 'c', 'e']
  after = contents(out)
  assert all(
    after[name] == content
    for name, content in before.items()
    if name.endswith(('jpg', 'png'))
  )
  # What a file held before leaves nothing behind.
  (some / 'b.dcm').write_bytes(b'no film')
  (out / 'dicom_seg').mkdir()
  for name in {path.stem for path in (out / 'pictures').iterdir()}:
    (out / 'dicom_seg' / f'{name}.dcm').write_bytes(b'of an older film')
  os.utime(some / 'c.dcm', ns=(1, 1))
  assert not predict(some)['b'].assessed
  left = [path.name for path in out.rglob('*') if path.is_file()]
  assert not [name for name in left if name.startswith('b_')]
  assert [n[0] for n in sorted(left) if n.endswith('.dcm')] == ['a', 'd', 'e']


def test_dicom_seg_may_be_asked_for_later(predict, some, tmp_path):
  pytest.importorskip('highdicom')
  first = predict(some)
  assert predict(some, with_dicom_seg=True) == first
  marked = {reading.name for reading in first.values() if reading.area}
  assert marked
  out = tmp_path / 'out'
  assert {path.stem for path in (out / 'dicom_seg').iterdir()} == marked
  for reading in first.values():
    if reading.area:
      mask = rle.decode(reading.rle, reading.height, reading.width)
      path = out / 'dicom_seg' / f'{reading.name}.dcm'
      saved = pydicom.dcmread(path)
      np.testing.assert_array_equal(saved.pixel_array.squeeze() != 0, mask)
  before = contents(out)
  assert predict(some, with_dicom_seg=True) == first
  assert contents(out) == before


def test_an_export_reads_the_same(predict, run, some, tmp_path):
  export.export(run, tmp_path / 'model')
  originals = predict(some)
  readings = predicting.predict(
    [str(some)], tmp_path / 'other', model=tmp_path / 'model'
  )
  for reading in readings:
    original = originals[reading.image_id]
    assert reading.probability == pytest.approx(original.probability, abs=1e-5)
    same = dataclasses.replace(original, probability=reading.probability)
    assert reading == same


def test_a_torn_line_is_dropped(predict, some, tmp_path):
  whole = predict(some)
  path = tmp_path / 'out' / journal.NAME
  lines = path.read_bytes().splitlines(keepends=True)
  path.write_bytes(b''.join(lines[:3]) + lines[3][:50])
  assert predict(some) == whole
  again = path.read_bytes().splitlines(keepends=True)
  assert sorted(again) == sorted(lines)


def test_another_model_or_another_run_keeps_out(predict, some, tmp_path):
  predict(some)
  path = tmp_path / 'out' / journal.NAME
  with (
    journal.Journal(tmp_path / 'out'),
    pytest.raises(UserError, match='another run is writing to'),
  ):
    predict(some)
  text = path.read_text()
  version = json.loads(text.splitlines()[0])['model']
  path.write_text(text.replace(version, 'older'))
  with pytest.raises(
    UserError, match=f'model older .* this is model {version}'
  ):
    predict(some)
  path.write_text('{"name": "else"}\n')
  with pytest.raises(UserError, match='line 1: no reading'):
    predict(some)


def test_an_interrupted_run_leaves_tables_and_goes_on(
  predict, phantoms, tmp_path, monkeypatch
):
  original = readers.Reader.readings

  def interrupted(self, found):
    for number, reading in enumerate(original(self, found)):
      if number == 2:
        signal.raise_signal(signal.SIGTERM)
      yield reading

  with monkeypatch.context() as patch:
    patch.setattr(readers.Reader, 'readings', interrupted)
    some = predict(phantoms / 'dicom-images-train')
  assert 3 <= len(some) < 60
  assert len(rows(tmp_path / 'out' / 'worklist.csv')) == len(some)
  assert (tmp_path / 'out' / 'worklist.html').exists()
  everything = predict(phantoms / 'dicom-images-train')
  assert len(everything) == 60
  assert all(everything[name] == reading for name, reading in some.items())


def test_ctrl_c_in_the_terminal(run, phantoms, tmp_path):
  """It reaches the workers, too: the whole group of processes."""
  out = tmp_path / 'out'
  (tmp_path / 'one, two').symlink_to(phantoms / 'dicom-images-test')
  process = subprocess.Popen(
    [
      *(sys.executable, 'launch.py', '--mode=predict'),
      *(f'--workdir={run}', f'--output_dir={out}'),
      f'--input={tmp_path}/one, two',
      f'--input={phantoms}/dicom-images-train',
    ],
    cwd=ROOT,
    start_new_session=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  lines = out / journal.NAME
  deadline = time.monotonic() + 60
  while not (lines.exists() and lines.stat().st_size):
    assert time.monotonic() < deadline and process.poll() is None
    time.sleep(0.01)
  os.killpg(process.pid, signal.SIGINT)
  output, errors = process.communicate(timeout=60)
  assert process.returncode == 0, errors
  assert 'Traceback' not in errors
  assert 'research use only' in output
  assert 'are left: the same command goes on' in output
  written = lines.read_text().splitlines()
  assert len(rows(out / 'worklist.csv')) == len(written) > 0


def test_a_full_disk_is_one_line(predict, some, tmp_path):
  whole = predict(some, output_dir=tmp_path / 'whole')
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  size = (tmp_path / 'whole' / journal.NAME).stat().st_size
  picture = max(
    path.stat().st_size for path in (tmp_path / 'whole').rglob('*.jpg')
  )
  for limit in (size - 10, picture - 10):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
      with pytest.raises(
        UserError, match=r'cannot write .* goes on from there'
      ):
        predict(some)
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert predict(some) == whole


def test_names_never_become_paths_or_formulas(predict, some, tmp_path):
  def copy(source, path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    shutil.copy(some / source, path)

  odd = os.fsencode(tmp_path / 'odd')
  names = [
    b'=cmd|calc.dcm',
    b'@sum.dcm',
    b'-1\t\x1b[31m.dcm',
    b'new\nline.dcm',
    b'\xff\xfe.dcm',
    b'...dcm',
    b'"quoted", and, commas.dcm',
    b'same/film.dcm',
    b'other/film.dcm',
    b'x' * 250 + b'.dcm',
    '\u202egnp.dcm'.encode(),
  ]
  for name in names:
    copy('a.dcm', os.path.join(odd, name))
  copy('b.dcm', os.path.join(odd, b'lateral/+plus.dcm'))
  before = contents(tmp_path / 'some')
  predict(tmp_path / 'odd', tmp_path / 'odd' / 'same')
  assert contents(tmp_path / 'some') == before
  out = tmp_path / 'out'
  written = [path for path in out.rglob('*') if path.is_file()]
  for path in written:
    assert path.name.isascii() and path.name.isprintable()
    assert len(path.parts) <= len(out.parts) + 2
  assert len(list((out / 'pictures').iterdir())) == len(names) + 1
  for table in ('worklist.csv', 'masks/masks.csv'):
    text = (out / table).read_bytes().decode()
    assert not [c for c in text if not c.isprintable() and c != '\n']
    cells = rows(out / table)
    assert len(cells) == len(names) + 1
    first = [row.get('image_id') or row['ImageId'] for row in cells]
    assert len(set(first)) == len(names) + (table != 'worklist.csv')
    assert not [name for name in first if name[0] in '=+-@\t\r']
    assert "'=cmd|calc" in first
  paths = [row['path'] for row in rows(out / 'worklist.csv')]
  assert any(r'\udcff\udcfe.dcm' in path for path in paths)
  # Known again, whatever it is called.
  read = (out / journal.NAME).read_bytes()
  predict(tmp_path / 'odd')
  assert (out / journal.NAME).read_bytes() == read


def test_what_is_not_assessed_is_listed_apart(predict, some, tmp_path):
  pixels = dicom.read(some / 'a.dcm').pixels
  folder = tmp_path / 'others'
  for name, picture, attributes in (
    ('lateral', pixels, {'ViewPosition': 'LL'}),
    ('hand', pixels, {'BodyPartExamined': 'HAND'}),
    ('tomography', pixels, {'Modality': 'CT'}),
    ('unnamed', pixels, {'BodyPartExamined': None, 'ViewPosition': None}),
    ('turned', np.ascontiguousarray(pixels[::-1, ::-1]), {}),
    ('blank', np.zeros_like(pixels), {}),
  ):
    dicom_files.write(folder / f'{name}.dcm', picture, **attributes)
  (folder / 'text.dcm').write_text('no DICOM')
  (folder / 'notes.txt').write_text('neither')
  (folder / 'gone.dcm').symlink_to('nowhere')
  readings = predict(folder, some / 'a.dcm')
  out = tmp_path / 'out'
  found = {r['image_id']: r['reason'] for r in rows(out / 'not_assessed.csv')}
  assert found == {
    'lateral': 'lateral',
    'hand': 'body_part',
    'tomography': 'modality',
    'turned': 'turned',
    'blank': 'blank',
    'text': 'not_dicom',
    'gone': 'unreadable',
  }
  scored = {row['image_id'] for row in rows(out / 'worklist.csv')}
  assert scored == {'unnamed', 'a'}
  assert readings['blank'].probability == -1
  again = predict(folder, accept_modality=('CR', 'CT'))
  assert again['tomography'].assessed
  assert not again['lateral'].assessed


def test_awkward_files_are_all_accounted_for(predict, some, tmp_path):
  """pydicom's own: no chest film is among them."""
  folder = pathlib.Path(pydicom.__file__).parent / 'data' / 'test_files'
  readings = predict(folder, some / 'a.dcm', accept_modality=())
  refused = rows(tmp_path / 'out' / 'not_assessed.csv')
  found = studies.find([str(folder)], leave_out=tmp_path)
  assert {row['path'] for row in refused} == {one.path for one in found}
  assert [name for name, one in readings.items() if one.assessed] == ['a']


def test_real_films_are_assessed_and_others_are_not(predict, real_data):
  readings = predict(
    real_data / 'siim' / 'dicom-images-test', real_data / 'dicom_matrix'
  )
  refused = {
    name: one.reason for name, one in readings.items() if not one.assessed
  }
  assert refused == {
    'cr_monochrome1_jpeg_lossless_modality_lut': 'unlike',  # teeth
    'monochrome1_jpeg_baseline': 'unlike',  # bright and dark exchanged
    'truncated_pixels_mr': 'modality',
    'wrong_modality_ct': 'modality',
  }
  assert len(readings) - len(refused) == 12 + 4


def test_what_is_no_file_is_refused_and_the_others_are_read(some):
  os.mkfifo(some / 'pipe.dcm')
  sources = studies.find([str(some)], leave_out='nowhere')
  looks = films.Looks(32, 'auto', dicom.RADIOGRAPHY)
  with films.read(sources, looks, num_workers=2) as found:
    found = {film.source.image_id: film for film in found}
  assert found.pop('pipe').reason == 'unreadable'
  assert set(found) == set('abcde')
  for name, film in found.items():
    pixels = dicom.read(some / f'{name}.dcm').pixels
    np.testing.assert_array_equal(
      film.square[..., 0], letterbox.letterbox(pixels, 32)
    )
    assert film.header.patient_id == ''


def test_no_header_field_but_the_allowed_ones_is_written(
  predict, some, tmp_path, caplog, capfd
):
  pixels = dicom.read(some / 'a.dcm').pixels
  folder = tmp_path / 'secret'
  dicom_files.write(folder / 'good.dcm', pixels, **SECRETS)
  for name, attributes in (
    ('lateral', {'ViewPosition': 'LL'}),
    ('colour', {'PhotometricInterpretation': 'RGB'}),
    ('cut', {'Rows': 4000}),
    ('bits', {'BitsAllocated': 12}),
    ('frames', {'NumberOfFrames': 1}),
  ):
    dicom_files.write(folder / f'{name}.dcm', pixels, **SECRETS | attributes)
  # A value that its type does not allow, as exceptions quote it.
  bad = (
    (folder / 'frames.dcm')
    .read_bytes()
    .replace(
      b'\x28\x00\x08\x00IS\x02\x001 ', b'\x28\x00\x08\x00IS\x06\x00Quoted'
    )
  )
  assert b'Quoted' in bad
  (folder / 'frames.dcm').write_bytes(bad)
  with caplog.at_level('DEBUG', 'pnx_jax'):
    readings = predict(folder)
  assert [r.image_id for r in readings.values() if r.assessed] == ['good']
  captured = capfd.readouterr()
  written = b'\n'.join(contents(tmp_path / 'out').values())
  said = (caplog.text + captured.out + captured.err).encode()
  for secret in (*SECRETS.values(), 'Quoted'):
    for part in secret.split('^'):
      assert part.encode() not in written + said, part


def test_a_film_stored_mirrored_has_its_side_all_the_same(tmp_path):
  """The side is the patient's; the mask stays on the stored pixels."""
  mask = np.zeros((60, 60), bool)
  mask[10:20, 5:15] = True
  film = Case(
    image=mask,
    mask=mask,
    image_id='',
    view='PA',
    sex='',
    age=-1,
    pixel_spacing=(-1.0, -1.0),
    spacing_plane='',
  )
  assert film.sides == ['right']
  assert dataclasses.replace(film, mirrored=True).sides == ['left']
  for value, mirrored in (
    (['L', 'F'], False),
    (['R', 'F'], True),
    (['RP', 'FL'], True),
    ('R', False),
    (['', 'F'], False),
    (None, False),
  ):
    attributes = {} if value is None else {'PatientOrientation': value}
    path = dicom_files.write(
      tmp_path / 'f.dcm', dicom_files.film(), **attributes
    )
    assert dicom.read_header(path).mirrored == mirrored, value


def test_priority_is_probability_then_area():
  def reading(name, **fields):
    return Reading(name=name, path=name, image_id=name, **fields)

  ordered = worklist.in_order(
    [
      reading('z', reason='turned'),
      reading('low', probability=0.1, area=9),
      reading('y', reason='blank'),
      reading('small', probability=0.9, area=1),
      reading('large', probability=0.9, area=5),
      reading('zero', probability=0.0),
    ]
  )
  names = [one.name for one in ordered]
  assert names == ['large', 'small', 'low', 'zero', 'y', 'z']


def test_inputs_are_found_once_and_outputs_never(some, tmp_path):
  out = some / 'out' / 'dicom_seg'
  out.mkdir(parents=True)
  shutil.copy(some / 'a.dcm', out / 'a.dcm')
  shutil.copy(some / 'b.dcm', some / 'without_suffix')
  (some / 'link.dcm').symlink_to('c.dcm')
  inputs = [str(some), str(some / 'a.dcm'), f'{some}/../some/d.dcm']
  sources = studies.find(inputs, leave_out=some / 'out')
  ids = sorted(source.image_id for source in sources)
  assert ids == [*'abcde', 'without_suffix']
  assert len({source.name for source in sources}) == len(sources)


def test_workers_load_without_jax():
  code = (
    'import sys, launch, pnx_jax.inference.films; '
    'sys.exit("jax" in sys.modules)'
  )
  subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    ([], 'one of --workdir'),
    (['--workdir=a', '--model=b'], 'one of --workdir'),
    (['--workdir=a'], '--input is missing'),
    (['--workdir=a', '--input=b'], '--output_dir is missing'),
  ],
)
def test_missing_flags_are_one_line(flags, words):
  result = subprocess.run(
    [sys.executable, 'launch.py', '--mode=predict', *flags],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert result.returncode == 2
  assert result.stderr.startswith('error: ')
  assert len(result.stderr.strip().splitlines()) == 1
  assert words in result.stderr


def test_wrong_folders_are_one_line(predict, some, tmp_path):
  (tmp_path / 'empty').mkdir()
  with pytest.raises(UserError, match=r'no DICOM file in --input=.*empty'):
    predict(tmp_path / 'empty')
  with pytest.raises(UserError, match='missing: no such file'):
    predict(some, tmp_path / 'missing')
  with pytest.raises(UserError, match=r'cannot write .*a\.dcm/readings.jsonl'):
    predict(some, output_dir=some / 'a.dcm')
  with pytest.raises(UserError, match='no evaluated run; evaluate it first'):
    predicting.predict([str(some)], tmp_path / 'out', model=tmp_path / 'empty')
