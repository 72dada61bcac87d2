"""The local copy of a run whose workdir lies in a bucket."""

import contextlib
import os
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

from pnx_jax.config import Config
from pnx_jax.storage import bucket, local, ranges
from pnx_jax.storage.addresses import is_address
from pnx_jax.storage.local import WorkingCopy
from pnx_jax.training import cluster


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
  configure(config)
  fold = f'fold{config.fold}'

  def needed(name: str) -> bool:
    return name == 'config.json' or name.startswith(f'{fold}/')

  with _copy(workdir, lock=fold, wanted=needed) as copy:
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
  configure(config)
  with _copy(workdir, lock='eval') as copy:
    yield copy


def configure(config: Config) -> None:
  """Applies what the config says of reading from buckets."""
  bucket.repeat_for(config.bucket_seconds)
  limit = int(config.input.cache_gib * 2**30)
  ranges.keep(config.input.cache_dir, limit=limit)


@contextlib.contextmanager
def _copy(
  workdir: str | os.PathLike[str],
  *,
  lock: str,
  wanted: Callable[[str], bool] = lambda name: True,
) -> Iterator[WorkingCopy]:
  """Yields a copy of this process; only that of the first is published.

  The others read what the first one found when it had the lock.
  """
  several = is_address(workdir) and jax.process_count() > 1
  if several:
    # Gloo gives processes 30 s to meet for the first time, and any time later;
    # the lock of a holder that was killed takes longer.
    multihost_utils.sync_global_devices('started')
  if several and not cluster.is_first():
    multihost_utils.sync_global_devices('locked')
    with local.reading_copy(workdir, wanted=wanted) as copy:
      multihost_utils.sync_global_devices('fetched')
      yield copy
  else:
    with local.working_copy(workdir, lock=lock, wanted=wanted) as copy:
      if several:
        multihost_utils.sync_global_devices('locked')
        multihost_utils.sync_global_devices('fetched')
      yield copy
  if several:
    multihost_utils.sync_global_devices('published')
