"""From files to a worklist, as the command does it."""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pydicom
import pytest
from output_files import csv_rows, folder_contents

from pnx_jax.errors import UserError
from pnx_jax.export import export
from pnx_jax.formats import dicom, rle
from pnx_jax.inference import discovery, worklist
from pnx_jax.inference import predict as predicting

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope='module')
def everything(run_with_findings, phantom_films, tmp_path_factory):
  """The output folder of all phantoms."""
  out = tmp_path_factory.mktemp('everything')
  predicting.predict([str(phantom_films)], out, model=run_with_findings)
  return out


def test_films_are_read_as_the_evaluation_read_them(
  everything, run_with_findings
):
  """The test films' masks, and the probabilities of the held-out ones."""
  folder = run_with_findings / 'eval'
  masks = {
    r['ImageId']: r for r in csv_rows(everything / 'masks' / 'masks.csv')
  }
  submitted = csv_rows(folder / 'submission.csv')
  assert len(submitted) == 3
  assert len({row['EncodedPixels'] for row in submitted}) > 1
  for row in submitted:
    assert masks[row['ImageId']] == row
  temperature = json.loads((folder / 'postprocess.json').read_text())[
    'temperature'
  ]
  table = {
    row['image_id']: row for row in csv_rows(everything / 'worklist.csv')
  }
  held_out = csv_rows(folder / 'per_image.csv')
  assert len(held_out) >= 15
  for row in held_out:
    odds = float(row['probability']) / (1 - float(row['probability']))
    calibrated = 1 / (1 + odds ** (-1 / temperature))
    found = float(table[row['image_id']]['probability'])
    assert found == pytest.approx(calibrated, abs=1e-5)


def test_the_table_is_in_order_and_agrees_with_the_files(
  everything, run_with_findings
):
  table = csv_rows(everything / 'worklist.csv')
  assert tuple(table[0]) == worklist.COLUMNS
  assert [int(row['rank']) for row in table] == list(range(1, 64))
  keys = [(-float(r['probability']), -int(r['area_px'])) for r in table]
  assert keys == sorted(keys)
  rules = json.loads(
    (run_with_findings / 'eval' / 'postprocess.json').read_text()
  )
  points = {
    point['name']: point['threshold'] for point in rules['operating_points']
  }
  masks = {
    row['ImageId']: row['EncodedPixels']
    for row in csv_rows(everything / 'masks' / 'masks.csv')
  }
  marked = 0
  for row in table:
    header = dicom.read_header(row['path'])
    assert (header.view, header.sex) == (row['view'], row['sex'])
    mask = rle.decode(masks[row['image_id']], header.height, header.width)
    area = int(row['area_px'])
    assert area == mask.sum()
    # Phantoms have the spacing of other pixels, as the challenge's films do.
    assert header.pixel_spacing == (-1, -1)
    assert (row['area_mm2'], row['spacing_plane']) == ('', 'implausible')
    name = discovery.name_of(row['path'])
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


def test_dicom_seg_may_be_asked_for_later(
  predict, five_films, earlier_readings, tmp_path
):
  pytest.importorskip('highdicom')
  assert predict(five_films, with_dicom_seg=True) == earlier_readings
  marked = {
    reading.name for reading in earlier_readings.values() if reading.area
  }
  assert marked
  out = tmp_path / 'out'
  assert {path.stem for path in (out / 'dicom_seg').iterdir()} == marked
  for reading in earlier_readings.values():
    if reading.area:
      mask = rle.decode(reading.rle, reading.height, reading.width)
      path = out / 'dicom_seg' / f'{reading.name}.dcm'
      saved = pydicom.dcmread(path)
      np.testing.assert_array_equal(saved.pixel_array.squeeze() != 0, mask)
  before = folder_contents(out)
  assert predict(five_films, with_dicom_seg=True) == earlier_readings
  assert folder_contents(out) == before


def test_an_export_reads_the_same(
  predict, run_with_findings, five_films, five_films_predicted, tmp_path
):
  export.export(run_with_findings, tmp_path / 'model')
  readings = predict(five_films, model=tmp_path / 'model')
  _, originals = five_films_predicted
  assert readings.keys() == originals.keys()
  for name, reading in readings.items():
    original = originals[name]
    assert reading.probability == pytest.approx(original.probability, abs=1e-5)
    same = dataclasses.replace(original, probability=reading.probability)
    assert reading == same


def test_inputs_are_found_once_and_outputs_never(five_films, tmp_path):
  five_films = shutil.copytree(five_films, tmp_path / 'films')
  out = five_films / 'out' / 'dicom_seg'
  out.mkdir(parents=True)
  shutil.copy(five_films / 'a.dcm', out / 'a.dcm')
  shutil.copy(five_films / 'b.dcm', five_films / 'without_suffix')
  (five_films / 'link.dcm').symlink_to('c.dcm')
  inputs = [
    str(five_films),
    str(five_films / 'a.dcm'),
    f'{five_films}/../films/d.dcm',
  ]
  sources = discovery.find(inputs, leave_out=five_films / 'out')
  ids = sorted(source.image_id for source in sources)
  assert ids == [*'abcde', 'without_suffix']
  assert len({source.name for source in sources}) == len(sources)


def test_packed_films_are_counted(five_films, tmp_path, caplog):
  packed = tmp_path / 'packed'
  packed.mkdir()
  for name in ('a.dcm.gz', 'B.ZIP', 'c.tar.gz'):
    (packed / name).write_bytes(b'packed')
  (packed / 'rle.csv.gz').write_bytes(b'a table')
  with pytest.raises(UserError, match=r'3 packed files .*unpack them'):
    discovery.find([str(packed)], leave_out='nowhere')
  with caplog.at_level('WARNING', 'pnx_jax'):
    discovery.find([str(packed), str(five_films)], leave_out='nowhere')
  assert '3 packed files (*.zip, *.dcm.gz, ...) are not read' in caplog.text


def test_films_are_read_in_workers_alone(
  predict, five_films, tmp_path, monkeypatch
):
  """With --dicom_seg, too, whose files quote the header."""
  pytest.importorskip('highdicom')

  def refused(*_, **__):
    raise AssertionError('a film was read in the main process')

  monkeypatch.setattr(pydicom, 'dcmread', refused)
  monkeypatch.setattr(dicom, 'content', refused)
  readings = predict(five_films, with_dicom_seg=True)
  monkeypatch.undo()
  marked = {each.name for each in readings.values() if each.area}
  folder = tmp_path / 'out' / 'dicom_seg'
  assert {path.stem for path in folder.iterdir()} == marked != set()


def test_workers_load_without_jax():
  code = (
    'import sys, launch, pnx_jax.prediction.decoding; '
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


def test_wrong_folders_are_one_line(predict, five_films, tmp_path):
  (tmp_path / 'empty').mkdir()
  with pytest.raises(UserError, match=r'no DICOM file in --input=.*empty'):
    predict(tmp_path / 'empty')
  with pytest.raises(UserError, match='missing: no such file'):
    predict(five_films, tmp_path / 'missing')
  with pytest.raises(
    UserError, match=r'output_dir=.*a\.dcm is a file; name a folder'
  ):
    predict(five_films, output_dir=five_films / 'a.dcm')
  with pytest.raises(
    UserError, match='not an evaluated run; evaluate it first'
  ):
    predict(five_films, model=tmp_path / 'empty')
