"""Runs that resume: what was predicted before, what is new or changed."""

import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

import dicom_files
import pytest
from output_files import csv_rows, folder_contents

from pnx_jax.errors import UserError
from pnx_jax.formats import dicom
from pnx_jax.inference import assessment, discovery, journal
from pnx_jax.prediction import decoding

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def predicted_ids(monkeypatch):
  """The ids of the films that a network predicts."""
  ids = []
  assess = assessment.Assessment.__call__

  def noted(self, film, prediction):
    if isinstance(film, decoding.DecodedFilm):
      ids.append(self.sources[film.number].image_id)
    return assess(self, film, prediction)

  monkeypatch.setattr(assessment.Assessment, '__call__', noted)
  return ids


def test_a_second_run_predicts_what_is_new_or_changed_alone(
  predict, five_films, tmp_path, predicted_ids
):
  five_films = shutil.copytree(five_films, tmp_path / 'films')
  out = tmp_path / 'out'
  (five_films / 'e.dcm').rename(tmp_path / 'e.dcm')
  assert set(predict(five_films)) == set('abcd')
  before = folder_contents(out)
  predicted_ids.clear()
  predict(five_films)
  assert folder_contents(out) == before
  assert not predicted_ids
  shutil.copy(five_films / 'd.dcm', five_films / 'b.dcm')
  next((out / 'pictures').glob('c_*')).unlink()
  (tmp_path / 'e.dcm').rename(five_films / 'e.dcm')
  assert set(predict(five_films)) == set('abcde')
  assert sorted(predicted_ids) == ['b', 'c', 'e']
  after = folder_contents(out)
  assert all(
    after[name] == content
    for name, content in before.items()
    if name.endswith(('jpg', 'png')) and '/b_' not in name
  )
  # What a file held before leaves nothing behind.
  (five_films / 'b.dcm').write_bytes(b'no film')
  (out / 'dicom_seg').mkdir()
  for name in {path.stem for path in (out / 'pictures').iterdir()}:
    (out / 'dicom_seg' / f'{name}.dcm').write_bytes(b'of an older film')
  shutil.copy(five_films / 'd.dcm', five_films / 'c.dcm')
  assert not predict(five_films)['b'].assessed
  left = [path.name for path in out.rglob('*') if path.is_file()]
  assert not [name for name in left if name.startswith('b_')]
  assert [n[0] for n in sorted(left) if n.endswith('.dcm')] == ['a', 'd', 'e']


def test_another_film_of_the_same_size_and_time_is_predicted(
  predict, five_films, tmp_path, predicted_ids
):
  """Two films under one name, both with a mask or one with and one without."""
  film = tmp_path / 'films' / 'film.dcm'
  pixels = {
    name: dicom.read(five_films / f'{name}.dcm').pixels for name in 'ae'
  }
  for name in pixels:
    dicom_files.write(tmp_path / f'{name}.dcm', pixels[name])
    os.utime(tmp_path / f'{name}.dcm', ns=(1, 1))
  sizes = {(tmp_path / f'{name}.dcm').stat().st_size for name in pixels}
  assert len(sizes) == 1
  film.parent.mkdir()
  expected = {}
  for name in pixels:
    expected[name] = predict(
      tmp_path / f'{name}.dcm', output_dir=tmp_path / name
    )[name]
  assert expected['a'].probability != expected['e'].probability
  for name in ('a', 'e', 'a'):
    shutil.copy2(tmp_path / f'{name}.dcm', film)
    found = predict(film.parent)['film']
    assert film.stat().st_mtime_ns == 1
    assert found.probability == expected[name].probability
    assert found.rle == expected[name].rle
    content = film.read_bytes()
    assert found.digest == hashlib.sha256(content).hexdigest()
  assert predicted_ids == ['a', 'e', 'film', 'film', 'film']


def test_a_touched_film_is_read_but_not_predicted_again(
  predict, five_films, tmp_path, predicted_ids
):
  five_films = shutil.copytree(five_films, tmp_path / 'films')
  before = predict(five_films)
  predicted_ids.clear()
  os.utime(five_films / 'b.dcm', ns=(1, 1))
  after = predict(five_films)
  assert not predicted_ids
  assert after.pop('b') == dataclasses.replace(
    before.pop('b'), stamp=after_stamp(five_films / 'b.dcm')
  )
  assert after == before
  lines = (tmp_path / 'out' / journal.NAME).read_text().splitlines()
  assert len(lines) == 6


def after_stamp(path):
  (source,) = discovery.find([str(path)], leave_out='nowhere')
  return source.stamp


def lines_of_old(path):
  """The lines of a journal, parsed, without their checksums."""
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  for line in lines:
    del line['checksum']
  return lines


