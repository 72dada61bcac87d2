"""docs/cluster/train.sbatch on a real SLURM, on this machine.

CI runs one requeue. The other tests are slow proofs.
"""

import os
import pathlib
import shutil
import socket
import tempfile

import numpy as np
import pytest
import slurm_cluster
import small_run
from output_files import csv_rows

ROOT = pathlib.Path(__file__).parent.parent
SCRIPT = ROOT / 'docs' / 'cluster' / 'train.sbatch'
RUN_TOLERANCE = 2e-3

pytestmark = pytest.mark.skipif(
  bool(slurm_cluster.missing()),
  reason=f'not installed: {", ".join(slurm_cluster.missing())}',
)

# Steps take a second until the job is requeued: time for a signal to come.
SLOW_FIRST_START = """
import os
if 'SLURM_PROCID' in os.environ and 'SLURM_RESTART_COUNT' not in os.environ:
  import time
  from pnx_jax.input import pipeline
  plain = pipeline.training_batches
  def slow(*arguments, **fields):
    for batch in plain(*arguments, **fields):
      time.sleep(1)
      yield batch
  pipeline.training_batches = slow
"""
NO_SAVES = {'checkpoint_steps': 1000, 'eval_epochs': 1000.0}


@pytest.fixture
def cluster():
  folder = pathlib.Path(tempfile.mkdtemp(prefix='slurm'))
  with slurm_cluster.started(folder) as cluster:
    cluster.environment.update(small_run.ONE_DEVICE)
    yield cluster
  shutil.rmtree(folder)


class Jobs:
  """Submits the script from the checkout, with the output in a folder."""

  def __init__(self, cluster, folder):
    self.cluster, self.folder = cluster, folder

  def submit(self, *words, options=()):
    output = f'--output={self.folder}/slurm-%j.out'
    return self.cluster.submit(output, *options, str(SCRIPT), *words, cwd=ROOT)

  def output(self, number='*'):
    paths = sorted(self.folder.glob(f'slurm-{number}.out'))
    return ''.join(path.read_text() for path in paths)

  def finish(self, number, seconds=600):
    try:
      return self.cluster.wait(number, seconds=seconds)
    except Exception:
      print(self.output())
      raise


@pytest.fixture
def jobs(cluster, tmp_path):
  return Jobs(cluster, tmp_path)


def train_flags(dataset_dir, workdir, **changes):
  return [*small_run.flags(dataset_dir, **changes), f'--workdir={workdir}']


def assert_same_losses(workdir, other, *, rtol):
  found, expected = small_run.events(workdir), small_run.events(other)
  for name in ('train/loss', 'validation/loss'):
    steps, values = zip(*found[name], strict=True)
    # Of validations, only the last one where the others are off.
    by_step = dict(expected[name])
    np.testing.assert_allclose(
      values, [by_step[step] for step in steps], rtol=rtol
    )


def interrupted(jobs, folder, flags, *, options=(), signal):
  """Runs a job that is signaled once it trains; returns what it ended as."""
  (folder / 'sitecustomize.py').write_text(SLOW_FIRST_START)
  jobs.cluster.environment['PYTHONPATH'] = f'{folder}:{ROOT}'
  number = jobs.submit(*flags, options=options)
  if signal:
    slurm_cluster.wait_until(
      lambda: 'Compiling the training step' in jobs.output(number), seconds=120
    )
    jobs.cluster.run('scancel', '--signal=TERM', number)
  [job] = jobs.finish(number)
  return job


