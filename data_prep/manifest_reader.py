"""The manifest of a build: a csv with a row per film or per annotation.

The one column it must have is `path`. docs/data.md describes the others.
"""

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from data_prep.entries import TEST, TRAIN, Entry
from pnx_jax.errors import UserError
from pnx_jax.formats import dicom, files, limits, picture, rle
from pnx_jax.formats.names import printable
from pnx_jax.storage import local
from pnx_jax.storage.addresses import is_address, parse

COLUMNS = (
  'path',
  'image_id',
  'patient',
  'source',
  'split',
  'label',
  'mask',
  'rle',
  'box',
  'boxes_exhaustive',
  'polygon',
  'annotation_size',
  'structure',
  'view',
  'sex',
  'age',
  'pixel_spacing_mm',
  'window',
)
_STRUCTURE = 'pneumothorax'
# Columns of which every row of a film must say the same, or nothing.
_OF_FILM = (
  *('path', 'patient', 'source', 'split', 'label', 'annotation_size'),
  *('boxes_exhaustive', 'view', 'sex', 'age', 'pixel_spacing_mm', 'window'),
)

_LARGEST = 1e9  # No number of a cell is larger.

_Cells = dict[str, str]


@dataclasses.dataclass
class _Film:
  """The rows of one film, put together."""

  line: int
  cells: _Cells
  masks: list[str]
  rles: list[str]
  boxes: list[tuple[int, int, int, int]]
  polygons: list[tuple[tuple[float, ...], ...]]
  kept: dict[str, str]


class Manifest(NamedTuple):
  """What a manifest says.

  Attributes:
    entries: One for every film, in the order of the rows.
    unused: Columns that are neither known nor to be kept.
  """

  entries: list[Entry]
  unused: list[str]


def read(path: str | os.PathLike[str], keep: Sequence[str] = ()) -> Manifest:
  """Reads a manifest.

  Args:
    path: The csv.
    keep: Columns to keep beside those of `COLUMNS`, in small letters.

  Raises:
    UserError: The csv, or a cell of it, cannot be used; names the row.
  """
  rows = files.csv_rows(path)
  _, header = next(rows, (0, []))
  header = [name.lower() for name in header]
  if 'path' not in header:
    raise UserError(
      f'{path}: expected a header with the column path, got '
      f'{",".join(header)[:60]!r}'
    )
  if len(set(header)) != len(header):
    raise UserError(f'{path}: a column is there twice')
  missing = [name for name in keep if name not in header]
  if missing:
    raise UserError(
      f'--keep_columns: {path} has no column {missing[0]!r}; it has '
      f'{", ".join(header)}'
    )
  films: dict[str, _Film] = {}
  names: dict[str, str] = {}
  folder = os.path.dirname(local.origin(os.path.realpath(path)))
  for line, row in rows:
    where = f'{path}, line {line}'
    if len(row) != len(header):
      raise UserError(f'{where}: {len(row)} cells instead of {len(header)}')
    cells = {name: cell for name, cell in zip(header, row, strict=True) if cell}
    film = _add(films, names, cells, folder, where, line)
    for column in keep:
      film.kept.setdefault(column, cells.get(column, ''))
  if not films:
    raise UserError(f'{path} names no film')
  _fetch(films.values())
  return Manifest(
    [_entry(name, film, path) for name, film in films.items()],
    [name for name in header if name and name not in (*COLUMNS, *keep)],
  )


def patients(entries: list[Entry]) -> dict[str, str] | None:
  """Returns the patient of each film that has one; None if there is none."""
  found = {entry.image_id: entry.patient for entry in entries if entry.patient}
  return found or None


def _add(
  films: dict[str, _Film],
  names: dict[str, str],
  cells: _Cells,
  folder: str,
  where: str,
  line: int,
) -> _Film:
  """Adds a row to its film, which it returns; `names` are by path."""
  if 'path' not in cells:
    raise UserError(f'{where}: the cell path is empty')
  cells['path'] = _path(folder, cells['path'])
  name = printable(cells.get('image_id') or _image_id(cells['path']))
  if names.setdefault(cells['path'], name) != name:
    before = names[cells['path']]
    raise UserError(
      f'{where}: {printable(cells["path"])} is {name}, and {before} in line '
      f'{films[before].line}: a file is one film'
    )
  film = films.setdefault(name, _Film(line, {}, [], [], [], [], {}))
  for column in _OF_FILM:
    before = film.cells.setdefault(column, cells.get(column, ''))
    if cells.get(column) and not before:
      film.cells[column] = cells[column]
    elif cells.get(column) and cells[column] != before:
      raise UserError(
        f'{where}: {name} has another {column} in line {film.line}: '
        f'{printable(before)!r} and {printable(cells[column])!r}'
      )
  if cells.get('structure', _STRUCTURE).lower() != _STRUCTURE:
    return film
  if 'mask' in cells:
    film.masks.append(_path(folder, cells['mask']))
  if 'rle' in cells:
    film.rles.append(cells['rle'])
  if 'box' in cells:
    film.boxes.append(_box(cells['box'], where))
  if 'polygon' in cells:
    film.polygons.append(_polygon(cells['polygon'], where))
  return film


