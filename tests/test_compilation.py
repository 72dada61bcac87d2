"""What is said while XLA compiles."""

import logging
import os
import subprocess
import sys

import jax

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
  error = capfd.readouterr().err
  assert ERROR.decode() in error
  assert 'after\n' in error
  assert 'slow' not in error


def test_the_first_call_is_announced(caplog):
  caplog.set_level(logging.INFO)
  double = compilation.announced(jax.jit(lambda x: 2 * x), 'the double')
  assert [double(2), double(3)] == [4, 6]
  said = [
    record.message.partition(' the double')[0] for record in caplog.records
  ]
  assert said == ['Compiling', 'Compiled']
