"""`jax.jit` for programs that contain a network."""

import functools
from collections.abc import Callable
from typing import Any

import jax

# Disables XLA's newer convolutions on a CPU (YNNPACK): those of Eigen need down
# to half the time (benchmarks/layers.py).
_CPU_OPTIONS = {'xla_cpu_experimental_ynn_fusion_type': ''}


def jit(function: Callable[..., Any], **arguments: Any) -> Any:
  """`jax.jit` with the compiler options under which networks run fastest.

  JAX takes options for the outermost program only: the result cannot be called
  inside another `jit`.

  Args:
    function: what to compile.
    **arguments: of `jax.jit`.

  Returns:
    What `jax.jit` returns.
  """
  options = _CPU_OPTIONS if _has_options() else None
  return jax.jit(function, compiler_options=options, **arguments)


@functools.cache
def _has_options() -> bool:
  """Whether this is a CPU and its XLA knows the options."""
  if jax.default_backend() != 'cpu':
    return False
  try:
    jax.jit(lambda: 0, compiler_options=_CPU_OPTIONS).lower().compile()
  except jax.errors.JaxRuntimeError:
    return False
  return True
