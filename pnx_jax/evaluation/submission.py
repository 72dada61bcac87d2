"""Checks a submission, and scores it where the truth is known.

`python -m pnx_jax.evaluation.submission --check=sub.csv
[--sample=sample_submission.csv] [--truth=train-rle.csv]` lists every fault on
standard error; with the truth it prints the scores as one JSON object on
standard output, and on standard error how many ids have no truth. The exit
status is 1 where there are faults.
"""

import argparse
import csv
import json
import sys

import numpy as np

from pnx_jax.cli import one_line
from pnx_jax.errors import UserError
from pnx_jax.formats import rle
from pnx_jax.metrics.dice import dice

_HEADER = list(rle.HEADER)
# Side of the competition's radiographs, and so of its masks.
SIZE = 1024
# Masks look sideways when this many more lie left than lie high: of the true
# ones 86 % have their centroid in the upper half and 59 % in the left one.
SIDEWAYS = 5
# Masks of pictures of 512 x 512 or less fill the left columns, and so many
# true ones never do.
SMALL = 5

# The longest mask has a run for every second pixel, of 9 characters or so.
csv.field_size_limit(16 * SIZE * SIZE)

_NOTHING = np.zeros((SIZE, SIZE), bool).T


def check(path, *, sample=None, truth=None) -> tuple[list[str], dict | None]:
  """The faults of a submission, a line each, and its scores given the truth.

  Args:
    path: the submission, plain or gzipped.
    sample: a csv with the expected ids; one that repeats them is fine.
    truth: a csv with the annotations of at least some of the ids.

  Raises:
    UserError: one of the files is of another kind altogether, or shares no id
      with the submission.
    OSError: one cannot be opened.
  """
  rows, faults = _read_rows(path)
  repeated = [image_id for image_id, rles in rows.items() if len(rles) > 1]
  faults += _listed('repeated', repeated)
  if sample:
    expected = rle.read_csv(sample)
    _check_shared(sample, expected, path, rows)
    faults += _listed('missing', [key for key in expected if key not in rows])
    faults += _listed('unknown', [key for key in rows if key not in expected])
  annotations = rle.read_csv(truth) if truth else {}
  if truth:
    _check_shared(truth, annotations, path, rows)
  centroids, true_centroids, areas = [], [], []
  for image_id, rles in rows.items():
    mask, wrong = _mask(rles)
    faults += [f'{image_id}: {fault}' for fault in wrong]
    if mask is not None and mask.any():
      centroids.append(_centroid(mask))
    if image_id in annotations:
      try:
        true_mask = rle.union(annotations[image_id], SIZE, SIZE)
      except ValueError as error:
        raise UserError(f'{truth}: {image_id}: {error}') from error
      areas.append(_areas(mask, true_mask))
      if true_mask.any():
        true_centroids.append(_centroid(true_mask))
  faults += _misplaced('the masks', centroids)
  faults += _misplaced(f'the masks of {truth}', true_centroids)
  if not truth:
    return faults, None
  return faults, _scores(*np.array(areas, np.int64).reshape(-1, 3).T) | {
    'num_images': len(areas),
    'ignored': len(rows) - len(areas),
  }


def _read_rows(path) -> tuple[dict[str, list[str]], list[str]]:
  """Every image id with the RLE of each of its rows, and the table's faults."""
  try:
    lines = list(csv.reader(rle.read_lines(path)))
  except csv.Error as error:
    raise UserError(f'{path} is no csv: {error}') from error
  header = lines[0] if lines else []
  faults = []
  if header != _HEADER:
    faults.append(f'line 1: expected the header {",".join(_HEADER)}')
    named = [cell.strip().lower() for cell in header] == [
      name.lower() for name in _HEADER
    ]
    headless = len(header) == 2 and not header[1].strip('-0123456789 ')
    if not named and not headless:
      raise UserError(
        f'{path}: no submission to this competition: it starts with '
        f'{",".join(header)[:60]!r} instead of {",".join(_HEADER)!r}'
      )
    lines = lines if named else [_HEADER, *lines]
  rows: dict[str, list[str]] = {}
  for number, line in enumerate(lines[1:], 2):
    row = [cell.strip() for cell in line]
    if len(row) == 2 and row[0]:
      rows.setdefault(row[0], []).append(row[1])
    elif any(row):
      faults.append(f'line {number}: expected an image id and a mask')
  if not rows:
    faults.append('there is no row with an image id and a mask')
  return rows, faults


