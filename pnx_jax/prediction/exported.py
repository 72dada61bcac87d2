"""An export read back: a folder with programs, weights and model.json.

Nothing in the folder is ever run but the StableHLO programs.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import numpy as np

from pnx_jax.errors import UserError
from pnx_jax.models.cpu import compiled
from pnx_jax.prediction.ensemble import Ensemble, digest
from pnx_jax.prediction.network import Probabilities
from pnx_jax.prediction.postprocess import Postprocess

# Of the folder's layout; others are refused.
FORMAT = 2
SETTINGS = 'model.json'


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportedNetwork:
  """A network whose augmentation is part of its program.

  Attributes:
    program: compiled; takes weights and uint8[B, image_size, image_size, 1].
    weights: arrays by name.
    image_size: side of the square image that it takes.
  """

  program: Callable[[Any, Any], Probabilities]
  weights: dict[str, jax.Array]
  image_size: int

  def __call__(self, images: Any) -> Probabilities:
    """Predicts uint8[B, image_size, image_size, 1]."""
    return self.program(self.weights, images)


def is_export(folder: str | os.PathLike[str]) -> bool:
  """Whether a folder holds an export."""
  return pathlib.Path(folder, SETTINGS).exists()


def load(folder: str | os.PathLike[str]) -> Ensemble:
  """Reads the ensemble that `python -m pnx_jax.export` wrote, on one device.

  Raises:
    UserError: there is none, or one of its files is damaged.
  """
  folder = pathlib.Path(folder)
  settings = read_settings(folder)
  for name, checksum in settings['files'].items():
    if sha256(_read(folder / name)) != checksum:
      raise UserError(_damaged(folder / name, 'its checksum differs'))
  programs = {
    name: compiled.jit(_program(folder / name).call)
    for name in {member['program'] for member in settings['members']}
  }
  image_size = settings['image_size']
  return Ensemble(
    networks=[
      ExportedNetwork(
        program=programs[member['program']],
        weights=_weights(folder / member['weights']),
        image_size=image_size,
      )
      for member in settings['members']
    ],
    window=settings['window'],
    postprocess=Postprocess.parse(settings['rules']),
    version=settings['version'],
    data=settings['data'],
  )


def seal(settings: dict[str, Any]) -> dict[str, Any]:
  """The settings with their own checksum, so that a changed digit shows."""
  text = json.dumps(settings, sort_keys=True)
  return {**settings, 'checksum': digest(text.encode())}


def sha256(content: bytes) -> str:
  """The SHA-256 of a file's content, as hexadecimal digits."""
  return hashlib.sha256(content).hexdigest()


def read_settings(folder: str | os.PathLike[str]) -> dict[str, Any]:
  """Reads and checks model.json.

  Raises:
    UserError: it is missing, damaged, or of another format.
  """
  path = pathlib.Path(folder, SETTINGS)
  if not path.exists():
    raise UserError(
      f'no {path}: {folder} is not an export; make one with '
      f'`python -m pnx_jax.export --workdir=... --output={folder}`'
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


def _read(path):
  try:
    return path.read_bytes()
  except OSError as error:
    raise UserError(f'cannot read {path}: {error.strerror}') from None


def _damaged(path, reason):
  return f'{path} is damaged: {reason}; export the run again'
