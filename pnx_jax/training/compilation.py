"""How XLA compiles, and what is said while it does."""

import contextlib
import logging
import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

_logger = logging.getLogger(__name__)
_filtering = threading.Lock()
_FILTER = pathlib.Path(__file__).with_name('alarm_filter.py')


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


def announced(function: Callable[..., Any], name: str) -> Callable[..., Any]:
  """A jitted function that logs when it is being compiled.

  Args:
    function: What `jax.jit` returns. It is compiled again for new shapes of
      its arguments after the first, the state or the weights.
    name: What it computes, for the log.

  Returns:
    A function with the same arguments and results.
  """
  compiled = set()

  def call(*args: Any) -> Any:
    shapes = str(jax.tree.map(np.shape, args[1:]))
    if shapes in compiled:
      return function(*args)
    _logger.info('Compiling %s, which can take minutes ...', name)
    start = time.monotonic()
    with without_slow_compile_alarm():
      result = function(*args)
    compiled.add(shapes)
    _logger.info('Compiled %s in %.0f s.', name, time.monotonic() - start)
    return result

  return call


@contextlib.contextmanager
def without_slow_compile_alarm() -> Iterator[None]:
  """Keeps XLA's alarm about a slow compilation from standard error.

  XLA logs it as an error after two minutes and has no option against it. Until
  the block ends, file descriptor 2 leads through a process that drops this
  message alone. Messages of a crash pass too, and children that inherit the
  descriptor can write to it for as long as they live. One thread at a time
  redirects it; a program without standard error has nothing to redirect, and
  one that cannot start a process keeps the alarm.
  """
  with contextlib.ExitStack() as stack:
    if sys.stderr is not None and _filtering.acquire(blocking=False):
      stack.callback(_filtering.release)
      stack.enter_context(_filtered())
    yield


@contextlib.contextmanager
def _filtered() -> Iterator[None]:
  saved = os.dup(2)
  try:
    try:
      process = subprocess.Popen(
        [sys.executable, '-I', '-S', str(_FILTER)],
        stdin=subprocess.PIPE,
        stdout=saved,
        start_new_session=True,  # Ctrl-C is not for it.
      )
    except OSError as error:
      _logger.debug('Messages of XLA are not filtered: %s', error)
      yield
      return
    assert process.stdin is not None
    with process.stdin as pipe:
      os.dup2(pipe.fileno(), 2)
    try:
      yield
    finally:
      sys.stderr.flush()
      os.dup2(saved, 2)
      # It ends with the last child that inherited the descriptor.
      end = threading.Thread(target=process.wait, daemon=True)
      end.start()
      end.join(timeout=2)
  finally:
    os.close(saved)
