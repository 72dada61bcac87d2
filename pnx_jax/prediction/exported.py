"""An exported model: a folder with programs, weights and model.json.

Nothing in it is ever run but the StableHLO programs.
"""

import functools
import hashlib
import json
import os
import pathlib

import jax
import jax.export
import numpy as np

from pnx_jax.errors import UserError
from pnx_jax.models.cpu import compiled
from pnx_jax.prediction.postprocess import Postprocess
from pnx_jax.prediction.predictor import Model, digest, mean

# Of the folder's layout; others are refused.
FORMAT = 2
SETTINGS = 'model.json'


def load(folder: str | os.PathLike) -> Model:
  """The model that `python -m pnx_jax.export.export` wrote.

  Raises:
    UserError: there is none, or one of its files is damaged.
  """
  folder = pathlib.Path(folder)
  settings = read_settings(folder)
  for name, checksum in settings['files'].items():
    if sha256(_read(folder / name)) != checksum:
      raise UserError(_damaged(folder / name, 'its checksum differs'))
  networks = {
    name: compiled.jit(_program(folder / name).call)
    for name in {member['program'] for member in settings['members']}
  }
  members = [
    (networks[member['program']], _weights(folder / member['weights']))
    for member in settings['members']
  ]
  return Model(
    answer=functools.partial(_answer, members),
    image_size=settings['image_size'],
    window=settings['window'],
    postprocess=Postprocess.parse(settings['rules']),
    version=settings['version'],
    data=settings['data'],
  )


def seal(settings: dict) -> dict:
  """With its own checksum, so that no digit of it changes unnoticed."""
  text = json.dumps(settings, sort_keys=True)
  return {**settings, 'checksum': digest(text.encode())}


def sha256(content: bytes) -> str:
  return hashlib.sha256(content).hexdigest()


def read_settings(folder: pathlib.Path) -> dict:
  """What model.json holds, checked."""
  path = folder / SETTINGS
  if not path.exists():
    raise UserError(
      f'no {path}: {folder} is no exported model; make one with '
      f'`python -m pnx_jax.export.export --workdir=... --output={folder}`'
    )
  try:
    settings = json.loads(_read(path))
    checksum = settings.pop('checksum')
  except (ValueError, AttributeError, KeyError, TypeError) as error:
    raise UserError(
      _damaged(path, f'{type(error).__name__}: {error}')
    ) from None
  if seal(settings)['checksum'] != checksum:
    raise UserError(_damaged(path, 'its checksum differs'))
  if settings['format'] != FORMAT:
    raise UserError(
      f'{path} has format {settings["format"]}, this pnx_jax reads {FORMAT}; '
      'export the run again'
    )
  return settings


def _program(path):
  try:
    return jax.export.deserialize(bytearray(_read(path)))
  except Exception as error:  # Of a jax that is too old, say.
    raise UserError(
      f'{path}: jax {jax.__version__} cannot read this program: {error}; '
      'install a newer jax, or export the run again'
    ) from error


def _weights(path):
  """On one device: the programs are written for one."""
  with np.load(path, allow_pickle=False) as file:
    return jax.device_put(dict(file), jax.devices()[0])


def _answer(members, images):
  return mean(network(weights, images) for network, weights in members)


def _read(path):
  try:
    return path.read_bytes()
  except OSError as error:
    raise UserError(f'cannot read {path}: {error.strerror}') from None


def _damaged(path, reason):
  return f'{path} is damaged: {reason}; export the run again'
