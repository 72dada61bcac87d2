"""Edits of a run's files are noticed by what its checkpoints record."""

import json
import shutil

import pytest
import small_run

from pnx_jax.errors import UserError
from pnx_jax.evaluation.evaluate import evaluate
from pnx_jax.training import run_files, run_seal
from pnx_jax.training.train import train


@pytest.fixture
def run(trained_run, tmp_path):
  return shutil.copytree(trained_run, tmp_path / 'run')


def edit(path, change):
  content = json.loads(path.read_text())
  change(content)
  path.write_text(json.dumps(content))


EDITS = {
  'config.json (seed is 1, was 0)': lambda run: edit(
    run / 'config.json', lambda fields: fields.update(seed=1)
  ),
  'config.json (losses.bce is 2.0, was 3.0)': lambda run: edit(
    run / 'config.json', lambda fields: fields['losses'].update(bce=2.0)
  ),
  'config.json (missing)': lambda run: (run / 'config.json').unlink(),
  'trained_on.json (other images)': lambda run: edit(
    run / 'fold0' / 'trained_on.json', list.pop
  ),
  'trained_on.json (missing)': lambda run: (
    run / 'fold0' / 'trained_on.json'
  ).unlink(),
}


@pytest.mark.parametrize('words', EDITS)
def test_an_edited_or_missing_file_is_refused_by_name(
  run, dataset_dir, words, caplog
):
  assert run_seal.check(run, 0) == []
  EDITS[words](run)
  with pytest.raises(UserError) as error:
    train(small_run.config(dataset_dir), run)
  assert words in str(error.value)
  (accepted,) = run_seal.check(run, 0, accept_edited=True)
  assert words in accepted
  assert words in caplog.text


def test_fields_that_may_change_are_not_sealed(run):
  edit(run / 'config.json', lambda fields: fields.update(total_steps=99))
  assert run_seal.check(run, 0) == []


def test_a_run_that_was_never_sealed_passes_and_says_so(run, caplog):
  for path in run_files.checkpoint_dir(run, 0).glob('*/checksums/metadata'):
    edit(path, lambda sums: (sums.pop('seal'), sums.pop('digest')))
  (run / 'fold0' / 'trained_on.json').unlink()
  with caplog.at_level('INFO', logger='pnx_jax'):
    assert run_seal.check(run, 0) == []
  assert 'fold0 is not sealed' in caplog.text


def test_an_evaluation_refuses_an_edited_run_or_states_it(run, dataset_dir):
  edit(run / 'config.json', lambda fields: fields['losses'].update(bce=2.0))
  config = small_run.config(
    dataset_dir, **{'eval.bootstrap': 20, 'eval.num_overlays': 0}
  )
  with pytest.raises(UserError, match=r'losses\.bce is 2\.0, was 3\.0'):
    evaluate(config, run)
  metrics = evaluate(config, run, accept_edited=True)
  assert 'losses.bce is 2.0, was 3.0' in metrics['seal']