def test_a_job_that_is_signaled_saves_is_requeued_and_resumes(
  jobs, trained_run, dataset_dir, tmp_path
):
  """With one task, as the only checkpoint is the one that the signal asks for.

  `trained_run` is the same run, undisturbed, on eight devices.
  """
  run = tmp_path / 'run'
  job = interrupted(
    jobs,
    tmp_path,
    train_flags(dataset_dir, run, **NO_SAVES),
    options=['--ntasks-per-node=1'],
    signal=True,
  )
  assert job['Restarts'] == '1'
  output = jobs.output()
  assert output.count('Stopped and saved at step') == 1
  assert 'step 6/6' in output
  assert_same_losses(run, trained_run, rtol=RUN_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize('by_time', [False, True])
def test_two_tasks_that_are_stopped_end_bit_for_bit_like_undisturbed_ones(
  jobs, dataset_dir, tmp_path, by_time
):
  """Stopped by the end of their time, or by hand."""
  whole, run = tmp_path / 'whole', tmp_path / 'run'
  changes = {**NO_SAVES, 'total_steps': 40}
  jobs.finish(jobs.submit(*train_flags(dataset_dir, whole, **changes)))
  assert 'Stopped' not in jobs.output()
  job = interrupted(
    jobs,
    tmp_path,
    train_flags(dataset_dir, run, **changes),
    # SLURM looks twice a minute and sends the signal up to 30 s early.
    options=['--time=1', '--signal=TERM@5'] if by_time else (),
    signal=not by_time,
  )
  assert int(job['Restarts']) >= 1
  assert 'Stopped and saved at step' in jobs.output()
  assert small_run.events(run) == small_run.events(whole)
  print(jobs.output())


@pytest.mark.slow
def test_two_tasks_have_the_losses_of_one_process(
  jobs, trained_run, dataset_dir, tmp_path
):
  run = tmp_path / 'run'
  jobs.finish(jobs.submit(*train_flags(dataset_dir, run)))
  assert 'Starting JAX distributed service on localhost:' in jobs.output()
  assert_same_losses(run, trained_run, rtol=RUN_TOLERANCE)


@pytest.mark.slow
def test_two_nodes_have_the_losses_of_one_process(
  trained_run, dataset_dir, tmp_path
):
  if socket.gethostbyname(socket.gethostname()) != '127.0.0.1':
    pytest.skip('the name of this host is not the loopback interface')
  folder = pathlib.Path(tempfile.mkdtemp(prefix='slurm'))
  with slurm_cluster.started(folder, nodes=2) as cluster:
    cluster.environment.update(small_run.ONE_DEVICE)
    jobs, run = Jobs(cluster, tmp_path), tmp_path / 'run'
    options = ['--nodes=2', '--ntasks-per-node=1']
    jobs.finish(jobs.submit(*train_flags(dataset_dir, run), options=options))
  shutil.rmtree(folder)
  assert_same_losses(run, trained_run, rtol=RUN_TOLERANCE)


@pytest.mark.slow
def test_folds_as_a_job_array(jobs, trained_run, dataset_dir, tmp_path):
  run = tmp_path / 'run'
  number = jobs.submit(
    *train_flags(dataset_dir, run),
    '--mode=folds',
    options=['--array=0-2', '--ntasks-per-node=1'],
  )
  jobs.finish(number)
  assert sorted(path.name for path in run.glob('fold*')) == [
    'fold0',
    'fold1',
    'fold2',
  ]
  assert_same_losses(run, trained_run, rtol=RUN_TOLERANCE)


@pytest.mark.slow
def test_evaluation_and_prediction_by_two_tasks(
  jobs,
  run_with_findings,
  dataset_dir,
  five_films,
  five_films_predicted,
  evaluated_run,
  tmp_path,
):
  run = shutil.copytree(evaluated_run, tmp_path / 'run')
  shutil.rmtree(run / 'eval')
  jobs.finish(
    jobs.submit(
      '--mode=eval',
      f'--workdir={run}',
      '--config.eval.bootstrap=50',
      '--config.eval.num_overlays=0',
    )
  )
  expected = csv_rows(evaluated_run / 'eval' / 'per_image.csv')
  found = csv_rows(run / 'eval' / 'per_image.csv')
  assert [row['image_id'] for row in found] == [
    row['image_id'] for row in expected
  ]
  jobs.finish(
    jobs.submit(
      '--mode=predict',
      f'--workdir={run_with_findings}',
      f'--input={five_films}',
      f'--output_dir={tmp_path}/out',
    )
  )
  one, _ = five_films_predicted
  for name in ('worklist.csv', 'not_assessed.csv', 'masks/masks.csv'):
    ours, theirs = tmp_path / 'out' / name, one / name
    assert ours.read_text() == theirs.read_text(), name
  assert os.listdir(tmp_path / 'out' / 'masks').sort() == (
    os.listdir(one / 'masks').sort()
  )
