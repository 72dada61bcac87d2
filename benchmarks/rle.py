"""How long it takes to encode and decode a mask, beside pycocotools.

python -m benchmarks.rle --rle_csv=train-rle.csv
"""

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
from absl import app, flags
from pycocotools import mask as coco

from pnx_jax.formats import rle

_RLE_CSV = flags.DEFINE_string('rle_csv', None, 'Masks of 1024 x 1024.')
_MASKS = 300
_TIMES = 5


def milliseconds(function: Callable, values: Sequence) -> str:
  """Returns the median over the values of the best of a few calls."""
  best = []
  for value in values:
    times = []
    for _ in range(_TIMES):
      began = time.perf_counter()
      function(value)
      times.append(time.perf_counter() - began)
    best.append(min(times) * 1e3)
  return f'{statistics.median(best):.3f} | {max(best):.3f}'


def main(argv: Sequence[str]) -> None:
  del argv
  rows = [row for rows in rle.read_csv(_RLE_CSV.value).values() for row in rows]
  rows = rows[:_MASKS]
  # C-ordered, as a network's output is.
  masks = [np.ascontiguousarray(rle.decode(row, 1024, 1024)) for row in rows]
  columns = [np.asfortranarray(mask.view(np.uint8)) for mask in masks]
  print('| what | median ms | slowest ms |')
  print('|---|---|---|')
  for name, function, values in (
    ('encode, C-ordered', rle.encode, masks),
    (
      'pycocotools encode, C-ordered',
      lambda mask: coco.encode(np.asfortranarray(mask.view(np.uint8))),
      masks,
    ),
    ('pycocotools encode, F-ordered', coco.encode, columns),
    ('decode', lambda row: rle.decode(row, 1024, 1024), rows),
  ):
    print(f'| {name} | {milliseconds(function, values)} |')


if __name__ == '__main__':
  flags.mark_flag_as_required('rle_csv')
  app.run(main)