def test_verify_reads_films_that_seem_unchanged(
  predict, five_films, tmp_path, predicted_ids
):
  five_films = shutil.copytree(five_films, tmp_path / 'films')
  before = predict(five_films)
  predicted_ids.clear()
  assert predict(five_films, verify=True) == before
  assert not predicted_ids
  # As if the files' times and inodes told nothing.
  path = tmp_path / 'out' / journal.NAME
  stamps = {name: reading.stamp for name, reading in before.items()}
  shutil.copy(five_films / 'a.dcm', five_films / 'b.dcm')
  text = ''.join(f'{json.dumps(line)}\n' for line in lines_of_old(path))
  path.write_text(text.replace(stamps['b'], after_stamp(five_films / 'b.dcm')))
  assert predict(five_films)['b'].rle == before['b'].rle
  assert not predicted_ids
  assert predict(five_films, verify=True)['b'].rle == before['a'].rle
  assert predicted_ids == ['b']


def test_films_of_an_old_journal_are_read_again(
  predict, five_films, tmp_path, predicted_ids
):
  """Older journals hold neither checksum, digest nor inode."""
  before = predict(five_films)
  predicted_ids.clear()
  path = tmp_path / 'out' / journal.NAME
  lines = lines_of_old(path)
  for line in lines:
    del line['digest']
    line['stamp'] = '-'.join(line['stamp'].split('-')[:2])
  path.write_text(''.join(f'{json.dumps(line)}\n' for line in lines))
  assert predict(five_films) == before
  assert sorted(predicted_ids) == [*'abcde']


def test_a_torn_line_is_dropped(
  predict, five_films, earlier_readings, tmp_path
):
  path = tmp_path / 'out' / journal.NAME
  lines = path.read_bytes().splitlines(keepends=True)
  path.write_bytes(b''.join(lines[:3]) + lines[3][:50])
  assert predict(five_films) == earlier_readings
  again = path.read_bytes().splitlines(keepends=True)
  assert sorted(again) == sorted(lines)


@pytest.mark.parametrize(
  'change',
  [
    lambda reading: reading.update(probability=reading['probability'] / 2),
    lambda reading: reading.pop('checksum'),
  ],
)
def test_a_changed_reading_is_refused(
  predict, five_films, earlier_readings, tmp_path, change
):
  lines = tmp_path / 'out' / journal.NAME
  first, second, *others = lines.read_text().splitlines()
  fields = json.loads(second)
  change(fields)
  lines.write_text('\n'.join([first, json.dumps(fields), *others, '']))
  with pytest.raises(UserError, match=r'jsonl, line 2: .*checksum'):
    predict(five_films)


def test_another_model_or_another_run_keeps_out(
  predict, five_films, earlier_readings, tmp_path
):
  path = tmp_path / 'out' / journal.NAME
  with (
    journal.Journal(tmp_path / 'out'),
    pytest.raises(UserError, match='another run is writing to'),
  ):
    predict(five_films)
  lines = lines_of_old(path)
  version = lines[0]['model']
  text = ''.join(f'{json.dumps(line)}\n' for line in lines)
  path.write_text(text.replace(version, 'older'))
  with pytest.raises(
    UserError, match=f'model older .* this is model {version}'
  ):
    predict(five_films)
  path.write_text('{"name": "else"}\n')
  with pytest.raises(UserError, match='line 1: not a reading'):
    predict(five_films)


def test_an_interrupted_run_leaves_tables_and_resumes(
  predict, phantom_films, tmp_path, monkeypatch
):
  twenty = sorted(phantom_films.rglob('*.dcm'))[:20]
  append, numbers = journal.Journal.append, itertools.count(1)

  def interrupted(self, reading):
    append(self, reading)
    if next(numbers) == 3:
      signal.raise_signal(signal.SIGTERM)

  with monkeypatch.context() as patch:
    patch.setattr(journal.Journal, 'append', interrupted)
    finished = predict(*twenty)
  assert 3 <= len(finished) < 20
  assert len(csv_rows(tmp_path / 'out' / 'worklist.csv')) == len(finished)
  assert (tmp_path / 'out' / 'worklist.html').exists()
  everything = predict(*twenty)
  assert len(everything) == 20
  assert all(everything[name] == reading for name, reading in finished.items())


def test_ctrl_c_in_the_terminal(run_with_findings, phantom_films, tmp_path):
  """It reaches the workers, too: the whole group of processes."""
  out = tmp_path / 'out'
  (tmp_path / 'one, two').symlink_to(phantom_films / 'dicom-images-test')
  process = subprocess.Popen(
    [
      *(sys.executable, 'launch.py', '--mode=predict'),
      *(f'--workdir={run_with_findings}', f'--output_dir={out}'),
      f'--input={tmp_path}/one, two',
      f'--input={phantom_films}/dicom-images-train',
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
  assert process.returncode == 75, errors
  assert 'Traceback' not in errors
  assert 'research use only' in output
  assert 'are left: run the same command to resume' in output
  written = lines.read_text().splitlines()
  assert len(csv_rows(out / 'worklist.csv')) == len(written) > 0


def test_a_full_disk_is_one_line(predict, five_films, five_films_predicted):
  folder, whole = five_films_predicted
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  size = (folder / journal.NAME).stat().st_size
  picture = max(path.stat().st_size for path in folder.rglob('*.jpg'))
  for limit in (size - 10, picture - 10):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
      with pytest.raises(
        UserError, match=r'cannot write .* run the same command to resume'
      ):
        predict(five_films)
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert predict(five_films) == whole
