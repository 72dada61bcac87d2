"""Replacing a folder: killed at every step, on every kind of file system."""

import errno
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from pnx_jax.errors import UserError
from pnx_jax.formats import folders

NEW = {'a.csv': 'new a', 'sub/1.png': 'new 1'}
OLD = {'a.csv': 'old a', 'b.csv': 'old b', 'sub/1.png': '', 'sub/2.png': ''}
FOREIGN = {'notes.txt': 'mine', 'sub/mine.txt': 'mine too'}


def ours(name):
  return name.endswith(('.csv', '.png'))


def write(folder, content):
  for name, text in content.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def content(folder):
  return {
    str(path.relative_to(folder)): path.read_text()
    for path in folder.rglob('*')
    if path.is_file()
  }


def replace(folder):
  with folders.replaced(folder, ours=ours) as new:
    write(new, NEW)


@pytest.fixture
def folder(tmp_path):
  path = tmp_path / 'eval'
  write(path, OLD | FOREIGN)
  return path


@pytest.fixture(params=[True, False], ids=['exchange', 'two renames'])
def exchanges(request, monkeypatch):
  """Whether the file system can exchange two folders."""
  if not request.param:
    monkeypatch.setattr(folders, '_exchange', lambda one, other: False)
  return request.param


def test_what_is_not_ours_is_carried_over(folder, exchanges):
  (folder / 'empty').mkdir()
  (folder / 'link').symlink_to('notes.txt')
  (folder / 'folder link').symlink_to('.')
  replace(folder)
  assert (folder / 'empty').is_dir()
  assert os.readlink(folder / 'link') == 'notes.txt'
  assert os.readlink(folder / 'folder link') == '.'
  (folder / 'link').unlink()
  assert content(folder) == NEW | FOREIGN
  assert sorted(os.listdir(folder.parent)) == ['.eval.lock', 'eval']


def test_a_missing_folder_and_one_behind_a_link_are_written(tmp_path):
  replace(tmp_path / 'run' / 'eval')
  assert content(tmp_path / 'run' / 'eval') == NEW
  (tmp_path / 'link').symlink_to(tmp_path / 'run' / 'eval')
  replace(tmp_path / 'link')
  assert (tmp_path / 'link').is_symlink()
  assert content(tmp_path / 'run' / 'eval') == NEW


def test_a_new_folder_appears_where_a_link_points(tmp_path):
  (tmp_path / 'disk').mkdir()
  (tmp_path / 'model').symlink_to(tmp_path / 'disk')
  with folders.appearing(tmp_path / 'model') as new:
    write(new, NEW)
  assert content(tmp_path / 'disk') == NEW
  assert {p.name for p in tmp_path.iterdir()} == {'disk', 'model'}


def test_an_error_leaves_the_old_folder(folder, exchanges):
  for error, expected in (
    (OSError(errno.ENOSPC, 'No space left on device'), UserError),
    (KeyboardInterrupt(), KeyboardInterrupt),
  ):
    with (
      pytest.raises(expected) as caught,
      folders.replaced(folder, ours=ours) as new,
    ):
      write(new, NEW)
      raise error
    assert content(folder) == OLD | FOREIGN
    assert sorted(os.listdir(folder.parent)) == ['.eval.lock', 'eval']
    if expected is UserError:
      assert 'No space left' in str(caught.value)


def test_an_error_between_two_renames_puts_the_old_folder_back(
  folder, monkeypatch
):
  monkeypatch.setattr(folders, '_exchange', lambda one, other: False)
  replace_path, calls = pathlib.Path.replace, []

  def failing(path, target):
    calls.append(path)
    if len(calls) == 2:
      raise OSError(errno.EIO, 'Input/output error')
    return replace_path(path, target)

  monkeypatch.setattr(pathlib.Path, 'replace', failing)
  with pytest.raises(UserError, match='Input/output error'):
    replace(folder)
  assert content(folder) == OLD | FOREIGN


CHILD = """
import os, pathlib, signal, sys
from pnx_jax.formats import folders
folder, exchanges, steps = sys.argv[1], sys.argv[2] == 'True', int(sys.argv[3])
if not exchanges:
  folders._exchange = lambda one, other: False
watched = 'open', 'os.', 'shutil.', 'ctypes.', 'fcntl.'
def step(event, arguments):
  global steps
  if event.startswith(watched) and event != 'os.kill':
    steps -= 1
    if steps < 0:
      os.kill(os.getpid(), signal.SIGKILL)
ours = lambda name: name.endswith(('.csv', '.png'))
sys.addaudithook(step)
with folders.replaced(folder, ours=ours) as new:
  (new / 'a.csv').write_text('new a')
  (new / 'sub').mkdir()
  (new / 'sub/1.png').write_text('new 1')
"""


def start(folder, exchanges=True, steps=10_000):
  """Replaces the folder in a process that is killed after some steps."""
  arguments = map(str, (folder, exchanges, steps))
  return subprocess.Popen([sys.executable, '-c', CHILD, *arguments])


def test_a_kill_at_any_step_leaves_the_old_folder_or_the_new(
  tmp_path, exchanges
):
  """The child is killed before its first step, its second, and so on."""
  seen, ended, steps = [], False, 0
  while not ended:
    folder = tmp_path / str(steps) / 'eval'
    write(folder, OLD | FOREIGN)
    process = start(folder, exchanges, steps)
    process.wait()
    assert process.returncode in (0, -signal.SIGKILL)
    ended = process.returncode == 0
    missing = not folder.exists()
    assert not (missing and exchanges)
    folders.recover(folder)
    found = content(folder)
    assert found in (OLD | FOREIGN, NEW | FOREIGN)
    seen.append('missing' if missing else found['a.csv'])
    # The next one settles what was left.
    replace(folder)
    assert content(folder) == NEW | FOREIGN
    assert sorted(os.listdir(folder.parent)) == ['.eval.lock', 'eval']
    steps += 1
  assert steps > 20
  assert seen[0] == 'old a' and seen[-1] == 'new a'
  assert ('missing' in seen) != exchanges


def test_writers_wait_for_each_other(folder):
  with folders.replaced(folder, ours=ours) as new:
    write(new, NEW)
    other = start(folder)
    with pytest.raises(subprocess.TimeoutExpired):
      other.wait(timeout=1.5)
  assert other.wait(timeout=30) == 0
  assert content(folder) == NEW | FOREIGN
