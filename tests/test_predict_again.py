"""Runs that go on: what is known, what is new, whatever ended them."""

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
from written import contents, rows

from pnx_jax.errors import UserError
from pnx_jax.inference import assessment as readers
from pnx_jax.inference import journal

ROOT = pathlib.Path(__file__).parent.parent


def test_a_second_run_reads_what_is_new_or_changed_alone(
  predict, some, tmp_path, monkeypatch
):
  some = shutil.copytree(some, tmp_path / 'some')
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


def test_a_torn_line_is_dropped(predict, some, known, tmp_path):
  path = tmp_path / 'out' / journal.NAME
  lines = path.read_bytes().splitlines(keepends=True)
  path.write_bytes(b''.join(lines[:3]) + lines[3][:50])
  assert predict(some) == known
  again = path.read_bytes().splitlines(keepends=True)
  assert sorted(again) == sorted(lines)


def test_another_model_or_another_run_keeps_out(predict, some, known, tmp_path):
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
  twenty = sorted(phantoms.rglob('*.dcm'))[:20]
  original = readers.Reader.readings

  def interrupted(self, found):
    for number, reading in enumerate(original(self, found)):
      if number == 2:
        signal.raise_signal(signal.SIGTERM)
      yield reading

  with monkeypatch.context() as patch:
    patch.setattr(readers.Reader, 'readings', interrupted)
    some = predict(*twenty)
  assert 3 <= len(some) < 20
  assert len(rows(tmp_path / 'out' / 'worklist.csv')) == len(some)
  assert (tmp_path / 'out' / 'worklist.html').exists()
  everything = predict(*twenty)
  assert len(everything) == 20
  assert all(everything[name] == reading for name, reading in some.items())


def test_ctrl_c_in_the_terminal(marking_run, phantoms, tmp_path):
  """It reaches the workers, too: the whole group of processes."""
  out = tmp_path / 'out'
  (tmp_path / 'one, two').symlink_to(phantoms / 'dicom-images-test')
  process = subprocess.Popen(
    [
      *(sys.executable, 'launch.py', '--mode=predict'),
      *(f'--workdir={marking_run}', f'--output_dir={out}'),
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


def test_a_full_disk_is_one_line(predict, some, some_read):
  folder, whole = some_read
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  size = (folder / journal.NAME).stat().st_size
  picture = max(path.stat().st_size for path in folder.rglob('*.jpg'))
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
