"""Edits by hand are noticed, accepted only by name, and stated everywhere."""

import json
import shutil

import pytest
import small_run
from output_files import csv_rows

import pnx_jax
from pnx_jax.errors import UserError
from pnx_jax.evaluation.evaluate import evaluate
from pnx_jax.export import standalone
from pnx_jax.export.export import export
from pnx_jax.formats import evaluation_files


@pytest.fixture
def run(run_with_findings, tmp_path):
  """A copy of an evaluated run, to be changed."""
  return shutil.copytree(run_with_findings, tmp_path / 'run')


def _edit(path, change):
  content = json.loads(path.read_text())
  changed = change(content) or content
  assert changed is not None
  path.write_text(json.dumps(changed))


def _unseal_evaluation(run):
  """Removes every seal that an evaluation writes."""
  for name in ('deployment.json', 'postprocess.json'):
    path = run / 'eval' / name
    content = json.loads(path.read_text())
    kept = {key: content[key] for key in content if not key.startswith('seal')}
    path.write_text(json.dumps(kept))


def _unseal(run):
  """Makes run and evaluation those of a version that sealed nothing."""
  _unseal_evaluation(run)
  (run / 'eval' / 'SHA256SUMS').unlink()
  for path in run.glob('fold*/checkpoints/*/checksums/metadata'):
    sums = json.loads(path.read_text())
    for name in ('seal', 'digest'):
      del sums[name]
    path.write_text(json.dumps(sums))


EDITS = {
  'eval/postprocess.json': [
    lambda rules: rules['rule'].update(area=rules['rule']['area'] + 1),
    lambda rules: rules.update(temperature=rules['temperature'] * 1.01),
    lambda rules: rules['operating_points'][0].update(threshold=0.123),
    lambda rules: {key: rules[key] for key in rules if key != 'seal'},
  ],
  'eval/deployment.json': [
    lambda deployment: deployment.update(flip=False),
    lambda deployment: deployment.update(scales=[1.5]),
    lambda deployment: deployment.update(window='full'),
    lambda deployment: {
      key: deployment[key] for key in deployment if key != 'seal'
    },
  ],
  'config.json': [
    lambda config: config['losses'].update(presence=0.0),
    lambda config: config['model'].update(pixel_prevalence=0.5),
    lambda config: config.update(seed=12345),
  ],
  'fold0/trained_on.json': [lambda ids: ids[1:], lambda ids: [*ids, 'more']],
}


@pytest.mark.parametrize(
  ('name', 'change'),
  [(name, change) for name, changes in EDITS.items() for change in changes],
)
def test_an_edit_is_refused_by_name(run, name, change):
  _edit(run / name, change)
  with pytest.raises(UserError, match=f'{name}.* in .*accept_edited'):
    pnx_jax.load(run)


def test_an_evaluation_without_any_seal_is_refused_where_its_run_is_sealed(run):
  _unseal_evaluation(run)
  with pytest.raises(UserError, match=r'deployment\.json \(without its seal\)'):
    pnx_jax.load(run)
  accepted = pnx_jax.load(run, accept_edited=True).ensemble.seal
  assert accepted == 'edited: eval/deployment.json (without its seal)'


def test_fields_that_may_change_later_are_not_sealed(run):
  _edit(run / 'config.json', lambda config: config.update(log_steps=77))
  assert pnx_jax.load(run).ensemble.seal == 'sealed'


def test_rules_of_another_evaluation_are_refused(run, evaluated_run):
  """Each file is sealed; both together are not."""
  shutil.copy(evaluated_run / 'eval' / 'postprocess.json', run / 'eval')
  with pytest.raises(UserError, match=r'eval/postprocess\.json in'):
    pnx_jax.load(run)


def _edit_rules(run):
  _edit(
    run / 'eval' / 'postprocess.json',
    lambda rules: rules.update(temperature=rules['temperature'] * 2),
  )


@pytest.mark.parametrize(
  ('change', 'state'),
  [
    (_edit_rules, 'edited: eval/postprocess.json'),
    (_unseal, 'not sealed'),
    (lambda run: None, 'sealed'),
  ],
)
def test_every_output_states_it(
  predict, run, five_films, tmp_path, change, state, capsys
):
  change(run)
  options = {'model': run, 'accept_edited': state.startswith('edited')}
  predict(five_films, **options)
  out = tmp_path / 'out'
  assert {row['seal'] for row in csv_rows(out / 'worklist.csv')} == {state}
  assert state in (out / 'worklist.html').read_text()
  lines = (out / 'readings.jsonl').read_text().splitlines()
  assert {json.loads(line)['seal'] for line in lines} == {state}
  assert (f'The model: {state}.' in capsys.readouterr().out) == (
    state != 'sealed'
  )
  model = tmp_path / 'model'
  export(run, model, accept_edited=options['accept_edited'])
  assert json.loads((model / 'model.json').read_text())['seal'] == state
  assert f'| sealed | {state} |' in (model / 'README.md').read_text()
  assert pnx_jax.load(model).ensemble.seal == state
  assert state in repr(pnx_jax.load(model))


def test_rules_off_the_thresholds_that_are_counted_are_one_line(
  evaluated_run, dataset_dir, tmp_path
):
  run = shutil.copytree(evaluated_run, tmp_path / 'run')
  (run / 'fold0' / 'trained_on.json').write_text('["elsewhere"]')
  _edit(
    run / 'eval' / 'postprocess.json',
    lambda rules: rules['rule'].update(bottom=0.333),
  )
  config = small_run.config(dataset_dir)
  with pytest.raises(
    UserError,
    match=r'postprocess\.json: no areas .* the nearest is 0\.35',
  ):
    evaluate(config, run, accept_edited=True)


def test_external_validation_states_it(evaluated_run, dataset_dir, tmp_path):
  run = shutil.copytree(evaluated_run, tmp_path / 'run')
  (run / 'fold0' / 'trained_on.json').write_text('["elsewhere"]')
  table = run / 'eval' / 'per_image.csv'
  table.write_text(table.read_text().replace('\n', '\nelsewhere-')[:-10])
  evaluation_files.write_checksums(table.parent)
  config = small_run.config(
    dataset_dir, **{'eval.bootstrap': 10, 'eval.num_overlays': 0}
  )
  with pytest.raises(UserError, match=r'fold0/trained_on\.json'):
    evaluate(config, run)
  metrics = evaluate(config, run, accept_edited=True)
  state = 'edited: fold0/trained_on.json'
  assert metrics['seal'] == state
  folder = run / 'eval_records'
  assert json.loads((folder / 'metrics.json').read_text())['seal'] == state
  assert state in (folder / 'report.html').read_text()


@pytest.mark.parametrize('checksum', ['', None, '0' * 12])
def test_an_export_without_its_checksum_is_refused(
  run_with_findings, tmp_path, checksum
):
  model = tmp_path / 'model'
  export(run_with_findings, model)

  def change(settings):
    settings['rules']['rule']['bottom'] /= 2
    settings['checksum'] = checksum
    if checksum is None:
      del settings['checksum']

  _edit(model / 'model.json', change)
  with pytest.raises(UserError, match=r'model\.json is damaged: its checksum'):
    pnx_jax.load(model)
  with pytest.raises(ValueError, match=r'model\.json is damaged: its checksum'):
    standalone.Model(model)
  accepted = pnx_jax.load(model, accept_edited=True)
  assert accepted.ensemble.seal == 'edited: model.json'
