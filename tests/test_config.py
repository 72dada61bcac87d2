"""The schema of the configuration: complete, and what the packages expect."""

import dataclasses
import math
import re

import pytest

from configs import default
from pnx_jax.config import (
  FIELDS,
  RENAMED,
  Range,
  check_config,
  fixed_fields,
  flatten,
)
from pnx_jax.errors import UserError
from pnx_jax.input.augment import Augmentation
from pnx_jax.models import layers, segmenter
from pnx_jax.training import losses, optim


def changed(**fields):
  config = default.get_config()
  config.update_from_flattened_dict(
    {name.replace('__', '.'): value for name, value in fields.items()}
  )
  return config


@pytest.mark.parametrize('name', FIELDS)
def test_every_field_says_what_it_may_be(name):
  field = FIELDS[name]
  if field.value_type in (int, float):
    assert isinstance(field.values, Range)
    assert field.default is None or field.default in field.values
  elif field.value_type is str:
    assert field.values == 'free' or field.default in field.values
  else:
    assert field.value_type in (bool, tuple)
  assert re.fullmatch(r'.+\.', field.meaning, re.DOTALL)


def test_the_default_config_has_every_field_and_is_valid():
  config = default.get_config()
  assert flatten(config).keys() == FIELDS.keys()
  check_config(config)
  with pytest.raises(AttributeError):
    config.unknown = 1


def test_known_names_are_those_of_the_rooms_that_use_them():
  def public(names):
    return {name for name in names if not name.startswith('_')}

  assert public(segmenter.ENCODERS) == {*FIELDS['model.encoder'].values}
  assert public(segmenter.DECODERS) == {*FIELDS['model.decoder'].values}
  assert {*layers.NORMALIZATIONS} == {*FIELDS['model.normalization'].values}
  assert {*optim.OPTIMIZERS} == {*FIELDS['optimizer.name'].values}
  config = default.get_config()
  assert {*config.losses} == {*losses.MASK_LOSSES, 'presence', 'deep'}
  assert {*config.augmentation} == {
    field.name for field in dataclasses.fields(Augmentation)
  }


def test_renamed_fields_are_gone_and_their_new_names_exist():
  assert not RENAMED.keys() & FIELDS.keys()
  assert {*RENAMED.values()} <= FIELDS.keys()


def test_what_may_never_change_is_what_decides_the_weights():
  fixed = fixed_fields(default.get_config())
  assert {'seed', 'batch_size', 'model.width', 'losses.bce'} <= fixed.keys()
  assert not {'fold', 'total_steps', 'data_dir', 'eval.flip'} & fixed.keys()


@pytest.mark.parametrize(
  ('values', 'inside', 'outside'),
  [
    (Range(1), (1, 10**400), (0, -1, math.nan, math.inf)),
    (Range(0, open=True), (1e-9,), (0, -1, math.nan)),
    (Range(0, 1), (0, 0.5, 1), (-0.1, 1.1, math.nan)),
    (Range(0, 1, open=True), (0.5,), (0, 1, math.nan)),
  ],
)
def test_ranges(values, inside, outside):
  assert all(value in values for value in inside)
  assert not any(value in values for value in outside)


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({'total_steps': -5}, 'total_steps=-5 must be at least 1'),
    ({'optimizer__learning_rate': -1.0}, 'learning_rate=-1.0'),
    ({'optimizer__ema_decay': 1.5}, 'ema_decay=1.5 must be from 0 to 1'),
    ({'model__pixel_prevalence': 0.0}, '0 to 1, both excluded'),
    ({'eval_epochs': 0.0}, 'eval_epochs=0.0 must be above 0'),
    ({'losses__bce': -3.0}, 'losses.bce=-3.0'),
    ({'losses__bce': math.nan}, 'losses.bce=nan'),
    ({'model__encoder': 'resnet43'}, "nearest is 'resnet34'"),
    ({'compute_dtype': 'float12'}, "'float32'"),
    ({'augmentation__crop_size': 600}, 'crop_size=600 does not fit'),
    ({'model__normalization': 'frozen'}, '--config.pretrained'),
    ({'losses__deep': 1.0}, 'no deep heads'),
    ({'model__output_stride': 3}, '1, 2 or 4, not 3'),
    ({'model__output_stride': 4, 'model__depth': 2}, 'raise depth'),
    (
      {'mean_teacher__unlabeled_share': 0.5, 'optimizer__ema_decay': 0.0},
      'needs averaged weights',
    ),
    (
      {'losses__deep': 1.0, 'losses__bce': 0.0, 'losses__dice': 0.0},
      'repeats the mask losses',
    ),
    (
      {'losses__bce': 0.0, 'losses__dice': 0.0, 'losses__presence': 0.0},
      'nothing to train',
    ),
  ],
)
def test_a_config_that_no_run_can_have_is_refused(fields, words):
  with pytest.raises(UserError, match=words):
    check_config(changed(**fields))
