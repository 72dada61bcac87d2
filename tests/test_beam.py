"""The Beam pipelines write what the worker processes write."""

import collections

import dicom_files
import pytest

from data_prep import batches, dataset
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


@pytest.mark.filterwarnings('ignore')  # Of Beam and of Dask.
def test_two_dask_workers_write_the_same_records(tmp_path, monkeypatch):
  pytest.importorskip('apache_beam')
  distributed = pytest.importorskip('distributed')
  rows = ['ImageId,EncodedPixels']
  for number in range(24):
    dicom_files.write(
      tmp_path / 'train' / f'{number}.dcm',
      dicom_files.film(seed=number),
      PatientID=f'{number}',
    )
    rows.append(f'{number},{"3 4" if number % 2 else "-1"}')
  (tmp_path / 'train-rle.csv').write_text('\n'.join(rows))
  monkeypatch.setattr(batches, '_FILMS_PER_BATCH', 1)
  local = dataset.build(request(tmp_path, 'local'))
  with (
    distributed.LocalCluster(
      n_workers=2,
      threads_per_worker=1,
      host='127.0.0.1',
      dashboard_address=None,
    ) as cluster,
    distributed.Client(cluster) as client,
    distributed.get_task_stream(client) as stream,
  ):
    # By default 128 elements are a partition: one worker would do all.
    options = f'dask_client_address={cluster.scheduler_address}'
    by_dask = dataset.build(
      request(
        tmp_path,
        'dask',
        beam_runner=DASK,
        beam_options=f'{options},dask_npartitions=8',
      )
    )
  assert by_dask == local
  for path in (tmp_path / 'local').iterdir():
    written = (tmp_path / 'dask' / path.name).read_bytes()
    assert written == path.read_bytes(), path.name
  tasks = collections.Counter(task['worker'] for task in stream.data)
  assert len(tasks) == 2
  assert min(tasks.values()) >= tasks.total() / 4, tasks
