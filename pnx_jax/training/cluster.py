"""Several processes that train one network: how they join, how they end."""

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator

import jax

from pnx_jax.errors import UserError


def join(
  *,
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> None:
  """Joins the other processes, if flags or the cluster's variables name some.

  Args:
    coordinator_address: host:port of process 0.
    num_processes: How many processes train together.
    process_id: The number of this process, from 0.

  Raises:
    UserError: The processes are described incompletely, or do not answer.
  """
  address = coordinator_address or os.environ.get('JAX_COORDINATOR_ADDRESS')
  described = (address, num_processes, process_id)
  tasks = int(os.environ.get('SLURM_NTASKS', 1))
  if None in described:
    if tasks > 1 and 'SLURM_STEP_NODELIST' not in os.environ:
      raise UserError(
        f'SLURM gives {tasks} tasks but srun did not start this one: put srun '
        'before the command'
      )
    if tasks == 1 and not _on_tpu_pod():
      if described != (None, None, None):
        raise UserError(
          'several processes need all of --coordinator_address=HOST:PORT, '
          '--num_processes and --process_id'
        )
      return
  try:
    jax.distributed.initialize(
      *described, heartbeat_timeout_seconds=30, shutdown_timeout_seconds=60
    )
  except Exception as error:  # Each cluster fails in its own way.
    raise UserError(
      f'cannot join the other processes: {" ".join(str(error).split())}'
    ) from error


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
  """Ends this process at once where others wait for it; alone, as usual.

  An orderly end would wait for the other processes, which wait for this one.
  """
  try:
    yield
  except BaseException as error:
    if not jax.distributed.is_initialized():
      raise
    status = _report(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _report(error: BaseException) -> int:
  """Prints the error, unless that was done; returns the exit code."""
  if isinstance(error, SystemExit):
    return error.code if isinstance(error.code, int) else 1
  if isinstance(error, jax.errors.JaxRuntimeError):
    reason = ' '.join(str(error).split())
    print(
      'error: a computation of all processes failed; if another process has '
      f'ended, its output says why ({reason})',
      file=sys.stderr,
    )
    return 2
  traceback.print_exc()
  return 1


def _on_tpu_pod() -> bool:
  """Whether this host is one of several that hold the TPUs."""
  names = ('TPU_PROCESS_ADDRESSES', 'TPU_WORKER_HOSTNAMES')
  hosts = next((os.environ[name] for name in names if name in os.environ), None)
  if hosts is not None:
    slices = int(os.environ.get('MEGASCALE_NUM_SLICES') or 1)
    return ',' in hosts or slices > 1
  # Over ssh no variable tells; JAX asks the metadata server. Importing JAX
  # sets this one where there are TPUs.
  return (
    'TPU_ML_PLATFORM' in os.environ and 'TPU_SKIP_MDS_QUERY' not in os.environ
  )


def is_first() -> bool:
  """Whether this process writes what all processes have in common."""
  return jax.process_index() == 0
