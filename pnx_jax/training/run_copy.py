"""The local copy of a run whose workdir lies in a bucket."""

import contextlib
import os
from collections.abc import Iterator

import jax

from pnx_jax.config import Config
from pnx_jax.errors import UserError
from pnx_jax.storage import bucket, local, ranges
from pnx_jax.storage.addresses import is_address
from pnx_jax.storage.local import WorkingCopy


@contextlib.contextmanager
def of_fold(
  workdir: str | os.PathLike[str], config: Config
) -> Iterator[WorkingCopy]:
  """Yields where one fold is trained, with what was published of it.

  Args:
    workdir: The folder of the run, or its address.
    config: The config of the run, with the fold.

  Raises:
    UserError: Another training holds the fold, or the bucket cannot be used.
  """
  _configure(config)
  fold = f'fold{config.fold}'

  def needed(name: str) -> bool:
    return name == 'config.json' or name.startswith(f'{fold}/')

  _check_alone(workdir)
  with local.working_copy(workdir, lock=fold, wanted=needed) as copy:
    yield copy


@contextlib.contextmanager
def of_evaluation(
  workdir: str | os.PathLike[str], config: Config
) -> Iterator[WorkingCopy]:
  """Yields where a run is evaluated, with all that was published of it.

  Args:
    workdir: The folder of the run, or its address.
    config: The config of the flags.

  Raises:
    UserError: Another evaluation runs, or the bucket cannot be used.
  """
  _configure(config)
  _check_alone(workdir)
  with local.working_copy(workdir, lock='eval') as copy:
    yield copy


def _configure(config: Config) -> None:
  bucket.repeat_for(config.bucket_seconds)
  limit = int(config.input.cache_gib * 2**30)
  ranges.keep(config.input.cache_dir, limit=limit)


def _check_alone(workdir: str | os.PathLike[str]) -> None:
  if is_address(workdir) and jax.process_count() > 1:
    raise UserError(
      f'{workdir}: several processes need a workdir on a disk that they share; '
      'data_dir may be an address'
    )
