"""An export read back: a folder with programs, weights and model.json.

Nothing in the folder is ever run but the StableHLO programs.
"""

import dataclasses
import hashlib
import io
import json
import logging
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.export
import numpy as np

from pnx_jax.errors import UserError
from pnx_jax.formats import files, typed_json
from pnx_jax.models import compiled
from pnx_jax.prediction import evaluation_seal
from pnx_jax.prediction.ensemble import Ensemble, digest
from pnx_jax.prediction.network import Probabilities
from pnx_jax.prediction.postprocess import Postprocess
from pnx_jax.training import compilation

# Of the folder's layout; others are refused.
FORMAT = 2
SETTINGS = 'model.json'

_logger = logging.getLogger(__name__)


class _Member(NamedTuple):
  program: str
  weights: str


class _Settings(NamedTuple):
  """What this program reads of model.json."""

  format: int
  version: str
  data: str
  image_size: int
  window: str
  rules: Postprocess
  members: tuple[_Member, ...]
  jax: str
  files: dict[str, str]
  seal: str = evaluation_seal.NOT_SEALED


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


def load(
  folder: str | os.PathLike[str], *, accept_edited: bool = False
) -> Ensemble:
  """Reads the ensemble that `python -m pnx_jax.export` wrote, on one device.

  Args:
    folder: of the export.
    accept_edited: go on with files whose checksum differs; `Ensemble.seal`
      names them.

  Raises:
    UserError: there is none, one of its files is damaged, or this jax cannot
      run it.
  """
  folder = pathlib.Path(folder)
  settings, edited = _settings(folder, accept_edited=accept_edited)
  for name, checksum in settings['files'].items():
    if sha256(_read(folder / name)) != checksum:
      if not accept_edited:
        raise UserError(_damaged(folder / name, 'its checksum differs'))
      edited.append(name)
  programs = {
    name: _program(folder / name, settings['jax'])
    for name in {member['program'] for member in settings['members']}
  }
  state = settings.get('seal', evaluation_seal.NOT_SEALED)
  if edited:
    state = evaluation_seal.EDITED + ', '.join(edited)
  if state != evaluation_seal.SEALED:
    _logger.warning('%s: %s.', folder, state)
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
    seal=state,
  )


def seal(settings: dict[str, Any]) -> dict[str, Any]:
  """The settings with their own checksum, so that a changed digit shows."""
  text = json.dumps(settings, sort_keys=True)
  return {**settings, 'checksum': digest(text.encode())}


def sha256(content: bytes) -> str:
  """The SHA-256 of a file's content, as hexadecimal digits."""
  return hashlib.sha256(content).hexdigest()


def read_settings(
  folder: str | os.PathLike[str], *, accept_edited: bool = False
) -> dict[str, Any]:
  """Reads and checks model.json.

  Raises:
    UserError: it is missing, damaged, edited, or of another format.
  """
  return _settings(folder, accept_edited=accept_edited)[0]


def _settings(folder, *, accept_edited) -> tuple[dict[str, Any], list[str]]:
  """The settings, and model.json where it was edited."""
  path = pathlib.Path(folder, SETTINGS)
  if not path.exists():
    raise UserError(
      f'no {path}: {folder} is not an export; make one with '
      f'`python -m pnx_jax.export --workdir=... --output={folder}`'
    )
  try:
    settings = files.parse_json(_read(path))
    checksum = settings.pop('checksum', None)
  except (ValueError, AttributeError, KeyError, TypeError) as error:
    raise UserError(
      _damaged(path, f'{type(error).__name__}: {error}')
    ) from None
  intact = seal(settings)['checksum'] == checksum
  if not intact and not accept_edited:
    raise UserError(_damaged(path, 'its checksum is missing or differs'))
  if settings.get('format') != FORMAT:
    raise UserError(
      f'{path} has format {settings.get("format")}, this pnx_jax reads '
      f'{FORMAT}; '
      'export the run again'
    )
  try:
    typed_json.convert(settings, _Settings)
  except ValueError as error:  # It is read in spite of an edit.
    raise UserError(_damaged(path, str(error))) from None
  return settings, [] if intact else [SETTINGS]


def _program(path, written_by: str) -> Callable[[Any, Any], Probabilities]:
  """A compiled program; what another jax cannot run is one sentence."""
  content = bytearray(_read(path))
  try:
    compiled_program = compilation.announced(
      compiled.jit(jax.export.deserialize(content).call), 'the prediction'
    )
  except Exception as error:
    raise _other_jax(path, written_by, error) from error

  def call(weights: Any, images: Any) -> Probabilities:
    try:
      return compiled_program(weights, images)
    except Exception as error:
      if written_by == jax.__version__:
        raise
      raise _other_jax(path, written_by, error) from error

  return call


def _other_jax(path, written_by, error) -> UserError:
  if written_by == jax.__version__:
    return UserError(_damaged(path, f'jax cannot read this program: {error}'))
  told = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
  return UserError(
    f'{path} was written by jax {written_by}, and jax {jax.__version__} cannot '
    f"run it: {told}; run `pip install 'jax>={written_by}'`, or export the run "
    'again'
  )


def _weights(path):
  """On one device: the programs are written for one."""
  try:
    with np.load(io.BytesIO(_read(path)), allow_pickle=False) as file:
      weights = dict(file)
  except UserError:
    raise
  except Exception as error:  # It is read in spite of an edit.
    raise UserError(_damaged(path, str(error))) from error
  return jax.device_put(weights, jax.devices()[0])


def _read(path):
  try:
    return path.read_bytes()
  except OSError as error:
    raise UserError(f'cannot read {path}: {error.strerror}') from None


def _damaged(path, reason):
  return f'{path} is damaged: {reason}; export the run again'
