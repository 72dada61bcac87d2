"""Builds that are cut short leave nothing that can be read by mistake."""

import contextlib
import errno
import fcntl
import functools
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import bucket_servers
import dicom_files
import pytest
from output_files import csv_rows

from data_prep import batches, build, dataset, report, staging
from data_prep.request import Request
from pnx_jax.errors import UserError
from pnx_jax.formats import built_dataset, tfrecord
from pnx_jax.storage import bucket, heartbeat, local
from pnx_jax.storage.addresses import parse
from pnx_jax.storage.bucket import Bucket
from pnx_jax.storage.published import Folder

FILMS = 80


@pytest.fixture(scope='module')
def archive(tmp_path_factory):
  folder = tmp_path_factory.mktemp('archive')
  rows = ['ImageId,EncodedPixels']
  for number in range(FILMS):
    dicom_files.write(
      folder / 'train' / f'{number}.dcm',
      dicom_files.film(24, 24, seed=number),
      PatientID=f'{number}',
    )
    rows.append(f'{number},{"3 4" if number % 4 == 0 else "-1"}')
  (folder / 'train-rle.csv').write_text('\n'.join(rows))
  return folder


def request(archive, output_dir, **changes):
  values = {
    'dicom_dir': str(archive / 'train'),
    'rle_csv': str(archive / 'train-rle.csv'),
    'output_dir': str(output_dir),
    'patient_key': str(archive / 'patient.key'),
    'image_size': 16,
  }
  return Request(**values | changes)


@pytest.fixture(scope='module')
def checksum(archive, tmp_path_factory):
  output_dir = tmp_path_factory.mktemp('whole') / 'siim'
  return dataset.build(request(archive, output_dir))['checksum']


def begin_and_kill(request, folder, variables=None):
  """Starts a build and kills it once films are done in a working folder."""
  names = 'dicom_dir', 'rle_csv', 'output_dir', 'patient_key', 'image_size'
  process = subprocess.Popen(
    [
      *(sys.executable, '-m', 'data_prep.build', '--num_workers=1'),
      *(f'--{name}={getattr(request, name)}' for name in names),
    ],
    cwd=pathlib.Path(__file__).parents[1],
    env=os.environ | (variables or {}),
    start_new_session=True,
  )
  deadline = time.monotonic() + 60
  while not list(folder.rglob('*.index')) and time.monotonic() < deadline:
    time.sleep(0.005)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert list(folder.rglob('*.index'))


def test_killed_build_goes_on(archive, checksum, tmp_path, capsys):
  output_dir = tmp_path / 'siim'
  begin_and_kill(request(archive, output_dir), tmp_path / '.siim.building')
  assert not output_dir.exists()
  summary = dataset.build(request(archive, output_dir))
  assert 'Resuming an interrupted build' in capsys.readouterr().out
  assert summary['checksum'] == checksum
  assert [path.name for path in tmp_path.iterdir()] == ['siim']


@pytest.mark.slow
@pytest.mark.skipif(
  bucket_servers.missing() is not None and os.environ.get('CI') != 'true',
  reason=f'{bucket_servers.missing()} is not installed',
)
def test_a_killed_build_from_and_to_a_bucket_goes_on(
  archive, checksum, tmp_path, capsys, monkeypatch
):
  """By the copies of films, and the films done, of the process before."""
  monkeypatch.setattr(heartbeat, 'SECONDS', 0.2)
  root = parse(f'gs://{bucket_servers.BUCKET}')
  with bucket_servers.serving('gs') as (_, variables):
    variables |= {'XDG_CACHE_HOME': str(tmp_path)}
    with bucket_servers.environment(variables):
      local._slot.cache_clear()
      for path in (archive / 'train').iterdir():
        Bucket(root).write(f'train/{path.name}', path.read_bytes())
      broken = f'{root}/train/broken.dcm'
      Bucket(root).write('train/broken.dcm', b'')
      wanted = request(archive, root / 'siim', dicom_dir=f'{root}/train')
      begin_and_kill(wanted, tmp_path, variables)
      assert not Folder(root / 'siim', tmp_path / 'copy').listed().exists
      summary = build.build(wanted)
      assert 'Resuming an interrupted build' in capsys.readouterr().out
      assert summary['checksum'] == checksum
      copy = Folder(root / 'siim', tmp_path / 'copy')
      copy.fetch()
  bucket._open.cache_clear()
  [rejected] = csv_rows(copy.path / 'rejected.csv')
  assert rejected['path'] == broken
  assert built_dataset.checksum(copy.path) == checksum


class Killed(BaseException):
  """As sudden as a signal."""


def crash_at(batch, *, name, real, **keywords):
  """Prepares a batch, in a worker that dies of the file of that name."""
  if any(pathlib.Path(source.path).stem == name for _, source in batch):
    os.abort()
  return real(batch, **keywords)


