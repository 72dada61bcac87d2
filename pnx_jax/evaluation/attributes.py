"""A user's tables: attributes of images, such as drain, and lists of images."""

import itertools
import logging
import os
from collections.abc import Mapping, Sequence

import numpy as np

from pnx_jax.errors import UserError
from pnx_jax.formats import files
from pnx_jax.formats.patient_map import read_patient_map

_logger = logging.getLogger(__name__)

UNKNOWN = 'unknown'
# Names of the subgroups that every evaluation has.
_TAKEN = (
  *('size_quartile', 'view', 'sex', 'age', 'source', 'operating_point'),
  'label',
)
_BOTH = ' x '  # Between the names of two columns.
_MOST_VALUES = 20
_KEYS = ('image_id', 'patient')


def read(
  path: str | os.PathLike[str],
  image_ids: Sequence[str],
  *,
  patient_map: str | os.PathLike[str] = '',
) -> dict[str, dict[str, np.ndarray]]:
  """Reads a csv with the column `image_id` or `patient` and any others.

  Args:
    path: The csv.
    image_ids: N images. Those that the csv lacks are `unknown`; others in the
      csv are ignored.
    patient_map: A csv that tells the patient of each image; needed for a table
      of patients.

  Returns:
    By column and value, the images that have it: bool[N].

  Raises:
    UserError: The file is not such a table, or shares no image.
  """
  (_, header), *rows = list(files.csv_rows(path)) or [(1, [])]
  key = next((name for name in _KEYS if name in header), '')
  if not key or len(header) < 2:
    raise UserError(
      f'{path}: expected a column image_id (or patient) and at least one '
      f'other, found {", ".join(header) or "nothing"}'
    )
  keys = list(image_ids)
  if key == 'patient':
    if not patient_map:
      raise UserError(
        f'{path} has a row per patient: give the csv of image id and patient '
        'with --config.eval.patient_map'
      )
    patients = read_patient_map(patient_map)
    keys = [patients.get(image_id, '') for image_id in image_ids]
  for name in header:
    taken = name in _TAKEN or _BOTH in name
    if header.count(name) > 1 or not name or taken:
      raise UserError(
        f'{path}: the column {name!r} needs another name; names must differ '
        f'from each other and from {", ".join(_TAKEN)}, without {_BOTH!r}'
      )
  known: dict[str, list[str]] = {}
  place = header.index(key)
  for line, row in rows:
    if len(row) != len(header):
      raise UserError(
        f'{path}, line {line}: {len(row)} cells instead of {len(header)}'
      )
    if row[place] in known:
      raise UserError(f'{path}, line {line}: {row[place]} is there twice')
    known[row[place]] = row
  shared = [each for each in keys if each in known]
  if not shared:
    raise UserError(
      f'{path} names none of the {len(image_ids)} images'
      + (' or their patients' if key == 'patient' else '')
    )
  _logger.info(
    '%s: %d of %d evaluated images have a row; %d other rows are ignored.',
    path,
    len(shared),
    len(image_ids),
    len(known.keys() - set(shared)),
  )
  missing = [''] * len(header)
  table = np.array([known.get(each, missing) for each in keys], object).T
  found = {}
  for name, column in zip(header, table, strict=True):
    if name == key:
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


def read_list(
  path: str | os.PathLike[str], image_ids: Sequence[str]
) -> np.ndarray:
  """Which of N images a csv lists in its first column: bool[N].

  A header `image_id` and further columns are ignored.

  Raises:
    UserError: The file cannot be read, lists none of the images, or all.
  """
  listed = {row[0] for _, row in files.csv_rows(path) if row}
  found = np.array([image_id in listed for image_id in image_ids], bool)
  if not found.any() or found.all():
    raise UserError(
      f'{path} lists {"all" if found.any() else "none"} of the '
      f'{len(found)} images: expected the ids of some of them'
    )
  return found


def two_way(
  label: np.ndarray, tables: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, dict[str, np.ndarray]]:
  """Every two columns combined, and every column with the label.

  Args:
    label: bool[N].
    tables: Of `read`.

  Returns:
    bool[N] by names such as `drain x site` and rows such as `yes, A`; empty
    combinations are left out.
  """
  labels = {'label': {'positive': label, 'negative': ~label}}
  pairs = itertools.combinations({**tables, **labels}.items(), 2)
  return {
    f'{first}{_BOTH}{second}': {
      f'{one}, {other}': rows
      for one, some in first_rows.items()
      for other, others in second_rows.items()
      if (rows := some & others).any()
    }
    for (first, first_rows), (second, second_rows) in pairs
  }
