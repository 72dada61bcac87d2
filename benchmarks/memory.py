"""Memory of a process, for benchmarks that measure it."""

import re


def peak_megabytes() -> float:
  """Returns the most memory that was resident, since this program began.

  `getrusage` counts the program that started this one, too.
  """
  with open('/proc/self/status') as file:
    return int(re.search(r'VmHWM:\s+(\d+)', file.read())[1]) / 1024
