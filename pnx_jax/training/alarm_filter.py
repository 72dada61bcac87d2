"""Copies standard input to standard output without XLA's slow-compile alarm.

    python alarm_filter.py < messages

The alarm is four lines: where it was logged, stars, the question "Very slow
compile?", stars. Nothing else is dropped. A line waits for its end, and one
that may begin an alarm for the next line. A script of the standard library
alone, so that it starts at once; see `compilation.without_slow_compile_alarm`.
"""

import sys
from collections.abc import Iterable, Iterator

_ALARM = (
  b'slow_operation_alarm.cc',
  b'*' * 32,
  b'Very slow compile?',
  b'*' * 32,
)


def without_alarm(lines: Iterable[bytes]) -> Iterator[bytes]:
  """Yields the lines that do not belong to an alarm, in their order."""
  held: list[bytes] = []  # They may be the beginning of an alarm.
  for line in lines:
    if _ALARM[len(held)] not in line:
      yield from held
      held = []
    if _ALARM[len(held)] not in line:
      yield line
      continue
    held.append(line)
    if len(held) == len(_ALARM):
      held = []
  yield from held


if __name__ == '__main__':
  for _kept in without_alarm(iter(sys.stdin.buffer.readline, b'')):
    sys.stdout.buffer.write(_kept)
    sys.stdout.buffer.flush()
