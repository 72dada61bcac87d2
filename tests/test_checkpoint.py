import functools
import gc
import json
import logging
import pathlib
import resource
import shutil
import subprocess
import sys

import clu.metrics
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pnx_jax.errors import UserError
from pnx_jax.training import sharding
from pnx_jax.training.checkpoint import Checkpoints
from pnx_jax.training.train_state import TrainState


@flax.struct.dataclass
class Metrics(clu.metrics.Collection):
  loss: clu.metrics.Average.from_output('loss')


def state(step):
  """A state whose every number tells its step."""
  variables = {'params': {'kernel': jnp.full((8, 5), float(step))}}
  made = TrainState(
    step=jnp.int32(step),
    variables=variables,
    ema=jax.tree.map(lambda x: -x, variables),
    opt_state=({'count': jnp.int32(step)},),
    metrics=Metrics.single_from_model_output(loss=jnp.float32(step)),
  )
  return jax.device_put(made, sharding.replicated(sharding.mesh()))


@functools.cache
def abstract():
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    state(0),
  )


TESTS = pathlib.Path(__file__).parent


def save(directory, scores, **kwargs):
  with Checkpoints(directory, **kwargs) as checkpoints:
    for step, score in scores.items():
      checkpoints.save(step, state(step), score=score)


def steps(directory):
  return sorted(int(p.name) for p in directory.iterdir() if p.name.isdigit())


def assert_is_step(restored, step):
  found, expected = jax.tree.leaves(restored), jax.tree.leaves(state(step))
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_array_equal(one, other)


@pytest.fixture
def abandoned_reads():
  """Orbax leaves coroutines behind when a read fails; they end here."""
  yield
  gc.collect()


quiet = functools.partial(
  pytest.mark.filterwarnings,
  'ignore::pytest.PytestUnraisableExceptionWarning',
  'ignore::RuntimeWarning',
)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """Steps 1 and 2, 1 the best."""
  directory = tmp_path_factory.mktemp('saved')
  save(directory, {1: 0.9, 2: 0.5})
  return directory


def test_checkpoints_without_a_score_warn_of_nothing(tmp_path, caplog):
  with caplog.at_level(logging.WARNING, 'absl'):
    save(tmp_path, {1: None})
  assert not caplog.records


def test_newest_and_best_are_kept(tmp_path):
  save(tmp_path, {1: 0.2, 2: 0.9, 3: None, 4: 0.4, 5: None, 6: 0.1, 7: None})
  assert steps(tmp_path) == [2, 6, 7]
  with Checkpoints(tmp_path) as checkpoints:
    assert_is_step(checkpoints.restore_latest(abstract()), 7)
    found, variables = checkpoints.restore_best(abstract().variables)
  assert found == [2]
  np.testing.assert_array_equal(variables['params']['kernel'], -2.0)


def test_the_best_few_are_averaged(tmp_path):
  save(tmp_path, {1: 0.8, 2: 0.9, 3: 0.1, 4: 0.7, 5: 0.2}, keep_best=3)
  with Checkpoints(tmp_path, keep_best=3) as checkpoints:
    found, variables = checkpoints.restore_best(abstract().variables, count=3)
  assert found == [2, 1, 4]
  np.testing.assert_allclose(variables['params']['kernel'], -7 / 3, rtol=1e-6)


@pytest.mark.parametrize('lost', ['metrics/metrics', 'metrics'])
def test_a_best_checkpoint_without_its_score_stays_the_best(
  tmp_path, caplog, lost
):
  save(tmp_path, {1: 0.9, 2: 0.5, 3: None})
  path = tmp_path / '1' / lost
  shutil.rmtree(path) if path.is_dir() else path.unlink()
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.best_steps() == [1, 2]
    checkpoints.save(4, state(4), score=0.6)
  assert 'restored from the checksums' in caplog.text
  assert steps(tmp_path) == [1, 3, 4]


