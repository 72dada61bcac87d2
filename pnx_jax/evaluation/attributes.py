"""Attributes of images that a user's table names, such as drain or scanner."""

import logging
import os
from collections.abc import Sequence

import numpy as np

from pnx_jax.errors import UserError
from pnx_jax.formats import files

_logger = logging.getLogger(__name__)

UNKNOWN = 'unknown'
# Names of the subgroups that every evaluation has.
_TAKEN = ('size_quartile', 'view', 'sex', 'age', 'source', 'operating_point')
_MOST_VALUES = 20


def read(
  path: str | os.PathLike[str], image_ids: Sequence[str]
) -> dict[str, dict[str, np.ndarray]]:
  """Reads a csv with the column `image_id` and any further columns.

  Args:
    path: The csv.
    image_ids: N images. Those that the csv lacks are `unknown`; others in the
      csv are ignored.

  Returns:
    By column and value, the images that have it: bool[N].

  Raises:
    UserError: The file is not such a table, or shares no image.
  """
  (_, header), *rows = list(files.csv_rows(path)) or [(1, [])]
  if 'image_id' not in header or len(header) < 2:
    raise UserError(
      f'{path}: expected a column image_id and at least one other, found '
      f'{", ".join(header) or "nothing"}'
    )
  for name in header:
    if header.count(name) > 1 or not name or name in _TAKEN:
      raise UserError(
        f'{path}: the column {name!r} needs another name; names must differ '
        f'from each other and from {", ".join(_TAKEN)}'
      )
  known: dict[str, list[str]] = {}
  place = header.index('image_id')
  for line, row in rows:
    if len(row) != len(header):
      raise UserError(
        f'{path}, line {line}: {len(row)} cells instead of {len(header)}'
      )
    if row[place] in known:
      raise UserError(f'{path}, line {line}: {row[place]} is there twice')
    known[row[place]] = row
  shared = [image_id for image_id in image_ids if image_id in known]
  if not shared:
    raise UserError(f'{path} names none of the {len(image_ids)} images')
  _logger.info(
    '%s: %d of %d evaluated images have a row; %d other rows are ignored.',
    path,
    len(shared),
    len(image_ids),
    len(known) - len(shared),
  )
  missing = [''] * len(header)
  table = np.array([known.get(i, missing) for i in image_ids], object).T
  found = {}
  for name, column in zip(header, table, strict=True):
    if name == 'image_id':
      continue
    cells = np.array([cell or UNKNOWN for cell in column])
    values = sorted(set(cells.tolist()))
    if len(values) > _MOST_VALUES:
      raise UserError(
        f'{path}: the column {name!r} has {len(values)} values, more than '
        f'{_MOST_VALUES}: group them, or leave it out'
      )
    found[name] = {value: cells == value for value in values}
  return found
