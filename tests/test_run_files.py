import json

import pytest

from configs import default, resunet
from pnx_jax.config import flatten
from pnx_jax.errors import UserError
from pnx_jax.training import run_files


def test_config_json_gives_the_config_back(tmp_path):
  config = resunet.get_config()
  config.total_steps = 7
  run_files.write(tmp_path, config, ['b', 'a'])
  assert json.loads((tmp_path / 'config.json').read_text())['total_steps'] == 7
  assert flatten(run_files.load(tmp_path)) == flatten(config)


def test_another_network_is_refused_and_the_difference_shown(tmp_path):
  run_files.write(tmp_path, resunet.get_config(), [])
  other = resunet.get_config()
  other.model.width = 8
  with pytest.raises(UserError, match=r'model\.width: 32 there, 8 here'):
    run_files.check_same_run(tmp_path, other)


def test_a_longer_run_another_fold_and_another_place_are_the_same_run(
  tmp_path,
):
  run_files.write(tmp_path, resunet.get_config(), [])
  longer = resunet.get_config()
  longer.total_epochs = 99.0
  longer.fold = 3
  longer.data_dir = '/elsewhere'
  longer.eval.batch_size = 2
  run_files.check_same_run(tmp_path, longer)
  run_files.write(tmp_path, longer, [])
  assert run_files.load(tmp_path).total_epochs == 99.0


def test_evaluation_overrides_only_what_it_may(tmp_path):
  run_files.write(tmp_path, default.get_config(), [])
  config = run_files.load_with_overrides(
    tmp_path, {'eval.flip': False, 'data_dir': 'd', 'batch_size': 5}
  )
  assert (config.eval.flip, config.data_dir) == (False, 'd')
  assert config.eval.batch_size == 5
  assert config.batch_size == default.get_config().batch_size
  with pytest.raises(UserError, match=r'model\.width cannot be changed'):
    run_files.load_with_overrides(tmp_path, {'model.width': 3})
  with pytest.raises(UserError, match=r'log_steps cannot be changed'):
    run_files.load_with_overrides(tmp_path, {'log_steps': 3})


def test_a_run_older_than_a_field_takes_its_default(tmp_path):
  run_files.write(tmp_path, default.get_config(), [])
  path = tmp_path / 'config.json'
  old = json.loads(path.read_text())
  del old['eval']['flip']
  path.write_text(json.dumps(old))
  assert run_files.load(tmp_path).eval.flip is default.get_config().eval.flip


def test_old_names_of_fields_are_read_and_stay_in_the_file(tmp_path, caplog):
  config = default.get_config()
  config.model.normalization = 'group'
  config.augmentation.flip_probability = 0.25
  content = json.loads(config.to_json_best_effort())
  content['model']['normalisation'] = content['model'].pop('normalization')
  augmentation = content['augmentation']
  augmentation['flip'] = augmentation.pop('flip_probability')
  text = json.dumps(content)
  path = tmp_path / 'config.json'
  path.write_text(text)
  with caplog.at_level('INFO', logger='pnx_jax'):
    loaded = run_files.load(tmp_path)
  assert flatten(loaded) == flatten(config)
  (message,) = [record.getMessage() for record in caplog.records]
  assert 'model.normalisation as model.normalization' in message
  run_files.check_same_run(tmp_path, config)
  run_files.write(tmp_path, config, [])
  assert path.read_text() == text


def test_other_training_images_are_refused(tmp_path):
  config = default.get_config()
  run_files.check_same_images(tmp_path, 0, ['a', 'b'])
  run_files.write(tmp_path, config, ['a', 'b'])
  assert run_files.trained_on(tmp_path, 0) == {'a', 'b'}
  run_files.check_same_images(tmp_path, 0, ['b', 'a'])
  run_files.check_same_images(tmp_path, 1, ['c'])
  with pytest.raises(UserError, match='other training images'):
    run_files.check_same_images(tmp_path, 0, ['a', 'c'])


@pytest.mark.parametrize('content', ['', '["a", 3]', '{"a": 1}', '["a"'])
def test_a_damaged_list_of_training_images_is_one_line(tmp_path, content):
  run_files.write(tmp_path, default.get_config(), ['a'])
  (tmp_path / 'fold0' / 'trained_on.json').write_text(content)
  with pytest.raises(UserError, match=r'trained_on\.json'):
    run_files.trained_on(tmp_path, 0)


def test_a_workdir_that_is_a_file_is_one_line(tmp_path):
  (tmp_path / 'run').write_text('')
  with pytest.raises(UserError, match='cannot write'):
    run_files.write(tmp_path / 'run', default.get_config(), [])


@pytest.mark.parametrize(
  ('content', 'words'),
  [
    ('{"a": ', 'not valid JSON'),
    ('[1]', 'does not hold the fields'),
    ('{"model": {"widht": 3}}', r'no field model\.widht.*model\.width'),
    ('{"model": 3}', 'no field model'),
    ('{"batch_size": "16"}', "batch_size='16' must be of type int"),
    ('{"batch_size": true}', 'batch_size=True must be of type int'),
    ('{"eval": {"flip": 1}}', r'eval\.flip=1 must be of type bool'),
    ('{"optimizer": {"ema_decay": NaN}}', 'ema_decay=nan must be from 0 to 1'),
    ('{"compute_dtype": "float12"}', "'float32'"),
  ],
)
def test_a_config_json_that_no_run_has_is_refused_by_name(
  tmp_path, content, words
):
  path = tmp_path / 'config.json'
  path.write_text(content)
  with pytest.raises(UserError, match=words) as error:
    run_files.load(tmp_path)
  assert str(path) in str(error.value)


def test_no_run_is_told_from_a_broken_one(tmp_path):
  with pytest.raises(UserError, match='no run at'):
    run_files.load(tmp_path)


def test_folds_with_checkpoints_are_the_trained_ones(tmp_path):
  for fold in (2, 0):
    (run_files.checkpoint_dir(tmp_path, fold) / '10').mkdir(parents=True)
  # One that failed before its first checkpoint.
  run_files.checkpoint_dir(tmp_path, 1).mkdir(parents=True)
  (tmp_path / 'fold0_old' / 'checkpoints' / '10').mkdir(parents=True)
  assert run_files.trained_folds(tmp_path) == [0, 2]
