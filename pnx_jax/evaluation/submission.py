"""Checks a submission to the competition, and scores it against annotations.

`python -m pnx_jax.evaluation.submission --check=sub.csv
[--sample=sample_submission.csv] [--truth=train-rle.csv]` lists every fault on
standard error. With the annotations it prints the scores as one JSON object on
standard output, and on standard error how many ids are not annotated. The exit
status is 1 if there are faults.
"""

import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from pnx_jax.cli import Parser, one_line
from pnx_jax.errors import UserError
from pnx_jax.formats import files, rle
from pnx_jax.metrics.dice import dice

_HEADER = list(rle.HEADER)
# Side of the competition's radiographs, and so of its masks.
SIZE = 1024
# Masks count as transposed if this many more centroids lie in the left half
# than in the upper half: of true masks 59 % lie left and 86 % high.
SIDEWAYS = 5
# Masks of 512 x 512 pixels or less fill only the left columns of 1024 x 1024;
# of this many true masks never all do.
SMALL = 5


_NOTHING = np.zeros((SIZE, SIZE), bool).T


def check(
  path: str | os.PathLike[str],
  *,
  sample: str | os.PathLike[str] | None = None,
  truth: str | os.PathLike[str] | None = None,
) -> tuple[list[str], dict[str, Any] | None]:
  """Checks and scores a submission.

  Args:
    path: The submission, plain or gzipped.
    sample: A csv with the expected ids, which may be repeated.
    truth: A csv with the annotations of at least some of the ids.

  Returns:
    The faults, a line each, and the scores by name; None without `truth`.

  Raises:
    UserError: One of the files is of another kind, or shares no id with the
      submission.
    OSError: One of the files cannot be opened.
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
  centroids: list[tuple[float, float]] = []
  true_centroids: list[tuple[float, float]] = []
  areas: list[tuple[int, int, int]] = []
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


def _read_rows(
  path: str | os.PathLike[str],
) -> tuple[dict[str, list[str]], list[str]]:
  """The RLEs of each image id, and the faults of the table."""
  lines = [row for _, row in files.csv_rows(path, lenient=False)]
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
        f'{path} is not a submission to this competition: it starts with '
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


def _check_shared(
  other: str | os.PathLike[str],
  others: Collection[str],
  path: str | os.PathLike[str],
  rows: Mapping[str, list[str]],
) -> None:
  """Raises UserError if another file has none of the submission's ids."""
  if rows and rows.keys().isdisjoint(others):
    raise UserError(
      f'{other} does not belong to {path}: they share none of its '
      f'{len(others)} ids'
    )


def _listed(what: str, image_ids: Sequence[str], most: int = 10) -> list[str]:
  """One line that lists ids, or none."""
  if not image_ids:
    return []
  names = ', '.join(image_ids[:most])
  more = f' and {len(image_ids) - most} more' if len(image_ids) > most else ''
  return [f'{len(image_ids)} {what} ids: {names}{more}']


def _mask(rles: Sequence[str]) -> tuple[np.ndarray | None, list[str]]:
  """The union of an image's rows (None if one is unreadable), and faults."""
  union = _NOTHING
  faults: list[str] = []
  for row in dict.fromkeys(rles):  # Stage 1's sample repeats whole rows.
    if rle.is_empty(row):
      continue
    try:
      mask = rle.decode(row, SIZE, SIZE)
    except UserError as error:
      return None, [*faults, str(error)]
    if not mask.any():
      faults.append(f'an empty mask must be written as {rle.EMPTY}')
    if (union & mask).any():
      faults.append('the masks of its rows overlap')
    union = union | mask
  return union, faults


def _centroid(mask: np.ndarray) -> tuple[float, float]:
  """Mean row and column of a mask's pixels."""
  columns, rows = np.divmod(np.flatnonzero(mask.T), SIZE)
  return rows.mean(), columns.mean()


def _areas(mask: np.ndarray | None, truth: np.ndarray) -> tuple[int, int, int]:
  """Areas of intersection, prediction (-1: unreadable) and truth."""
  truth_area = np.count_nonzero(truth)
  if mask is None:
    return 0, -1, truth_area
  return np.count_nonzero(mask & truth), np.count_nonzero(mask), truth_area


def _misplaced(
  masks: str, centroids: Sequence[tuple[float, float]]
) -> list[str]:
  """One line if masks look transposed or too small, or none."""
  places = np.array(centroids).reshape(-1, 2)
  count = len(places)
  upper, left = (places < (SIZE - 1) / 2).sum(axis=0)
  if count >= SMALL and (places[:, 1] < SIZE / 4).all():
    return [
      f'{masks} look like those of smaller images: all {count} centroids lie '
      f'in the left quarter of {SIZE} x {SIZE}'
    ]
  if left - upper >= SIDEWAYS:
    return [
      f'{masks} look transposed: of {count} centroids {upper} lie in the upper '
      f'half and {left} in the left half; of true masks 86 % and 59 % do'
    ]
  return []


def _scores(
  intersection: np.ndarray, predicted_area: np.ndarray, truth_area: np.ndarray
) -> dict[str, Any]:
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


def _mean(values: np.ndarray) -> float | None:
  return float(values.mean()) if len(values) else None


def main(arguments: Sequence[str] | None = None) -> int:
  """Parses the command line, checks, and returns the exit status."""
  parser = Parser('pnx_jax.evaluation.submission', __doc__)
  parser.add_argument('--check', required=True, help='the submission')
  parser.add_argument('--sample', help='a csv with the expected ids')
  parser.add_argument('--truth', help='a csv with the annotations')
  with one_line():
    flags = parser.parse(arguments)
    faults, scores = check(flags.check, sample=flags.sample, truth=flags.truth)
  for fault in faults:
    print(fault, file=sys.stderr)
  if scores is not None:
    if scores['ignored']:
      print(
        f'scored the {scores["num_images"]} ids that are annotated in '
        f'{flags.truth}; ignored the {scores["ignored"]} others',
        file=sys.stderr,
      )
    print(json.dumps(scores))
  elif not faults:
    print(f'{flags.check}: no faults')
  return 1 if faults else 0


if __name__ == '__main__':
  sys.exit(main())