def _check_shared(other, others, path, rows) -> None:
  """Raises UserError where another file speaks of none of the images."""
  if rows and rows.keys().isdisjoint(others):
    raise UserError(
      f'{other} belongs to another submission: it shares none of its '
      f'{len(others)} ids with {path}'
    )


def _listed(what, image_ids, most=10) -> list[str]:
  """One line about some ids, or none."""
  if not image_ids:
    return []
  names = ', '.join(image_ids[:most])
  more = f' and {len(image_ids) - most} more' if len(image_ids) > most else ''
  return [f'{len(image_ids)} {what} ids: {names}{more}']


def _mask(rles) -> tuple[np.ndarray | None, list[str]]:
  """The union of an image's rows, None if one is unreadable, and its faults."""
  union, faults = _NOTHING, []
  for row in dict.fromkeys(rles):  # Stage 1's sample repeats whole rows.
    if rle.is_empty(row):
      continue
    try:
      mask = rle.decode(row, SIZE, SIZE)
    except UserError as error:
      return None, [*faults, str(error)]
    if not mask.any():
      faults.append(f'a mask without a pixel is not {rle.EMPTY}')
    if (union & mask).any():
      faults.append('the masks of its rows overlap')
    union = union | mask
  return union, faults


def _centroid(mask) -> tuple[float, float]:
  """Mean row and column of a mask's pixels."""
  columns, rows = np.divmod(np.flatnonzero(mask.T), SIZE)
  return rows.mean(), columns.mean()


def _areas(mask, truth) -> tuple[int, int, int]:
  """Areas of both, of the prediction (-1: unreadable) and of the truth."""
  truth_area = np.count_nonzero(truth)
  if mask is None:
    return 0, -1, truth_area
  return np.count_nonzero(mask & truth), np.count_nonzero(mask), truth_area


def _misplaced(masks, centroids) -> list[str]:
  places = np.array(centroids).reshape(-1, 2)
  count = len(places)
  upper, left = (places < (SIZE - 1) / 2).sum(axis=0)
  if count >= SMALL and (places[:, 1] < SIZE / 4).all():
    return [
      f'{masks} look like those of smaller pictures: all {count} centroids lie '
      f'in the left quarter of {SIZE} x {SIZE}'
    ]
  if left - upper >= SIDEWAYS:
    return [
      f'{masks} look transposed: of {count} centroids {upper} lie in the upper '
      f'half and {left} in the left one; of true ones 86 % and 59 %'
    ]
  return []


def _scores(intersection, predicted_area, truth_area) -> dict:
  scores = dice(intersection, predicted_area, truth_area)
  scores = np.where(predicted_area < 0, 0.0, scores)
  positive = truth_area > 0
  return {
    'dice': _mean(scores),
    'dice_positive': _mean(scores[positive]),
    'specificity': _mean(scores[~positive]),
    'sensitivity': _mean(predicted_area[positive] > 0),
    'all_empty_dice': _mean(~positive),
  }


def _mean(values) -> float | None:
  return float(values.mean()) if len(values) else None


def main(arguments=None) -> int:
  parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
  parser.add_argument('--check', required=True, help='the submission')
  parser.add_argument('--sample', help='a csv with the expected ids')
  parser.add_argument('--truth', help='a csv with the annotations')
  flags = parser.parse_args(arguments)
  with one_line():
    faults, scores = check(flags.check, sample=flags.sample, truth=flags.truth)
  for fault in faults:
    print(fault, file=sys.stderr)
  if scores is not None:
    if scores['ignored']:
      print(
        f'scored are the {scores["num_images"]} ids that {flags.truth} holds; '
        f'{scores["ignored"]} others of {flags.check} are ignored',
        file=sys.stderr,
      )
    print(json.dumps(scores))
  elif not faults:
    print(f'{flags.check}: no fault found')
  return 1 if faults else 0


if __name__ == '__main__':
  sys.exit(main())
