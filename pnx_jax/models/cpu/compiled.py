"""`jax.jit` for programs that hold a network."""

import functools

import jax

# XLA's own convolutions on a CPU (YNNPACK), put out of use: those of Eigen
# need down to half the time (benchmarks/layers.py).
_CPU_OPTIONS = {'xla_cpu_experimental_ynn_fusion_type': ''}


def jit(function, **arguments):
  """`jax.jit` with the options under which networks run fastest.

  JAX takes options for the outermost program only: what this returns cannot be
  called in another `jit`.
  """
  options = _CPU_OPTIONS if _has_options() else None
  return jax.jit(function, compiler_options=options, **arguments)


@functools.cache
def _has_options():
  """Whether this is a CPU and its XLA knows the options."""
  if jax.default_backend() != 'cpu':
    return False
  try:
    jax.jit(lambda: 0, compiler_options=_CPU_OPTIONS).lower().compile()
  except jax.errors.JaxRuntimeError:
    return False
  return True
