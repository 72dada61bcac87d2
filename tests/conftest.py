"""Eight CPU devices, strict JAX, and a small synthetic dataset for all."""

import os
import pathlib

# Before JAX starts: these decide what it starts with.
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
)
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import jax
import pytest

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)

_REAL_DATA = os.environ.get('PNX_REAL_DATA')


@pytest.fixture(scope='session')
def real_data() -> pathlib.Path:
  """The folder of real radiographs and labels; skips where there is none."""
  if not _REAL_DATA:
    pytest.skip('PNX_REAL_DATA is not set')
  return pathlib.Path(_REAL_DATA)
