"""Training as the command runs it, on records of 32 x 32."""

import pathlib
import re
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
import small_run
from jax.experimental import multihost_utils
from tensorboard.backend.event_processing import event_accumulator

from pnx_jax.errors import UserError
from pnx_jax.input import pipeline
from pnx_jax.storage import bucket, ranges
from pnx_jax.training import (
  experiment,
  fold_lock,
  preemption,
  run_files,
  sharding,
  train_state,
)
from pnx_jax.training import train as training
from pnx_jax.training.checkpoint import Checkpoints
from pnx_jax.training.validate import Validation

ROOT = pathlib.Path(__file__).parent.parent


def latest(config, path):
  """The newest checkpoint, as numpy."""
  directory = run_files.checkpoint_dir(path, config.fold)
  run = experiment.Experiment.build(config, platform='cpu')
  abstract = train_state.abstract(
    run.create_state, jax.random.key(0), sharding.replicated(sharding.mesh())
  )
  with Checkpoints(directory) as checkpoints:
    return jax.device_get(checkpoints.restore_latest(abstract))


@pytest.fixture(scope='module')
def finished(trained_run_and_scores, dataset_dir):
  """Path, last state, scalars and scores of the uninterrupted run."""
  path, scores = trained_run_and_scores
  config = small_run.config(dataset_dir)
  return path, latest(config, path), small_run.events(path), scores


def assert_same(found, expected):
  found, expected = jax.tree.leaves(found), jax.tree.leaves(expected)
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_array_equal(one, other)


def start(path, config, before=''):
  """Training in a process of its own, which runs the lines `before` first."""
  run_files.write(path, config, [])
  code = f"""
import os, signal, sys
from pnx_jax.training import run_files, train
{before}
train.train(run_files.load(sys.argv[1]), sys.argv[1])
"""
  return subprocess.Popen([sys.executable, '-c', code, str(path)], cwd=ROOT)


def test_run_leaves_a_workdir(finished):
  path, final, scalars, scores = finished
  assert (path / 'config.json').is_file()
  assert final.step == 6
  assert {step for step, _ in scalars['train/loss']} == {4, 6}
  assert scalars['validation/dice'][-1] == (
    6,
    pytest.approx(scores['dice'], rel=1e-6),
  )
  for name in ('train/bce_loss', 'train/dice', 'validation_raw/dice'):
    assert scalars[name]
  moved = jax.tree.map(
    lambda a, b: not np.array_equal(a, b), final.variables, final.ema
  )
  assert any(jax.tree.leaves(moved))


def test_stop_and_resume_equal_the_uninterrupted_run_bit_for_bit(
  dataset_dir, tmp_path, finished
):
  _, expected, scalars, _ = finished
  config = small_run.config(dataset_dir)
  # The signal comes before the first step and is obeyed after it.
  stopped = start(
    tmp_path,
    config,
    """
from pnx_jax.training import steps
plain = steps.plain_dice
def interrupt(*arguments):
  os.kill(os.getpid(), signal.SIGTERM)
  return plain(*arguments)
steps.plain_dice = interrupt
""",
  )
  assert stopped.wait(timeout=300) == 0
  assert latest(config, tmp_path).step == 1
  training.train(config, tmp_path)
  assert_same(latest(config, tmp_path), expected)
  assert small_run.events(tmp_path) == scalars


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_signals_soon_after_the_first_are_the_same_request(number):
  """Schedulers send pairs; the process would end here otherwise."""
  code = f"""
import signal
from pnx_jax.training import preemption
with preemption.watch() as stop_requested:
  assert not stop_requested(1)
  for _ in range(3):
    signal.raise_signal({number:d})
  assert stop_requested(2)
signal.raise_signal({number:d})  # While the last files are written.
print('written', flush=True)
preemption.REPEAT_SECONDS = 0
signal.raise_signal({number:d})
"""
  command = [sys.executable, '-c', code]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert done.stdout == 'written\n'
  assert done.returncode == -number


def test_a_signal_while_python_ends_does_not_change_the_exit_code():
  code = """
import os, signal
from pnx_jax.training import preemption
class Last:
  def __del__(self, kill=os.kill, process=os.getpid()):
    kill(process, 15)
preemption.ignore_signals()
last = Last()
"""
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT)
  assert done.returncode == 0


