"""The files of an evaluation, and its summary for the terminal."""

import fnmatch
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pnx_jax.evaluation.report import gallery
from pnx_jax.formats import evaluation_files, files
from pnx_jax.formats.schema import Record
from pnx_jax.metrics import intervals
from pnx_jax.metrics.averages import quartiles
from pnx_jax.metrics.subgroups import SubgroupDifference
from pnx_jax.metrics.summary import Images

_OURS = (
  evaluation_files.CHECKSUMS,
  'boxes.csv',
  'claim.md',
  'figures/*.svg',
  'figures/*.pdf',
  'deployment.json',
  'masks.csv',
  'metrics.json',
  'outlines.csv',
  'lesions.csv',
  'readers.csv',
  'false_positives.csv',
  *(f'overlays/{kind}/*_*.png' for kind in gallery.KINDS),
  'per_image.csv',
  'postprocess.json',
  'report.html',
  'subgroups.csv',
  'submission.csv',
  'uncertainty.csv',
  '.*.partial',
)


def is_ours(name: str) -> bool:
  """Whether an evaluation writes a file of this path in `eval/`."""
  return any(fnmatch.fnmatchcase(name, pattern) for pattern in _OURS)


def write_per_image(
  path: str | os.PathLike[str],
  records: Sequence[Record],
  fold: np.ndarray,
  images: Images,
) -> None:
  """Writes one row per image; unknown cells are empty.

  Args:
    path: Of per_image.csv.
    records: N records.
    fold: int[N].
    images: N images. Those without a pneumothorax have no size quartile, those
      whose mask is not known no Dice either.

  Raises:
    UserError: The file cannot be written.
  """
  quartile = quartiles(images.truth_area, images.marked)
  scored = np.isfinite(images.dice)
  rows = (
    (
      record.image_id,
      record.patient,
      fold[row],
      int(images.label[row]),
      repr(float(images.probability[row])),
      repr(float(images.dice[row])) if scored[row] else '',
      images.truth_area[row] if scored[row] else '',
      images.predicted_area[row],
      quartile[row] or '',
      record.view,
      record.sex,
      record.age if record.age >= 0 else '',
    )
    for row, record in enumerate(records)
  )
  files.write_csv(path, evaluation_files.PER_IMAGE, rows)


def write_outlines(
  path: str | os.PathLike[str],
  records: Sequence[Record],
  columns: Mapping[str, np.ndarray],
  images: Images,
) -> None:
  """Writes the distances of outlines, one row per image with a pneumothorax.

  Args:
    path: Of outlines.csv.
    records: N records.
    columns: f64[N] by name, see `outlines.columns`; NaN makes an empty cell.
    images: N images.

  Raises:
    UserError: The file cannot be written.
  """
  rows = (
    (
      records[index].image_id,
      *(
        '' if np.isnan(column[index]) else repr(float(column[index]))
        for column in columns.values()
      ),
    )
    for index in np.flatnonzero(images.marked)
  )
  files.write_csv(path, ('image_id', *columns), rows)


def write_subgroups(
  path: str | os.PathLike[str], differences: Sequence[SubgroupDifference]
) -> None:
  """Writes the differences of subgroups; undefined cells are empty.

  Raises:
    UserError: The file cannot be written.
  """
  header = (
    *('table', 'row', 'metric', 'inside', 'outside', 'difference'),
    *('low', 'high', 'interval_method'),
  )
  rows = []
  for each in differences:
    numbers = (
      *(each.inside, each.outside, each.difference),
      *(each.interval or (np.nan, np.nan)),
    )
    cells = ('' if np.isnan(x) else float(x) for x in numbers)
    method = intervals.MAX_T if each.interval else ''
    rows.append((each.table, each.row, each.metric, *cells, method))
  files.write_csv(path, header, rows)


def summary(metrics: Mapping[str, Any]) -> str:
  """The main metrics of metrics.json as a table for the terminal."""
  names = {
    'dice': 'Dice',
    'all_empty_dice': 'Dice of all-empty',
    'dice_positive': 'Dice on positives',
    'sensitivity': 'sensitivity',
    'specificity': 'specificity',
    'auc': 'AUC of the probability',
    'optimism': 'optimism of tuning',
    'box_hit_rate_10': 'hit rate of boxes',
    'box_iobb': 'IoBB',
  }
  counts = {'num_images': 'n'}
  if 'num_masks' in metrics:
    counts = {
      'num_images': 'n of labels',
      'num_masks': 'n of masks',
      'num_box_images': 'n of films with boxes',
    }
  lines = [
    f'{title:<24}{metrics[name]:>8}'
    for name, title in counts.items()
    if name in metrics
  ]
  for name, title in names.items():
    if name not in metrics:
      continue
    pair = metrics['intervals'][name]
    between = f'  [{pair[0]:.4f}, {pair[1]:.4f}]' if pair else ''
    value = '-' if metrics[name] is None else f'{metrics[name]:.4f}'
    lines.append(f'{title:<24}{value:>8}{between}')
  if metrics['intervals']['dice']:
    lines.append(f'95 % intervals: {metrics["interval_methods"]["dice"]}')
  return '\n'.join(lines)
