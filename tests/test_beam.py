"""The Beam pipelines write what the worker processes write."""

import collections
import contextlib
import os
import signal
import threading
import time
import uuid

import dicom_files
import pytest

from data_prep import batches, dataset, siim
from data_prep.request import Request


def request(folder, name, **changes):
  return Request(
    dicom_dir=str(folder / 'train'),
    rle_csv=str(folder / 'train-rle.csv'),
    output_dir=str(folder / name),
    image_size=16,
    num_folds=2,
    **changes,
  )


@pytest.mark.filterwarnings('ignore')  # Beam's own
def test_the_same_records(tmp_path, monkeypatch):
  pytest.importorskip('apache_beam')
  rows = ['ImageId,EncodedPixels']
  for number in range(6):
    dicom_files.write(
      tmp_path / 'train' / f'{number}.dcm',
      dicom_files.film(seed=number),
      PatientID=f'{number}',
    )
    rows.append(f'{number},{"3 4" if number % 2 else "-1"}')
  (tmp_path / 'train' / 'broken.dcm').write_bytes(b'')
  (tmp_path / 'train-rle.csv').write_text('\n'.join(rows))
  monkeypatch.setattr(batches, '_FILMS_PER_BATCH', 3)
  pool = dataset.build(request(tmp_path, 'pool'))
  beam = dataset.build(request(tmp_path, 'beam', beam_runner='FnApiRunner'))
  assert beam == pool
  for path in (tmp_path / 'pool').iterdir():
    written = (tmp_path / 'beam' / path.name).read_bytes()
    assert written == path.read_bytes(), path.name


DASK = 'apache_beam.runners.dask.dask_runner.DaskRunner'


@pytest.fixture(scope='module')
def films(tmp_path_factory):
  """24 films in batches of one and shards of two, and their local build."""
  pytest.importorskip('apache_beam')
  pytest.importorskip('distributed')
  folder = tmp_path_factory.mktemp('films')
  rows = ['ImageId,EncodedPixels']
  for number in range(24):
    dicom_files.write(
      folder / 'train' / f'{number}.dcm',
      dicom_files.film(seed=number),
      PatientID=f'{number}',
    )
    rows.append(f'{number},{"3 4" if number % 2 else "-1"}')
  (folder / 'train-rle.csv').write_text('\n'.join(rows))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(batches, '_FILMS_PER_BATCH', 1)
    patch.setattr(siim, '_RECORDS_PER_SHARD', 2)
    dataset.build(request(folder, 'local'))
    yield folder


@contextlib.contextmanager
def two_workers(told):
  """Two processes that leave a file in a folder for all that they do.

  Its name says what it was, and the process. They take their time. A process
  that is killed is replaced.
  """
  import distributed

  class Tell(distributed.WorkerPlugin):
    def setup(self, worker):
      import tensorflow  # noqa: F401 (a slow import would unbalance the work)

      from data_prep import prepare, siim

      for module, name in (prepare, 'run_batch'), (siim, 'write_shard'):
        setattr(module, name, self.telling(getattr(module, name), name))

    def telling(self, function, name):
      def call(*arguments, **options):
        (told / f'{name} {os.getpid()} {uuid.uuid4()}').touch()
        time.sleep(0.3)
        return function(*arguments, **options)

      return call

  with (
    distributed.LocalCluster(
      n_workers=2,
      threads_per_worker=1,
      host='127.0.0.1',
      dashboard_address=None,
    ) as cluster,
    distributed.Client(cluster) as client,
  ):
    client.register_plugin(Tell())
    yield cluster


def done_by(told, what):
  """How often each process did something."""
  words = [path.name.split() for path in told.iterdir()]
  return collections.Counter(int(word[1]) for word in words if word[0] == what)


def build_by(cluster, films, name):
  # By default 128 elements are a partition: one worker would do all.
  options = f'dask_client_address={cluster.scheduler_address}'
  options += ',dask_npartitions=8'
  changes = {'beam_runner': DASK, 'beam_options': options}
  dataset.build(request(films, name, **changes))
  for path in (films / 'local').iterdir():
    written = (films / name / path.name).read_bytes()
    assert written == path.read_bytes(), path.name


@pytest.mark.filterwarnings('ignore')  # Of Beam and of Dask.
def test_two_dask_workers_write_the_same_records(films, tmp_path):
  with two_workers(tmp_path) as cluster:
    build_by(cluster, films, 'dask')
  for what, number in ('run_batch', 24), ('write_shard', 12):
    by_process = done_by(tmp_path, what)
    print(what, dict(by_process))
    assert by_process.total() == number
    assert len(by_process) == 2 and os.getpid() not in by_process
    assert min(by_process.values()) >= number / 4


@pytest.mark.filterwarnings('ignore')
def test_workers_that_are_killed_leave_the_same_records(films, tmp_path):
  """One while it prepares a film, one while it writes records."""
  killed = []

  def kill(what):
    while not (busy := done_by(tmp_path, what)):
      time.sleep(0.05)
    killed.append(next(iter(busy)))
    os.kill(killed[-1], signal.SIGKILL)

  def kill_both():
    kill('run_batch')
    kill('write_shard')

  with two_workers(tmp_path) as cluster:
    killer = threading.Thread(target=kill_both, daemon=True)
    killer.start()
    build_by(cluster, films, 'killed')
    killer.join()
  print('killed', killed)
  assert len(set(killed)) == 2
  # What was under way was done again.
  assert done_by(tmp_path, 'run_batch').total() > 24
  assert done_by(tmp_path, 'write_shard').total() > 12
