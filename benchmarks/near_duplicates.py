"""How long near-duplicates among many films take to find, and the memory.

  python -m benchmarks.near_duplicates --films=100000,1000000

Fingerprints are random bits; every hundredth film is a copy of another one
that differs by 70 of their 1,024 bits. Each number of films has a process of
its own, whose peak of resident memory is printed.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np
from absl import app, flags

from benchmarks import memory
from data_prep import near_duplicates
from pnx_jax.cli import parse_flags

_FILMS = flags.DEFINE_list('films', ['100000', '1000000'], 'Numbers of films.')
_ONE = flags.DEFINE_bool('one', False, 'In this process.')
_BYTES, _DIFFERENT, _COPIED = 128, 70, 100


def fingerprints(number: int) -> tuple[dict[str, bytes], list[list[str]]]:
  """Returns fingerprints by id, and the groups of copies among them."""
  random_state = np.random.default_rng(0)
  codes = random_state.integers(256, size=(number, _BYTES), dtype=np.uint8)
  groups = []
  for copy in range(1, number, _COPIED):
    bits = np.zeros(8 * _BYTES, np.uint8)
    bits[random_state.choice(bits.size, _DIFFERENT, replace=False)] = 1
    codes[copy] = codes[copy - 1] ^ np.packbits(bits)
    groups.append([f'{copy - 1:09}', f'{copy:09}'])
  return {f'{n:09}': code.tobytes() for n, code in enumerate(codes)}, groups


def measure(number: int) -> None:
  """Prints one line of JSON."""
  films, copies = fingerprints(number)
  before = memory.peak_megabytes()
  began, processor = time.perf_counter(), time.process_time()
  found = near_duplicates.near_duplicates(films)
  print(
    json.dumps(
      {
        'films': number,
        'seconds': round(time.perf_counter() - began, 1),
        'processor_seconds': round(time.process_time() - processor, 1),
        'megabytes_before': round(before),
        'megabytes_after': round(memory.peak_megabytes()),
        'copies': len(copies),
        'found': len({*map(tuple, copies)} & {*map(tuple, found)}),
        'groups': len(found),
        'load_average': round(os.getloadavg()[0], 1),
      }
    ),
    flush=True,
  )


def main(argv: Sequence[str]) -> None:
  del argv
  for number in _FILMS.value:
    if _ONE.value:
      measure(int(number))
    else:
      words = '-m', 'benchmarks.near_duplicates', f'--films={number}', '--one'
      subprocess.run([sys.executable, *words], check=True)


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)
