"""Runs that resume: what was predicted before, what is new or changed."""

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

import pytest
from output_files import csv_rows, folder_contents

from pnx_jax.errors import UserError
from pnx_jax.inference import assessment, journal

ROOT = pathlib.Path(__file__).parent.parent


def test_a_second_run_reads_what_is_new_or_changed_alone(
  predict, five_films, tmp_path, monkeypatch
):
  five_films = shutil.copytree(five_films, tmp_path / 'films')
  out = tmp_path / 'out'
  (five_films / 'e.dcm').rename(tmp_path / 'e.dcm')
  assert set(predict(five_films)) == set('abcd')
  before = folder_contents(out)
  read = []
  assess = assessment.Assessment.__call__

  def noted(self, film, prediction):
    read.append(self.sources[film.number].image_id)
    return assess(self, film, prediction)

  monkeypatch.setattr(assessment.Assessment, '__call__', noted)
  predict(five_films)
  assert folder_contents(out) == before
  assert not read
  os.utime(five_films / 'b.dcm', ns=(1, 1))
  next((out / 'pictures').glob('c_*')).unlink()
  (tmp_path / 'e.dcm').rename(five_films / 'e.dcm')
  assert set(predict(five_films)) == set('abcde')
  assert sorted(read) == ['b', 'c', 'e']
  after = folder_contents(out)
  assert all(
    after[name] == content
    for name, content in before.items()
    if name.endswith(('jpg', 'png'))
  )
  # What a file held before leaves nothing behind.
  (five_films / 'b.dcm').write_bytes(b'no film')
  (out / 'dicom_seg').mkdir()
  for name in {path.stem for path in (out / 'pictures').iterdir()}:
    (out / 'dicom_seg' / f'{name}.dcm').write_bytes(b'of an older film')
  os.utime(five_films / 'c.dcm', ns=(1, 1))
  assert not predict(five_films)['b'].assessed
  left = [path.name for path in out.rglob('*') if path.is_file()]
  assert not [name for name in left if name.startswith('b_')]
  assert [n[0] for n in sorted(left) if n.endswith('.dcm')] == ['a', 'd', 'e']


def test_a_torn_line_is_dropped(
  predict, five_films, earlier_readings, tmp_path
):
  path = tmp_path / 'out' / journal.NAME
  lines = path.read_bytes().splitlines(keepends=True)
  path.write_bytes(b''.join(lines[:3]) + lines[3][:50])
  assert predict(five_films) == earlier_readings
  again = path.read_bytes().splitlines(keepends=True)
  assert sorted(again) == sorted(lines)


def test_another_model_or_another_run_keeps_out(
  predict, five_films, earlier_readings, tmp_path
):
  path = tmp_path / 'out' / journal.NAME
  with (
    journal.Journal(tmp_path / 'out'),
    pytest.raises(UserError, match='another run is writing to'),
  ):
    predict(five_films)
  text = path.read_text()
  version = json.loads(text.splitlines()[0])['model']
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
  assert process.returncode == 0, errors
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
