"""What depends on the devices of a run: mesh, layout, platform, precision.

One mesh over all devices of all hosts; batches are split along `data`,
everything else is replicated.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from pnx_jax.errors import UserError

Batch = dict[str, np.ndarray]


def mesh(devices: Sequence[Any] | None = None) -> Mesh:
  """Returns a mesh of all devices, or of those given (jax.Device), in a row."""
  devices = jax.devices() if devices is None else devices
  return jax.make_mesh(
    (len(devices),), ('data',), axis_types=(AxisType.Auto,), devices=devices
  )


def platform(mesh: Mesh) -> str:
  """Returns the platform of the devices: 'cpu', 'gpu' or 'tpu'.

  It is asked for once and passed down; layers do not ask JAX.
  """
  return mesh.devices.flat[0].platform


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the layout of what every device holds whole."""
  return NamedSharding(mesh, jax.P())


def split(mesh: Mesh) -> NamedSharding:
  """Returns the layout of what is split along its first axis."""
  return NamedSharding(mesh, jax.P('data'))


def compute_dtype(name: str, *, platform: str) -> str:
  """Returns the dtype that a network computes in.

  Args:
    name: The config's compute_dtype; 'auto' is bfloat16 where the hardware
      gains from it, on GPU and TPU.
    platform: Of the devices: 'cpu', 'gpu' or 'tpu'.
  """
  if name != 'auto':
    return name
  return 'float32' if platform == 'cpu' else 'bfloat16'


def check_batch_size(batch_size: int, name: str) -> None:
  """Raises UserError where a batch does not divide among the devices."""
  if batch_size % jax.device_count():
    raise UserError(
      f'{name}={batch_size} does not divide among {jax.device_count()} '
      f'devices; set it to a multiple of {jax.device_count()}'
    )


def put(batch: Batch, mesh: Mesh) -> dict[str, jax.Array]:
  """Puts this process' part of a global batch on its devices."""
  return {
    name: jax.make_array_from_process_local_data(split(mesh), value)
    for name, value in batch.items()
  }


def prefetch(
  batches: Iterable[Batch], mesh: Mesh
) -> Iterator[dict[str, jax.Array]]:
  """Yields batches on the devices, one ahead of the one in use."""
  ahead = None
  for batch in batches:
    current, ahead = ahead, put(batch, mesh)
    if current is not None:
      yield current
  if ahead is not None:
    yield ahead


def memory() -> dict[str, float]:
  """Returns GiB in use on this host's fullest device; {} where unknown."""
  used = [
    statistics['peak_bytes_in_use'] / 2**30
    for device in jax.local_devices()
    if (statistics := device.memory_stats())
  ]
  return {'memory_gib': max(used)} if used else {}