def _path(folder: str, cell: str) -> str:
  """Returns the path or address that a cell names from a manifest's folder."""
  if is_address(cell):
    return str(parse(cell))
  if not is_address(folder) or os.path.isabs(cell):
    return os.path.normpath(os.path.join(folder, cell))
  address = parse(folder)
  return str(address._replace(key=os.path.normpath(f'{address.key}/{cell}')))


def _fetch(films: Iterable[_Film]) -> None:
  """Puts local copies in the place of addresses."""
  films = list(films)
  paths = {path for film in films for path in (film.cells['path'], *film.masks)}
  copies = local.fetched_objects(paths)
  for film in films:
    film.cells['path'] = copies[film.cells['path']]
    film.masks = [copies[path] for path in film.masks]


def _entry(name: str, film: _Film, path: str | os.PathLike[str]) -> Entry:
  where = f'{path}, line {film.line}'
  cells = film.cells
  positive = _flag(cells, 'label', where)
  has_mask = film.masks or film.rles or film.polygons
  if positive == 0 and film.boxes:
    raise UserError(f'{where}: label 0 contradicts a box')
  part, fold = _split(cells['split'], where)
  size = _numbers(cells, 'annotation_size', 2, where)
  if size and not 1 <= size[0] * size[1] <= limits.MOST_PIXELS:
    raise UserError(f'{where}: annotation_size is that of no film')
  spacing = _numbers(cells, 'pixel_spacing_mm', 2, where)
  window = _numbers(cells, 'window', 2, where, positive=False)
  if window and window[0] >= window[1]:
    raise UserError(f'{where}: window must be two rising values')
  if window and not picture.is_picture(cells['path']):
    raise UserError(f'{where}: window is for PNG and JPEG; DICOM has its own')
  sex = cells['sex'].upper()[:1]
  rles = tuple(text for text in film.rles if not rle.is_empty(text))
  return Entry(
    path=cells['path'],
    image_id=name,
    part=part,
    rles=rles if has_mask or positive == 0 else None,
    label=positive,
    masks=tuple(film.masks),
    polygons=tuple(film.polygons),
    boxes=tuple(film.boxes),
    boxes_exhaustive=_flag(cells, 'boxes_exhaustive', where) == 1,
    annotation_size=(int(size[0]), int(size[1])) if size else None,
    patient=cells['patient'],
    source=cells['source'],
    fold=fold,
    view=cells['view'].upper(),
    sex=sex if sex in ('F', 'M', 'O') else '',
    age=_age(cells['age'], where),
    pixel_spacing=spacing,
    window=window,
    kept=tuple(film.kept.values()),
  )


def _flag(cells: Mapping[str, str], column: str, where: str) -> int | None:
  """Returns 0, 1, or None for an empty cell."""
  text = cells[column].lower()
  if text in ('', 'nan'):
    return None
  if text not in ('0', '1', '0.0', '1.0'):
    raise UserError(f'{where}: {column} is {text!r}: expected 0, 1 or nothing')
  return int(text[0])


def _split(text: str, where: str) -> tuple[str, int | None]:
  text = text.lower().removeprefix('fold')
  if text in ('', TRAIN, TEST):
    return text or TRAIN, None
  if text.isdecimal():
    return TRAIN, int(text)
  raise UserError(
    f'{where}: split is {text!r}: expected train, test or the number of a fold'
  )


def _age(text: str, where: str) -> int:
  if not text:
    return -1
  age = text.rstrip('Yy').removesuffix('.0')
  if not age.isdecimal() or len(age) > 3:
    raise UserError(f'{where}: age is {text[:20]!r}: expected years')
  return int(age)


def _numbers(
  cells: Mapping[str, str],
  column: str,
  count: int,
  where: str,
  *,
  positive: bool = True,
) -> tuple[float, float] | None:
  if not cells[column]:
    return None
  values = _floats(cells[column])
  if len(values) != count or (positive and min(values) <= 0):
    raise UserError(
      f'{where}: {column} is {cells[column][:30]!r}: expected {count} '
      f'{"positive " if positive else ""}numbers'
    )
  return values[0], values[1]


def _box(text: str, where: str) -> tuple[int, int, int, int]:
  values = _floats(text)
  if len(values) != 4 or min(values[2:]) <= 0:
    raise UserError(f'{where}: box is {text[:40]!r}: expected x y w h')
  left, top, width, height = values
  right, bottom = math.ceil(left + width), math.ceil(top + height)
  left, top = math.floor(left), math.floor(top)
  return left, top, right - left, bottom - top


def _polygon(text: str, where: str) -> tuple[tuple[float, ...], ...]:
  rings = tuple(_floats(part) for part in text.split(';'))
  for ring in rings:
    if len(ring) < 6 or len(ring) % 2:
      raise UserError(
        f'{where}: a polygon needs three points or more, x1 y1 x2 y2 ..., and '
        f'this one is {text[:40]!r}'
      )
  return rings


def _floats(text: str) -> tuple[float, ...]:
  """Returns the numbers of a cell; none if one of them is not a number."""
  try:
    values = tuple(map(float, text.replace(',', ' ').split()))
  except ValueError:
    return ()
  return values if all(abs(value) < _LARGEST for value in values) else ()


def _image_id(path: str) -> str:
  if picture.is_picture(path):
    return os.path.splitext(os.path.basename(path))[0]
  return dicom.image_id_of(path)