def test_without_a_signal_the_handlers_of_before_are_back():
  before = signal.getsignal(signal.SIGTERM)
  with preemption.watch() as stop_requested:
    assert not stop_requested(1)
  assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_was_not_told_is_raised_again():
  before = signal.getsignal(signal.SIGINT)
  with pytest.raises(KeyboardInterrupt), preemption.watch() as stop_requested:
    assert not stop_requested(1)
    signal.raise_signal(signal.SIGINT)
  assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_long_after_the_first_ends_the_process():
  code = """
import signal
from pnx_jax.training import preemption
preemption.REPEAT_SECONDS = 0
with preemption.watch() as stop_requested:
  signal.raise_signal(signal.SIGTERM)
  assert stop_requested(1)
  signal.raise_signal(signal.SIGTERM)
"""
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT)
  assert done.returncode == -signal.SIGTERM


def test_a_signal_during_the_last_validation_keeps_other_folds_from_starting(
  dataset_dir, tmp_path, monkeypatch
):
  def interrupted(*_):
    signal.raise_signal(signal.SIGTERM)
    return {'dice': 0.5}

  monkeypatch.setattr(Validation, 'run', interrupted)
  config = small_run.config(dataset_dir, eval_epochs=100.0)
  training.train_folds(config, tmp_path)
  assert run_files.trained_folds(tmp_path) == [0]


def test_all_folds_read_buckets_as_the_config_says(
  dataset_dir, tmp_path, monkeypatch
):
  """From the first read on, that of the number of folds."""
  found = []

  def no_folds(_):
    found.append((bucket._deadline_seconds, ranges._cache))
    return []

  monkeypatch.setattr(pipeline, 'folds', no_folds)
  monkeypatch.setattr(bucket, '_deadline_seconds', 300.0)
  monkeypatch.setattr(ranges, '_cache', None)
  changes = {'input.cache_dir': str(tmp_path / 'kept'), 'bucket_seconds': 7.0}
  config = small_run.config(dataset_dir, **changes)
  training.train_folds(config, tmp_path / 'run')
  ((seconds, cache),) = found
  assert seconds == 7 and cache is not None


def test_a_fold_that_another_training_holds_is_refused(dataset_dir, tmp_path):
  config = small_run.config(dataset_dir)
  with (
    fold_lock.held(run_files.fold_dir(tmp_path, config.fold)),
    pytest.raises(UserError, match='is being trained by process'),
  ):
    training.train(config, tmp_path)
  assert not (tmp_path / 'config.json').exists()


def test_more_accumulated_steps_than_steps_are_refused(dataset_dir, tmp_path):
  config = small_run.config(
    dataset_dir, **{'optimizer.accumulate_steps': 7, 'total_steps': 6}
  )
  with pytest.raises(UserError, match='accumulate_steps=7 is more than the 6'):
    training.train(config, tmp_path)


def test_processes_that_start_a_fold_stop_together_or_not_at_all(monkeypatch):
  """The other process knows of a signal of which this one does not."""
  answers = {'reached_preemption_sync_point': lambda _: False}
  answers['process_allgather'] = lambda here: np.array([here, True])
  for name, answer in answers.items():
    monkeypatch.setattr(multihost_utils, name, answer)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with preemption.watch() as stop:
    assert stop(0)
    assert not stop(1)  # From here on JAX's steps alone decide.


@pytest.mark.parametrize('trained', [True, False])
def test_a_signal_while_a_fold_is_restored_ends_the_run(
  finished, dataset_dir, tmp_path, monkeypatch, trained
):
  """Nothing is trained, and `None` keeps launch.py from the next fold."""
  path = finished[0] if trained else tmp_path
  restore = Checkpoints.restore_latest

  def interrupted(*arguments):
    signal.raise_signal(signal.SIGTERM)
    return restore(*arguments)

  monkeypatch.setattr(Checkpoints, 'restore_latest', interrupted)
  assert training.train(small_run.config(dataset_dir), path) is None
  monkeypatch.undo()
  if trained:
    assert_same(latest(small_run.config(dataset_dir), path), finished[1])
  else:
    assert not (path / 'fold0' / 'events').exists()
    assert latest(small_run.config(dataset_dir), path) is None


