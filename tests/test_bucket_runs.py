"""Runs whose data and workdir both lie in an emulated bucket."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import bucket_servers
import pytest
import small_run
from output_files import csv_rows

import pnx_jax
from pnx_jax import publish
from pnx_jax.errors import UserError
from pnx_jax.storage import bucket, heartbeat, lease, local
from pnx_jax.storage.addresses import parse
from pnx_jax.storage.bucket import Bucket
from pnx_jax.storage.marker import Marker
from pnx_jax.storage.published import Folder
from pnx_jax.training import preemption
from pnx_jax.training.train import train

ROOT = pathlib.Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(
  bucket_servers.missing() is not None and os.environ.get('CI') != 'true',
  reason=f'{bucket_servers.missing()} is not installed',
)


@pytest.fixture(params=['gs', pytest.param('s3', marks=pytest.mark.slow)])
def variables(request, tmp_path):
  """What makes programs use an emulated bucket, and a cache of their own."""
  with bucket_servers.serving(request.param) as (proxy, variables):
    cache = {'XDG_CACHE_HOME': str(tmp_path / 'cache')}
    with bucket_servers.environment(variables | cache):
      local._slot.cache_clear()
      emulator = {'scheme': request.param, 'target': str(proxy.target)}
      yield variables | cache | emulator
  bucket._open.cache_clear()


def published(folder, name, scheme):
  """Puts a local folder into the bucket; returns its address."""
  address = f'{scheme}://{bucket_servers.BUCKET}/{name}'
  publish.main([str(folder), address])
  return address


def checksums(folder, step):
  """Of every array, and the score, of a checkpoint."""
  path = folder / f'fold0/checkpoints/{step}/checksums/metadata'
  return {k: v for k, v in json.loads(path.read_text()).items() if k != 'seal'}


@contextlib.contextmanager
def stop_after_step_3():
  yield lambda step: step >= 3


def test_a_run_resumes_from_its_bucket_alone(
  variables, dataset_dir, trained_run, tmp_path, monkeypatch
):
  monkeypatch.setattr(heartbeat, 'SECONDS', 1.0)
  scheme = variables['scheme']
  data = published(dataset_dir, 'data', scheme)
  workdir = f'{scheme}://{bucket_servers.BUCKET}/runs/small'
  with monkeypatch.context() as patch:
    patch.setattr(preemption, 'watch', stop_after_step_3)
    train(small_run.config(data), workdir)
  shutil.rmtree(tmp_path / 'cache')  # As on another machine.
  local.with_large_files_in_place.cache_clear()
  train(small_run.config(data), workdir)
  # The record files were not copied, but read by parts.
  files = [*(tmp_path / 'cache').rglob('*.tfrecord-*')]
  assert files and not any(file.stat().st_blocks for file in files)

  copy = Folder(parse(workdir), tmp_path / 'copy')
  copy.fetch()
  assert checksums(copy.path, 6) == checksums(trained_run, 6)
  assert small_run.events(copy.path).keys() == (
    small_run.events(trained_run).keys()
  )
  config = json.loads((copy.path / 'config.json').read_text())
  assert config['data_dir'] == data
  with (
    lease.held(parse(workdir) / 'fold0.lease'),
    pytest.raises(UserError, match=f'{workdir}/fold0.lease is held'),
  ):
    train(small_run.config(data), workdir)


def launch(variables, data, workdir):
  return subprocess.Popen(
    [
      sys.executable,
      'launch.py',
      f'--workdir={workdir}',
      *small_run.flags(data),
    ],
    cwd=ROOT,
    env=os.environ | variables,
    stderr=subprocess.PIPE,
    text=True,
  )


def published_steps(workdir):
  names = Marker.read(Bucket(parse(workdir)), parse(workdir)).files
  return {
    int(name.split('/')[2])
    for name in names
    if name.startswith('fold0/checkpoints/')
  }


def kill_after_step_2(processes, workdir):
  """Kills a training of 6 steps when it has published step 2 or a later one."""
  while max(published_steps(workdir), default=0) < 2:
    assert processes[0].poll() is None, processes[0].communicate()
    time.sleep(0.05)
  for process in processes:
    process.kill()
    process.communicate()
  assert max(published_steps(workdir)) < 6


@pytest.mark.slow
def test_a_killed_run_resumes_bit_for_bit(
  variables, dataset_dir, trained_run, tmp_path
):
  scheme = variables['scheme']
  data = published(dataset_dir, 'data', scheme)
  workdir = f'{scheme}://{bucket_servers.BUCKET}/runs/killed'
  first = launch(variables, data, workdir)
  kill_after_step_2([first], workdir)
  shutil.rmtree(tmp_path / 'cache')
  second = launch(variables, data, workdir)
  error = second.communicate()[1]
  assert second.returncode == 0, error

  copy = Folder(parse(workdir), tmp_path / 'copy')
  copy.fetch()
  assert checksums(copy.path, 6) == checksums(trained_run, 6)

  evaluation = subprocess.run(
    [sys.executable, 'launch.py', '--mode=eval', f'--workdir={workdir}'],
    cwd=ROOT,
    env=os.environ | variables,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert evaluation.returncode == 0, evaluation.stderr
  copy.fetch()
  assert (copy.path / 'eval' / 'report.html').exists()


@pytest.fixture
def read_only(variables):
  """Variables of a process that may read the bucket and not write."""
  proxy = bucket_servers.Proxy(int(variables['target']))
  proxy.status = lambda method, _: None if method in ('GET', 'HEAD') else 403
  scheme = variables['scheme']
  return variables | bucket_servers.variables(scheme, proxy.port)


@pytest.mark.slow
def test_two_processes_train_like_one_and_the_first_alone_writes(
  variables, read_only, dataset_dir, trained_run, tmp_path
):
  scheme = variables['scheme']
  data = published(dataset_dir, 'data', scheme)
  workdir = f'{scheme}://{bucket_servers.BUCKET}/runs/two'
  flags = [*small_run.flags(data), f'--workdir={workdir}']
  environments = variables, read_only
  small_run.printed(small_run.two_processes(*flags, environments=environments))
  copy = Folder(parse(workdir), tmp_path / 'copy')
  copy.fetch()
  small_run.assert_same_course(copy.path, trained_run)


@pytest.mark.slow
def test_two_processes_that_were_killed_resume_bit_for_bit(
  variables, read_only, dataset_dir, tmp_path
):
  scheme = variables['scheme']
  data = published(dataset_dir, 'data', scheme)
  runs = f'{scheme}://{bucket_servers.BUCKET}/runs'
  environments = variables, read_only

  def start(name):
    flags = [*small_run.flags(data), f'--workdir={runs}/{name}']
    return small_run.two_processes(*flags, environments=environments)

  small_run.printed(start('whole'))
  both = start('killed')
  kill_after_step_2(both, f'{runs}/killed')
  shutil.rmtree(tmp_path / 'cache')
  small_run.printed(start('killed'))
  whole, killed = (
    Folder(parse(f'{runs}/{name}'), tmp_path / name)
    for name in ('whole', 'killed')
  )
  whole.fetch()
  killed.fetch()
  assert checksums(killed.path, 6) == checksums(whole.path, 6)
  small_run.printed(
    small_run.two_processes(
      '--mode=eval', f'--workdir={runs}/killed', environments=environments
    )
  )
  killed.fetch()
  assert (killed.path / 'eval' / 'report.html').exists()


@pytest.mark.slow
def test_build_prediction_and_export_in_a_bucket(
  variables,
  dataset_dir,
  phantom_films,
  run_with_findings,
  five_films,
  five_films_predicted,
  tmp_path,
):
  scheme = variables['scheme']
  root = parse(f'{scheme}://{bucket_servers.BUCKET}')

  def run(*words):
    done = subprocess.run(
      [sys.executable, *map(str, words)],
      cwd=ROOT,
      env=os.environ | variables,
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr

  def fetched(name):
    copy = Folder(root / name, tmp_path / 'fetched' / name)
    copy.fetch()
    return copy.path

  for path in phantom_films.rglob('*'):
    if path.is_file():
      name = path.relative_to(phantom_films).as_posix()
      Bucket(root).write(f'films/{name}', path.read_bytes())
  run(
    *('-m', 'data_prep.build', f'--output_dir={root}/built'),
    f'--dicom_dir={root}/films/dicom-images-train',
    f'--rle_csv={root}/films/train-rle.csv',
    f'--test_dicom_dir={root}/films/dicom-images-test',
    f'--patient_map={root}/films/nih_id.csv',
    f'--patient_key={pathlib.Path(dataset_dir).parent}/.patient_key',
    *('--image_size=32', '--num_folds=3'),
  )
  for path in pathlib.Path(dataset_dir).glob('*.tfrecord*'):
    assert (fetched('built') / path.name).read_bytes() == path.read_bytes()

  workdir = published(run_with_findings, 'run', scheme)
  run('-m', 'pnx_jax.export', f'--workdir={workdir}', f'--output={root}/model')
  for path in five_films.iterdir():
    Bucket(root).write(f'new/{path.name}', path.read_bytes())
  for name, model in (
    ('run', f'--workdir={workdir}'),
    ('export', f'--model={root}/model'),
  ):
    run(
      *('launch.py', '--mode=predict', f'--input={root}/new', model),
      f'--output_dir={root}/predicted_by_{name}',
    )
  expected = {
    row['image_id']: row['area_px']
    for row in csv_rows(five_films_predicted[0] / 'worklist.csv')
  }
  for name in ('predicted_by_run', 'predicted_by_export'):
    found = csv_rows(fetched(name) / 'worklist.csv')
    assert {row['image_id']: row['area_px'] for row in found} == expected
  pnx_jax.load(workdir)


@pytest.mark.slow
def test_of_two_jobs_in_one_workdir_one_ends_with_one_line(
  variables, dataset_dir, tmp_path
):
  scheme = variables['scheme']
  workdir = f'{scheme}://{bucket_servers.BUCKET}/runs/contended'
  jobs = [launch(variables, dataset_dir, workdir) for _ in range(2)]
  errors = [job.communicate()[1] for job in jobs]
  codes = [job.returncode for job in jobs]
  assert sorted(codes) == [0, 2], errors
  lines = errors[codes.index(2)].strip().splitlines()
  # TensorStore, in C++, logs where it found credentials.
  (line,) = [line for line in lines if not re.match(r'[IW]\d{4} .*\.cc:', line)]
  assert line.startswith(f'error: {workdir}/fold0.lease is held')
