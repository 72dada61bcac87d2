"""The flags of --mode=predict; nothing here loads JAX."""

import contextlib
from collections.abc import Iterator
from typing import Any

from absl import flags
from ml_collections import config_flags

from pnx_jax import film_flags
from pnx_jax.errors import UserError
from pnx_jax.storage import local
from pnx_jax.storage.addresses import is_address

_SECONDS_BETWEEN_PUBLICATIONS = 60.0


def define() -> None:
  """Defines them, those that limit the reading of a film among them."""
  flags.DEFINE_multi_string(
    'input', [], 'File or folder of radiographs to predict; may be repeated.'
  )
  flags.DEFINE_string(
    'output_dir', None, 'Folder for the worklist of --mode=predict.'
  )
  flags.DEFINE_string(
    'model', None, 'Folder of an export, for --mode=predict without --workdir.'
  )
  flags.DEFINE_bool(
    'dicom_seg', False, 'Write masks of --mode=predict as DICOM SEG, too.'
  )
  flags.DEFINE_list(
    'accept_modality',
    ['CR', 'DX'],
    'Modalities that --mode=predict assesses; empty for all.',
  )
  flags.DEFINE_string(
    'shard',
    None,
    'Predict a part of the films, for example 3/16; all parts share one '
    '--output_dir. Tasks of SLURM know their part.',
  )
  flags.DEFINE_bool(
    'verify',
    False,
    '--mode=predict reads films again that it has read before, even if they '
    'seem unchanged.',
  )
  film_flags.define_limits()
  flags.adopt_module_key_flags(film_flags)


def check() -> None:
  """Raises UserError where flags are missing or contradict each other."""
  given = flags.FLAGS
  changed = config_flags.get_override_values(given['config'])
  if changed:
    raise UserError(
      f'--config.{min(changed)} has no effect with --mode=predict: a model '
      'predicts as it was evaluated'
    )
  if bool(given.workdir) == bool(given.model):
    raise UserError(
      'give one of --workdir, an evaluated run, and --model, an export of one'
    )
  if not given.input:
    raise UserError('--input is missing: a file or folder of radiographs')
  if not given.output_dir:
    raise UserError('--output_dir is missing: a folder for the worklist')


@contextlib.contextmanager
def local_arguments() -> Iterator[dict[str, Any]]:
  """Yields the arguments, with local copies of what lies in buckets.

  Raises:
    UserError: A bucket cannot be used, or is to be written by several shards.
  """
  given = arguments()
  output_dir = given['output_dir']
  if given['shard'] and is_address(output_dir):
    raise UserError(
      f'{output_dir}: shards need an --output_dir on a disk that they share'
    )
  given['inputs'] = [*map(local.fetched, given['inputs'])]
  with local.working_copy(
    output_dir, lock='predict', seconds=_SECONDS_BETWEEN_PUBLICATIONS
  ) as copy:
    yield given | {'output_dir': copy.path}


def arguments() -> dict[str, Any]:
  """Returns the arguments of `predict.predict` that the flags give."""
  from pnx_jax.inference.shards import Shard

  given = flags.FLAGS
  return {
    'inputs': given.input,
    'output_dir': given.output_dir,
    'model': given.workdir or given.model,
    'accept_modality': list(filter(None, given.accept_modality)),
    'with_dicom_seg': given.dicom_seg,
    'shard': Shard.parse(given.shard) if given.shard else Shard.from_slurm(),
    'limits': film_flags.limits(),
    'verify': given.verify,
    'accept_edited': given.accept_edited,
  }
