"""What of a run depends on its devices: mesh, layout, compute dtype.

One mesh over all devices of all hosts; batches are split along `data`.
"""

from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from pnx_jax.errors import UserError


def mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """All devices, or those given, in a row."""
  devices = jax.devices() if devices is None else devices
  return jax.make_mesh(
    (len(devices),), ('data',), axis_types=(AxisType.Auto,), devices=devices
  )


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, jax.P())


def split(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, jax.P('data'))


def compute_dtype(name: str) -> str:
  """'auto' is bfloat16 where the hardware gains by it, on GPU and TPU."""
  if name != 'auto':
    return name
  return 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'


def check_batch_size(batch_size: int, name: str) -> None:
  """Raises UserError where a batch does not divide among the devices."""
  if batch_size % jax.device_count():
    raise UserError(
      f'{name}={batch_size} does not divide among {jax.device_count()} '
      f'devices; set it to a multiple of {jax.device_count()}'
    )


def put(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """This process' part of a global batch, laid on its devices."""
  return {
    name: jax.make_array_from_process_local_data(split(mesh), value)
    for name, value in batch.items()
  }


def prefetch(batches: Iterable[dict], mesh: Mesh) -> Iterator[dict]:
  """Batches on the devices, one ahead of the one in use."""
  ahead = None
  for batch in batches:
    current, ahead = ahead, put(batch, mesh)
    if current is not None:
      yield current
  if ahead is not None:
    yield ahead


def memory() -> dict[str, float]:
  """GiB in use on this host's fullest device; empty where not told."""
  used = [
    statistics['peak_bytes_in_use'] / 2**30
    for device in jax.local_devices()
    if (statistics := device.memory_stats())
  ]
  return {'memory_gib': max(used)} if used else {}
