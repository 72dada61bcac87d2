"""How XLA compiles, set once before JAX computes."""

import os
import pathlib

import jax


def keep_programs() -> None:
  """Compiled programs outlive the process: a second start takes seconds.

  They lie in JAX_COMPILATION_CACHE_DIR, by default in ~/.cache/pnx_jax.
  """
  if not jax.config.jax_compilation_cache_dir:
    cache = pathlib.Path.home() / '.cache' / 'pnx_jax'
    jax.config.update('jax_compilation_cache_dir', str(cache))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


def use_deterministic_operations() -> None:
  """Makes a GPU add in the same order every time, at a cost in speed."""
  flags = os.environ.get('XLA_FLAGS', '')
  os.environ['XLA_FLAGS'] = f'{flags} --xla_gpu_deterministic_ops=true'
