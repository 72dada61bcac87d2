import importlib
import os
import pathlib
import re
import subprocess
import sys

import pytest

from pnx_jax import publish
from pnx_jax.evaluation import compare, submission
from pnx_jax.export import __main__ as export
from pnx_jax.training import experiment
from pnx_jax.triage import __main__ as triage

ROOT = pathlib.Path(__file__).parent.parent
RECIPES = sorted(
  path.stem
  for path in (ROOT / 'configs').glob('*.py')
  if path.stem not in ('__init__', 'default')
)


def variants(recipe):
  module = importlib.import_module(f'configs.{recipe}')
  return list(getattr(module, 'VARIANTS', {})) or [None]


@pytest.mark.parametrize(
  ('recipe', 'variant'),
  [(recipe, variant) for recipe in RECIPES for variant in variants(recipe)],
)
def test_every_recipe_makes_a_network(recipe, variant):
  module = importlib.import_module(f'configs.{recipe}')
  config = module.get_config(*([] if variant is None else [variant]))
  experiment.network(config, platform='cpu')
  assert config.total_steps is None
  assert f'configs/{recipe}.py' in module.__doc__ or recipe == 'demo'


def launch(*flags, command=('launch.py',), **environment):
  return subprocess.run(
    [sys.executable, *command, *flags],
    cwd=ROOT,
    env=os.environ | environment,
    capture_output=True,
    text=True,
  )


def assert_one_line(result, words):
  assert result.returncode == 2
  assert result.stderr.startswith('error: ')
  assert len(result.stderr.strip().splitlines()) == 1
  for word in words:
    assert word in result.stderr


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    (['--config=configs/resnet.py'], ["'configs/resnet.py'", 'resunet.py']),
    (['--config=configs/resunet.py:b4'], ["'b4'"]),
    (
      ['--config=configs/demo.py', '--workdir=gcs://bucket/run'],
      ['gcs://bucket/run', 'is not an address'],
    ),
    (
      ['--config=configs/demo.py', '--config.data_dir', 's3:/bucket/data'],
      ['s3:/bucket/data', 'is not an address'],
    ),
    (
      ['--mode=eval', '--config.eval.groups=s3://bucket/drains.csv'],
      ['s3://bucket/drains.csv', '--config.eval.groups', 'mount the bucket'],
    ),
    (['--config=configs/demo.py:foo'], ['demo.py has no variants', "':foo'"]),
    (
      ['--config=configs/unet.py', '--config.model.normalisation=group'],
      ['model.normalisation is called model.normalization now'],
    ),
    (
      ['--config=configs/unet.py', '--config.imge_size=3'],
      ['--config.imge_size=3', "'image_size'"],
    ),
    (
      ['--config=configs/unet.py', '--config.optimizer.lerning_rate=1'],
      ['optimizer.lerning_rate', "'optimizer.learning_rate'"],
    ),
    (['--config=configs/unet.py', '--config.batch_size=x'], ["'x'"]),
    (['--config=configs/unet.py', '--mode=evil'], ['train|folds|eval']),
    (['--config=configs/unet.py', 'folds'], ["'folds'"]),
    ([], ['--config is missing', '--workdir']),
    (['--mode=predict', '--config.eval.flip=0'], ['--config.eval.flip']),
    (
      ['--config=configs/unet.py', '--config.data_dir=/nowhere'],
      ['/nowhere', 'data_prep.build', 'data_prep.phantom'],
    ),
    (['--config=configs/unet.py', '--config.log_steps=0'], ['log_steps=0']),
    (
      ['--config=configs/unet.py', '--config.compute_dtype=float12'],
      ["'float12'", "'float32'"],
    ),
    (
      ['--mode=eval', '--workdir=/nowhere', '--config.eval.flip=0'],
      ['/nowhere', 'launch.py --config='],
    ),
  ],
)
def test_a_users_mistake_is_one_line(flags, words):
  # Where users name no platform, JAX looks for all kinds of devices.
  assert_one_line(launch(*flags, JAX_PLATFORMS=''), words)


@pytest.mark.parametrize(
  ('command', 'words'),
  [
    (triage.main, ['--per_image=gs://bucket/per_image.csv']),
    (compare.main, ['gs://bucket/run', 'runs/b', '--output_dir=out']),
    (submission.main, ['--check=gs://bucket/submission.csv']),
    (export.main, ['--workdir=gcs://bucket/run', '--output=model']),
    (publish.main, ['data/siim', 's3:/bucket/siim']),
  ],
)
def test_an_address_where_none_may_be_or_mistyped_is_one_line(
  command, words, capsys
):
  with pytest.raises(SystemExit) as end:
    command(words)
  assert end.value.code == 2
  [line] = capsys.readouterr().err.splitlines()
  assert line.startswith('error: ')
  assert re.search(r'takes only files on a local|is not an address', line)


@pytest.mark.parametrize(
  ('flag', 'words'),
  [
    ('--config.batch_siez=3', ['--config.batch_siez=3', "'batch_size'"]),
    ('--config=configs/resnet.py', ["'configs/resnet.py'", 'resunet.py']),
  ],
)
def test_the_preview_explains_mistakes_as_training_does(flag, words):
  preview = ('-m', 'pnx_jax.input.preview')
  assert_one_line(launch(flag, command=preview), words)


@pytest.mark.parametrize(
  ('old', 'new'),
  [
    ('inference.export', 'pnx_jax.export'),
    ('inference.triage', 'pnx_jax.triage'),
    ('input.augment', 'pnx_jax.input.preview --output=FILE'),
  ],
)
def test_an_old_command_names_the_new_one(old, new):
  result = launch('--flag=x', command=('-m', f'pnx_jax.{old}'))
  assert_one_line(result, [f'python -m {new}`'])


@pytest.mark.parametrize(
  ('flags', 'environment', 'words'),
  [
    (['--num_processes=2'], {}, '--coordinator_address=HOST:PORT'),
    (['--coordinator_address=h:1'], {}, '--process_id'),
    ([], {'JAX_COORDINATOR_ADDRESS': 'h:1'}, '--process_id'),
    ([], {'SLURM_NTASKS': '2'}, 'srun'),
  ],
)
def test_half_a_cluster_is_one_line(flags, environment, words):
  result = launch('--config=configs/unet.py', *flags, **environment)
  assert result.returncode == 2
  assert result.stderr.startswith('error: ')
  assert len(result.stderr.strip().splitlines()) == 1
  assert words in result.stderr