def test_all_folds_are_trained_one_after_another(dataset_dir, tmp_path):
  command = [sys.executable, 'launch.py', '--mode=folds']
  command += [f'--workdir={tmp_path}']
  command += small_run.flags(dataset_dir, checkpoint_steps=6, eval_epochs=100.0)
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert len(re.findall('^Total: ', done.stdout, re.MULTILINE)) == 3
  said = done.stdout + done.stderr
  for step in ('training', 'validation'):
    assert said.count(f'Compiling the {step} step') == 3
    assert said.count(f'Compiled the {step} step') == 3
  assert run_files.trained_folds(tmp_path) == [0, 1, 2]
  trained_on = [run_files.trained_on(tmp_path, fold) for fold in range(3)]
  assert not set.intersection(*trained_on)
  for fold in range(3):
    assert (run_files.checkpoint_dir(tmp_path, fold) / '6').exists()


def test_kill_at_any_moment_resumes_from_the_newest_checkpoint(
  dataset_dir, tmp_path, finished
):
  _, expected, scalars, _ = finished
  config = small_run.config(dataset_dir)
  process = start(tmp_path, config)
  done = run_files.checkpoint_dir(tmp_path, 0) / '3'
  while process.poll() is None and not done.exists():
    pass
  process.send_signal(signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL
  training.train(config, tmp_path)
  assert_same(latest(config, tmp_path), expected)
  assert small_run.events(tmp_path) == scalars


def test_a_finished_run_is_not_trained_again(finished, dataset_dir):
  path, expected, _, _ = finished
  assert training.train(small_run.config(dataset_dir), path) == {}
  assert_same(latest(small_run.config(dataset_dir), path), expected)


@pytest.mark.parametrize(
  ('field', 'value', 'step', 'rate'),
  [
    # The sum over the batch overflows.
    ('losses.dice', 3e38, 1, '0'),
    # The warm-up reaches a third of it in the second of three updates.
    ('optimizer.learning_rate', 3e38, 2, r'1e\+38'),
  ],
)
def test_a_loss_or_update_that_is_not_finite_stops_the_run(
  dataset_dir, tmp_path, field, value, step, rate
):
  """The losses are looked at after the last step."""
  config = small_run.config(
    dataset_dir,
    **{field: value, 'total_steps': 4},
    checkpoint_steps=4,
    eval_epochs=100.0,
  )
  message = rf'loss of step {step} is (nan|inf) \(learning rate {rate}\)'
  with pytest.raises(FloatingPointError, match=message):
    training.train(config, tmp_path)
  saved = np.load(tmp_path / 'fold0' / f'bad_batch_{step}_0.npz')
  assert saved['image'].shape == (8, 32, 32, 1)
  assert not list(run_files.checkpoint_dir(tmp_path, 0).glob('[0-9]*'))


def test_a_batch_that_does_not_divide_is_refused(dataset_dir, tmp_path):
  with pytest.raises(UserError, match='multiple of 8'):
    training.train(small_run.config(dataset_dir, batch_size=12), tmp_path)


def test_another_runs_weights_and_a_longer_schedule(
  finished, dataset_dir, tmp_path
):
  """The first of two runs is profiled, too."""
  source, before = tmp_path / 'source', finished[1]
  shutil.copytree(finished[0], source)
  own = run_files.trained_on(source, 0)
  # It may have seen others than this run does.
  run_files.write(source, run_files.load(source), ['elsewhere'])
  path = tmp_path / 'run'
  changes = {
    'log_steps': 1,
    'eval_epochs': 100.0,
    'init_from': str(source),
    'seed': 1,
  }
  config = small_run.config(
    dataset_dir, **changes, total_steps=2, profile_steps='1:2'
  )
  training.train(config, path)
  # Another seed draws other weights; two small steps leave them near.
  started = latest(config, path)
  near, far = (
    max(
      np.abs(np.subtract(a, b)).max()
      for a, b in zip(
        jax.tree.leaves(started.variables['params']),
        jax.tree.leaves(other),
        strict=True,
      )
    )
    for other in (before.best_variables['params'], fresh(config))
  )
  assert near < 0.01 < far
  assert list((path / 'fold0' / 'events').rglob('*.xplane.pb'))
  assert run_files.trained_on(path, 0) == own | {'elsewhere'}

  longer = small_run.config(dataset_dir, **changes, total_steps=4)
  training.train(longer, path)
  rates = dict(small_run.events(path)['train/learning_rate'])
  schedule = experiment.Experiment.build(longer, platform='cpu').learning_rate
  for step in (3, 4):
    np.testing.assert_allclose(rates[step], schedule(step - 1), rtol=1e-6)


def fresh(config):
  run = experiment.Experiment.build(config, platform='cpu')
  key = jax.random.key(config.seed, impl='rbg')
  return jax.device_get(jax.jit(run.create_state)(key).variables['params'])


def test_weights_of_a_run_that_saw_the_held_out_images_are_refused(
  finished, dataset_dir, tmp_path
):
  other = tmp_path / 'other'
  held = pipeline.Dataset(dataset_dir, ['fold0']).records
  run_files.write(
    other, small_run.config(dataset_dir), [record.image_id for record in held]
  )
  config = small_run.config(dataset_dir, init_from=str(other))
  with pytest.raises(UserError, match='that are held out here'):
    training.train(config, tmp_path / 'run')
  assert not (tmp_path / 'run' / 'config.json').exists()


def test_event_files_hold_what_tensorboard_shows(finished):
  path, *_ = finished
  accumulator = event_accumulator.EventAccumulator(
    str(path / 'fold0' / 'events')
  )
  accumulator.Reload()
  tags = accumulator.Tags()
  assert len(tags['images']) == 6
  assert 'presence' in ' '.join(tags['tensors'])
  assert 'config' in ' '.join(tags['tensors'])
  assert accumulator.SummaryMetadata('_hparams_/experiment')


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({'total_steps': -5}, 'total_steps=-5'),
    ({'optimizer.learning_rate': -1.0}, 'learning_rate=-1.0'),
    ({'optimizer.ema_decay': 1.5}, 'ema_decay=1.5'),
    ({'losses.bce': -3.0}, 'losses.bce=-3.0'),
    ({'augmentation.flip_probability': 7.0}, 'flip_probability=7.0'),
    ({'augmentation.crop_size': -3}, 'crop_size=-3'),
    ({'augmentation.crop_size': 30}, 'not divisible by 4'),
    ({'losses.deep': 1.0, 'losses.bce': 0.0, 'losses.dice': 0.0}, 'repeats'),
    ({'losses.deep': 1.0, 'model.depth': 1}, 'no stride left'),
    ({'model.normalization': 'frozen'}, 'pretrained'),
  ],
)
def test_a_config_that_cannot_work_leaves_no_workdir(
  dataset_dir, tmp_path, fields, words
):
  config = small_run.config(
    dataset_dir, **{'model.deep_supervision': True, **fields}
  )
  with pytest.raises(UserError, match=words):
    training.train(config, tmp_path)
  assert not list(tmp_path.iterdir())


def test_a_trained_network_beats_the_all_empty_one(
  dataset_dir, tmp_path, monkeypatch
):
  """On the training images, since 32 x 32 is too coarse for others."""
  folds = pipeline.folds(dataset_dir)
  monkeypatch.setattr(pipeline, 'split_names', lambda *_: (folds, folds))
  config = small_run.config(
    dataset_dir,
    **{
      'total_steps': 100,
      'log_steps': 100,
      'checkpoint_steps': 100,
      'eval_epochs': 100.0,
      'model.width': 8,
      'positive_share': ((0, 0.9),),
      'optimizer.learning_rate': 1e-2,
      'optimizer.ema_decay': 0.9,
      'augmentation.flip_probability': 0.0,
      'augmentation.affine_probability': 0.0,
      'augmentation.distortion_probability': 0.0,
      'augmentation.intensity_probability': 0.0,
      'augmentation.noise_probability': 0.0,
    },
  )
  scores = training.train(config, tmp_path)
  assert scores['dice'] > scores['all_empty_dice'] + 0.15
  assert scores['dice_positive'] > 0.5
