"""What the readers of public datasets share: tables, files and labels."""

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence

from pnx_jax.errors import UserError
from pnx_jax.formats import files

# A row of a manifest; its `path` is a file, not yet relative to the manifest.
Row = dict[str, str]

_WHERE = '(where)'  # the key of a row's place in its table

_ENDINGS = ('.png', '.jpg', '.jpeg', '.dcm', '.dicom')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """How a reader treats what a dataset leaves open.

  Attributes:
    uncertain: The label of a film whose finding is noted as uncertain.
    unmentioned: The label of a film whose finding is not mentioned.
    min_readers: How many readers have to mark a film for a label of 1.
    nih_table: `Data_Entry_2017` of NIH, for the size of SIIM's originals.
  """

  uncertain: str = ''
  unmentioned: str = ''
  min_readers: int = 1
  nih_table: str = ''


@dataclasses.dataclass
class Found:
  """What a reader found.

  Attributes:
    rows: Of the manifest.
    notes: What it left out, and what else is to be told, a line each.
  """

  rows: list[Row] = dataclasses.field(default_factory=list)
  notes: list[str] = dataclasses.field(default_factory=list)

  def note(self, number: int, what: str) -> None:
    """Adds a line that begins with a number, unless that is 0."""
    if number:
      self.notes.append(f'{number} {what}')


def path_of(root: str, *names: str, required: bool = True) -> str:
  """Returns the first of some files that is there, gzipped or not.

  Args:
    root: The dataset's folder.
    names: Paths below it.
    required: Whether it is an error if there is none; else it is empty.

  Raises:
    UserError: There is none of them.
  """
  for name in names:
    for ending in ('', '.gz'):
      path = os.path.join(root, name + ending)
      if os.path.isfile(path):
        return path
  if required:
    raise UserError(
      f'--root={root} has no {" or ".join(names)}: name the folder of the '
      'dataset as it is shipped'
    )
  return ''


def table(path: str, columns: Sequence[str]) -> Iterator[Mapping[str, str]]:
  """Yields the rows of a csv by the names in its header.

  Raises:
    UserError: It lacks a column, or a row has too few cells.
  """
  rows = files.csv_rows(path)
  _, header = next(rows, (0, []))
  for name in columns:
    if name not in header:
      raise UserError(
        f'{path} has no column {name!r}; it has {", ".join(header)[:200]}'
      )
  last = max((header.index(name) for name in columns), default=0)
  for line, row in rows:
    if len(row) <= last:
      raise UserError(f'{path}, line {line}: {len(row)} cells are too few')
    cells = dict(zip(header, row, strict=False))
    yield {**cells, _WHERE: f'{path}, line {line}'}


def number(entry: Mapping[str, str], column: str) -> float:
  """Returns a cell of a row of a `table` as a number.

  Raises:
    UserError: It is none; names the table and the line.
  """
  try:
    value = float(entry[column])
  except ValueError:
    value = math.nan
  if not math.isfinite(value):
    raise UserError(
      f'{entry[_WHERE]}: {column} is {entry[column][:20]!r}, not a number'
    )
  return value


def films(root: str) -> dict[str, str]:
  """Returns the films below a folder by name, without ending.

  Files without an ending of a picture or DICOM file, as some datasets have,
  keep their whole name.
  """
  found: dict[str, str] = {}
  for folder, folders, names in os.walk(root, followlinks=True):
    folders.sort()
    for name in sorted(names):
      stem, ending = os.path.splitext(name)
      name_of = stem if ending.lower() in _ENDINGS else name
      found.setdefault(name_of, os.path.join(folder, name))
  return found


def label(entry: Mapping[str, str], column: str, options: Options) -> str:
  """Returns the label for CheXpert's 1.0, 0.0, -1.0 or an empty cell.

  Raises:
    UserError: It is none of these; names the table and the line.
  """
  text = entry[column]
  if text in ('1.0', '1'):
    return '1'
  if text in ('0.0', '0'):
    return '0'
  if text in ('-1.0', '-1'):
    return options.uncertain
  if not text:
    return options.unmentioned
  raise UserError(
    f'{entry[_WHERE]}: {column} is {text[:20]!r}: expected 1.0, 0.0, -1.0 or '
    'nothing'
  )


def box(left: float, top: float, right: float, bottom: float) -> str:
  """Returns two corners as a manifest writes a box."""
  return f'{left:g} {top:g} {right - left:g} {bottom - top:g}'