def test_a_build_goes_on_after_a_crash(archive, tmp_path, capsys, monkeypatch):
  """Batches that span gaps, or single files, replace no finished records."""
  output_dir = tmp_path / 'siim'
  real = batches._function

  def build(name):
    monkeypatch.setattr(
      batches,
      '_function',
      lambda *arguments: functools.partial(
        crash_at, name=name, real=real(*arguments)
      ),
    )
    return dataset.build(request(archive, output_dir))

  def kill(request, outcomes):
    left.difference_update(outcome.path for outcome in outcomes)
    if len(left) < FILMS - 30:
      raise Killed

  monkeypatch.setattr(batches, '_FILMS_PER_BATCH', 8)
  left = {str(path) for path in (archive / 'train').iterdir()}
  with monkeypatch.context() as patch:
    patch.setattr(batches, 'stop_at_bad_film', kill)
    with pytest.raises(Killed):
      build('17')
  # Another file crashes now; the first one would pass, were it tried again.
  summary = build('63')
  assert 'Resuming an interrupted build: ' in capsys.readouterr().out
  assert summary['found'] == FILMS
  assert summary['rejected_by_reason'] == {'crashed': 2}
  splits = [f'fold{k}' for k in range(5)]
  records = built_dataset.split_source(output_dir, splits)
  ids = [tfrecord.parse(records[n]).image_id for n in range(len(records))]
  assert sorted(ids) == sorted({str(n) for n in range(FILMS)} - {'17', '63'})


def test_full_disk(archive, checksum, tmp_path, capsys, monkeypatch):
  output_dir = tmp_path / 'siim'

  def fail(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  with monkeypatch.context() as patch:
    patch.setattr(report, 'write', fail)
    with pytest.raises(UserError, match=r'No space left.*same command'):
      dataset.build(request(archive, output_dir))
  assert not output_dir.exists()
  summary = dataset.build(request(archive, output_dir))
  assert f'{FILMS} films are done' in capsys.readouterr().out
  assert summary['checksum'] == checksum


def test_leftovers_of_other_inputs_are_removed(
  archive, checksum, tmp_path, capsys
):
  output_dir = tmp_path / 'siim'
  folder = tmp_path / '.siim.building'
  folder.mkdir()
  (folder / '00000000.index').write_bytes(b'of another build')
  summary = dataset.build(request(archive, output_dir))
  assert 'Removed what an interrupted build' in capsys.readouterr().out
  assert summary['checksum'] == checksum


def test_two_builds_at_once(archive, tmp_path):
  folder = tmp_path / '.siim.building'
  folder.mkdir()
  with open(folder / 'lock', 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(UserError, match='another build is writing'):
      dataset.build(request(archive, tmp_path / 'siim'))


def test_overwriting_keeps_the_old_dataset_until_the_new_one_is_there(
  archive, tmp_path, monkeypatch
):
  output_dir = tmp_path / 'siim'
  dataset.build(request(archive, output_dir, seed=1))
  (output_dir / 'old').touch()
  wanted = request(archive, output_dir, overwrite=True)
  with monkeypatch.context() as patch:
    patch.setattr(report, 'write', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      dataset.build(wanted)
  assert (output_dir / 'old').exists()
  dataset.build(wanted)
  assert not (output_dir / 'old').exists()
  assert (output_dir / 'dataset_info.json').exists()


@pytest.mark.parametrize('older', [False, True])
@pytest.mark.parametrize('last', range(7))
def test_a_kill_while_publishing_loses_no_dataset(
  tmp_path, monkeypatch, last, older
):
  """Whichever step is the last one, the next command finds one dataset."""
  output_dir = tmp_path / 'siim'
  if older:
    output_dir.mkdir()
    (output_dir / 'old').touch()
  steps = iter(range(last))

  def counted(step):
    def call(*arguments, **keywords):
      if next(steps, None) is None:
        raise Killed
      return step(*arguments, **keywords)

    return call

  with staging.folder(output_dir) as folder:
    (folder / 'inputs.json').touch()
    built = folder / 'built'
    built.mkdir()
    (built / 'new').touch()
    with monkeypatch.context() as patch:
      patch.setattr(pathlib.Path, 'rename', counted(pathlib.Path.rename))
      patch.setattr(shutil, 'rmtree', counted(shutil.rmtree))
      with contextlib.suppress(Killed):
        staging.publish(built, output_dir)
  staging.finish(output_dir)
  begun = folder.exists() and (folder / 'inputs.json').exists()
  if last == 0:  # Nothing was moved: the build goes on.
    assert begun and output_dir.exists() == older
    return
  assert [path.name for path in output_dir.iterdir()] == ['new']
  assert [path.name for path in tmp_path.iterdir()] == ['siim']


def test_a_dataset_out_of_the_way_comes_back(tmp_path, capsys):
  (tmp_path / '.siim.replaced').mkdir()
  (tmp_path / '.siim.replaced' / 'old').touch()
  staging.finish(tmp_path / 'siim')
  assert 'Completed' in capsys.readouterr().out
  assert [path.name for path in tmp_path.rglob('*')] == ['siim', 'old']