@pytest.mark.parametrize('score', [0.1, 0.95])
def test_a_score_that_was_edited_is_restored(tmp_path, caplog, score):
  save(tmp_path, {1: 0.9, 2: 0.5, 3: None})
  path = tmp_path / ('1' if score < 0.9 else '2') / 'metrics' / 'metrics'
  path.write_text(json.dumps({'score': score}))
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.best_steps() == [1, 2]
  assert 'restored from the checksums' in caplog.text


@pytest.mark.parametrize(
  ('before', 'after'),
  [('"ema"', '"emb"'), ('"score"', '"scorf"'), ('0.9', '0.8')],
)
def test_changed_checksums_are_damage(tmp_path, caplog, before, after):
  save(tmp_path, {1: 0.9, 2: 0.5})
  path = tmp_path / '1' / 'checksums' / 'metadata'
  content = path.read_text()
  assert before in content
  path.write_text(content.replace(before, after))
  with Checkpoints(tmp_path) as checkpoints:
    found, _ = checkpoints.restore_best(abstract().variables)
  assert found == [2]
  assert 'Checkpoint 1' in caplog.text


@quiet()
def test_a_full_disk_is_one_line_and_keeps_what_is_there(
  tmp_path, caplog, abandoned_reads
):
  save(tmp_path, {1: 0.9})
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
  try:
    with pytest.raises(
      UserError, match=r'cannot save .* too large; .* complete: make room'
    ):
      save(tmp_path, {2: 0.95})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert 'Traceback' not in caplog.text
  # In a process of its own: in this one threads of the failed save still end.
  code = f"""
import test_checkpoint as tests
with tests.Checkpoints({str(tmp_path)!r}) as checkpoints:
  tests.assert_is_step(checkpoints.restore_latest(tests.abstract()), 1)
  checkpoints.save(2, tests.state(2), score=0.95)
"""
  subprocess.run([sys.executable, '-c', code], cwd=TESTS, check=True)
  with Checkpoints(tmp_path) as checkpoints:
    assert_is_step(checkpoints.restore_latest(abstract()), 2)


def test_an_empty_folder_is_a_fresh_start_but_has_no_best(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.restore_latest(abstract()) is None
    with pytest.raises(UserError, match=r'train that fold first'):
      checkpoints.restore_best(abstract().variables)


def truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_byte(path):
  content = bytearray(path.read_bytes())
  if content:
    content[len(content) // 2] ^= 0x10
  path.write_bytes(content)


@quiet()
@pytest.mark.parametrize('damage', [truncate, flip_byte, pathlib.Path.unlink])
def test_damage_to_any_file_never_gives_wrong_numbers(
  saved, tmp_path, damage, caplog, abandoned_reads
):
  files = sorted(p for p in (saved / '2').rglob('*') if p.is_file())
  assert len(files) > 10
  passed_over = 0
  for place, file in enumerate(files):
    copy = tmp_path / str(place)
    shutil.copytree(saved, copy)
    damage(copy / file.relative_to(saved))
    caplog.clear()
    with caplog.at_level(logging.ERROR), Checkpoints(copy) as checkpoints:
      restored = checkpoints.restore_latest(abstract())
      step = int(restored.step)
      assert_is_step(restored, step)
      if step == 1:
        passed_over += 1
        assert 'Checkpoint 2' in caplog.text and 'damaged' in caplog.text
        # The freed step can be written again.
        checkpoints.save(2, state(2), score=0.95)
        checkpoints.wait()
        assert_is_step(checkpoints.restore_latest(abstract()), 2)
  assert passed_over > 3


@quiet()
def test_all_damaged_is_an_error_and_no_fresh_start(
  saved, tmp_path, abandoned_reads
):
  shutil.copytree(saved, tmp_path / 'copy')
  for file in (tmp_path / 'copy').rglob('*'):
    if file.is_file() and file.parent.name == 'd':
      truncate(file)
  with (
    Checkpoints(tmp_path / 'copy') as checkpoints,
    pytest.raises(UserError, match=r'all checkpoints .* damaged .*1, 2'),
  ):
    checkpoints.restore_latest(abstract())
