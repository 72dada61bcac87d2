"""How long it takes to encode and decode a mask, beside what others use.

Those are pycocotools and the loop over all pixels, or over all runs, that one
finds in most notebooks on this data.

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
_SLOW_MASKS = 20
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


def loop_encode(mask: np.ndarray) -> str:
  """The loop over pixels."""
  words, gap, run = [], 0, 0
  for pixel in mask.T.ravel():
    if pixel:
      run += 1
      continue
    if run:
      words += [gap, run]
      gap = run = 0
    gap += 1
  if run:
    words += [gap, run]
  return ' '.join(map(str, words))


def loop_decode(row: str) -> np.ndarray:
  """The loop over runs."""
  mask = np.zeros(1024 * 1024)
  numbers = np.asarray([int(word) for word in row.split()])
  place = 0
  for gap, run in zip(numbers[0::2], numbers[1::2], strict=True):
    place += gap
    mask[place : place + run] = 255
    place += run
  return mask.reshape(1024, 1024).T


def main(argv: Sequence[str]) -> None:
  del argv
  rows = [row for rows in rle.read_csv(_RLE_CSV.value).values() for row in rows]
  rows = rows[:_MASKS]
  # C-ordered, as a network's output is.
  masks = [np.ascontiguousarray(rle.decode(row, 1024, 1024)) for row in rows]
  for row, mask in zip(rows[:_SLOW_MASKS], masks, strict=False):
    assert loop_encode(mask) == row.strip() == rle.encode(mask)
    assert np.array_equal(loop_decode(row) > 0, mask)
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
    ('loop over pixels, encode', loop_encode, masks[:_SLOW_MASKS]),
    ('decode', lambda row: rle.decode(row, 1024, 1024), rows),
    ('loop over runs, decode', loop_decode, rows),
  ):
    print(f'| {name} | {milliseconds(function, values)} |')


if __name__ == '__main__':
  flags.mark_flag_as_required('rle_csv')
  app.run(main)
