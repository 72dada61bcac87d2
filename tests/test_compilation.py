"""What is said while XLA compiles."""

import logging
import os
import subprocess
import sys
import time

import jax
import numpy as np

from pnx_jax.models import segmenter
from pnx_jax.prediction.network import Network
from pnx_jax.training import alarm_filter, compilation

STARS = b'*' * 32 + b'\n'
QUESTION = b'[Compiling module jit_step for CPU] Very slow compile?  If you\n'
PLACE = b'2026-01-01 12:00:00.1: E external/xla/slow_operation_alarm.cc:73] '
# As XLA prints them after two minutes, and at the end of the compilation.
ALARMS = (
  PLACE + b'\n' + STARS + QUESTION + STARS,
  PLACE + b'The operation took 2m7.5s\n' + STARS + QUESTION + STARS,
)
ERROR = b'2026-01-01 12:00:01.0: E external/xla/service.cc:12] out of memory\n'


def filtered(text):
  return b''.join(alarm_filter.without_alarm(text.splitlines(keepends=True)))


def test_only_the_alarm_about_slow_compilation_is_dropped():
  folding = PLACE + b'Constant folding an instruction is taking > 1s\n'
  for alarm in ALARMS:
    assert filtered(ERROR + alarm + ERROR) == ERROR + ERROR
    assert filtered(alarm + alarm) == b''
  for text in (
    ERROR,
    folding + ERROR,
    folding + STARS + ERROR,
    PLACE + b'\n' + STARS + ERROR,
    PLACE + b'\n' + folding + STARS,
    PLACE + b'\n' + STARS,
    b'no end of line',
  ):
    assert filtered(text) == text
  assert filtered(PLACE + b'\n' + ALARMS[0]) == PLACE + b'\n'


def test_errors_show_while_a_program_is_compiled(capfd):
  with compilation.without_slow_compile_alarm():
    os.write(2, ALARMS[0] + ERROR)
    # It inherits the descriptor and outlives the block.
    child = subprocess.Popen(
      [sys.executable, '-S', '-c', 'input(); import os; os.write(2, b"late")'],
      stdin=subprocess.PIPE,
    )
  os.write(2, b'after\n')
  child.communicate(b'\n')
  assert child.returncode == 0
  error, deadline = '', time.monotonic() + 60
  # The filter is a process, too.
  while 'late' not in error and time.monotonic() < deadline:
    time.sleep(0.05)
    error += capfd.readouterr().err
  assert ERROR.decode() in error
  assert 'after\n' in error
  assert 'late' in error
  assert 'slow' not in error


def test_errors_show_where_no_filter_can_be_started(capfd, monkeypatch):
  monkeypatch.setattr(sys, 'executable', '/nowhere/python')
  before = os.fstat(2)
  with compilation.without_slow_compile_alarm():
    os.write(2, ERROR)
  assert ERROR.decode() in capfd.readouterr().err
  assert os.path.samestat(before, os.fstat(2))


def test_threads_that_compile_leave_standard_error_as_it_was(capfd):
  before = os.fstat(2)
  first, second = (compilation.without_slow_compile_alarm() for _ in range(2))
  first.__enter__()
  second.__enter__()
  first.__exit__(None, None, None)
  second.__exit__(None, None, None)
  assert os.path.samestat(before, os.fstat(2))


def announcements(caplog, name):
  return [record.message.partition(f' {name}')[0] for record in caplog.records]


def test_every_compilation_is_announced(caplog):
  caplog.set_level(logging.INFO)
  total = compilation.announced(jax.jit(lambda x, y: x + y), 'the sum')
  for images in (1, 1, 2, 1):
    assert total(2.0, np.ones(images)).tolist() == [3.0] * images
  assert announcements(caplog, 'the sum') == ['Compiling', 'Compiled'] * 2


def test_prediction_is_announced_in_the_log_alone(caplog, capfd):
  caplog.set_level(logging.INFO)
  model = segmenter.create_model('unet', width=1, depth=1)
  image = np.zeros((1, 8, 8, 1), np.uint8)
  init = jax.jit(model.init, static_argnames='train')
  network = Network(
    model=model,
    variables=init(jax.random.key(0), image / 255, train=False),
    image_size=8,
    image_probability='presence_head',
    flip=False,
  )
  for _ in range(2):
    assert network(image)['probability'].shape == (1,)
  assert announcements(caplog, 'the prediction') == ['Compiling', 'Compiled']
  assert capfd.readouterr().out == ''
