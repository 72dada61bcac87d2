"""One training at a time in a fold, whatever ends it."""

import errno
import fcntl
import os
import pathlib
import signal
import socket
import stat
import subprocess
import sys
import time

import jax
import pytest

from pnx_jax.errors import UserError
from pnx_jax.formats import files
from pnx_jax.storage import heartbeat
from pnx_jax.training import fold_lock

ROOT = pathlib.Path(__file__).parent.parent
HOLD = """
import sys, time
from pnx_jax.training import fold_lock
with fold_lock.held(sys.argv[1]):
  print('held', flush=True)
  time.sleep(600)
"""


@pytest.fixture
def no_locks(monkeypatch):
  """A file system without locks, and heartbeats that a test can wait for."""

  def flock(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

  monkeypatch.setattr(fcntl, 'flock', flock)
  monkeypatch.setattr(heartbeat, 'SECONDS', 0.1)
  monkeypatch.setattr(fold_lock, '_SETTLING_SECONDS', 0.01)


@pytest.fixture
def holder(tmp_path):
  """A process that holds the lock of `tmp_path`."""
  process = subprocess.Popen(
    [sys.executable, '-c', HOLD, str(tmp_path)],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == 'held\n'
  yield process
  process.kill()
  process.wait()
  process.stdout.close()


def test_a_second_training_names_the_first_and_a_killed_one_leaves_no_lock(
  holder, tmp_path
):
  words = f'process {holder.pid} on {socket.gethostname()}'
  with pytest.raises(UserError, match=words), fold_lock.held(tmp_path):
    pass
  with fold_lock.held(tmp_path.parent / 'another_fold'):
    pass
  holder.send_signal(signal.SIGKILL)
  holder.wait()
  with fold_lock.held(tmp_path):
    pass


def test_process_0_alone_locks(holder, tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  with fold_lock.held(tmp_path):
    pass


def test_without_file_locks_a_heartbeat_keeps_the_second_training_out(
  no_locks, tmp_path, monkeypatch
):
  with fold_lock.held(tmp_path):
    # As another host sees it.
    monkeypatch.setattr(socket, 'gethostname', lambda: 'another')
    words = f'process {os.getpid()} on'
    with pytest.raises(UserError, match=words), fold_lock.held(tmp_path):
      pass
    monkeypatch.undo()
  assert not (tmp_path / 'lock').exists()


def test_without_file_locks_one_of_two_that_start_at_once_goes_on(
  no_locks, tmp_path, monkeypatch
):
  write = files.write

  def overtaken(path, content):
    write(path, content)
    write(path, 'another 17')

  monkeypatch.setattr(files, 'write', overtaken)
  with (
    pytest.raises(UserError, match='process 17 on another'),
    fold_lock.held(tmp_path),
  ):
    pass
  assert (tmp_path / 'lock').read_text() == 'another 17'


def test_a_lock_in_a_shared_folder_is_for_all_that_the_umask_lets(tmp_path):
  before = os.umask(0o002)
  try:
    with fold_lock.held(tmp_path):
      mode = stat.S_IMODE((tmp_path / 'lock').stat().st_mode)
  finally:
    os.umask(before)
  assert mode == 0o664


def test_without_file_locks_a_lock_that_was_taken_over_is_left(
  no_locks, tmp_path
):
  with fold_lock.held(tmp_path):
    (tmp_path / 'lock').write_text('another 17')
  assert (tmp_path / 'lock').read_text() == 'another 17'


def test_without_file_locks_silence_frees_the_fold(no_locks, tmp_path):
  (tmp_path / 'lock').write_text('another 17')
  before = time.monotonic()
  with fold_lock.held(tmp_path):
    assert time.monotonic() - before >= 0.3
    assert (tmp_path / 'lock').read_text() == (
      f'{socket.gethostname()} {os.getpid()}'
    )


def test_without_file_locks_a_killed_process_of_this_host_frees_it_at_once(
  no_locks, holder, tmp_path, monkeypatch
):
  monkeypatch.setattr(heartbeat, 'SECONDS', 1000)
  holder.send_signal(signal.SIGKILL)
  holder.wait()
  with fold_lock.held(tmp_path):
    pass
