"""NIH ChestX-ray14 (Wang et al., ChestX-ray8, 2017).

Reads `Data_Entry_2017.csv` (also `_v2020`), `BBox_List_2017.csv` and
`test_list.txt`, and films anywhere below the root, such as `images_001/images`.
"""

import os
from collections.abc import Iterator, Mapping

from PIL import Image

from data_prep.public import layout
from pnx_jax.errors import UserError
from pnx_jax.formats import files

_TABLES = ('Data_Entry_2017_v2020.csv', 'Data_Entry_2017.csv')
_FINDING = 'Pneumothorax'
# Commas within names of columns have made two of each.
_WIDTH, _HEIGHT = 'OriginalImage[Width', 'Height]'
_SPACING_X, _SPACING_Y = 'OriginalImagePixelSpacing[x', 'y]'
_COLUMNS = (
  *('Image Index', 'Finding Labels', 'Patient ID', 'Patient Age'),
  *('Patient Gender', 'View Position'),
  *(_WIDTH, _HEIGHT, _SPACING_X, _SPACING_Y),
)


def read(root: str, options: layout.Options) -> layout.Found:
  """Returns the rows of a manifest: labels, and boxes where there are any."""
  del options
  found = layout.Found()
  films = layout.films(root)
  boxes = _boxes(layout.path_of(root, 'BBox_List_2017.csv', required=False))
  test = _names(layout.path_of(root, 'test_list.txt', required=False))
  missing = contradicted = 0
  for entry in entries(layout.path_of(root, *_TABLES)):
    name = os.path.splitext(entry['Image Index'])[0]
    if name not in films:
      missing += 1
      continue
    positive = _FINDING in entry['Finding Labels'].split('|')
    contradicted += not positive and name in boxes
    row = {
      'path': films[name],
      'image_id': name,
      'patient': f'{layout.number(entry, "Patient ID"):08.0f}',
      'source': 'nih',
      'split': 'test' if name in test else '',
      'label': '1' if positive or name in boxes else '0',
      'view': entry['View Position'],
      'sex': entry['Patient Gender'],
      'age': _age(entry['Patient Age']),
      'pixel_spacing_mm': spacing(entry, films[name]),
    }
    for box in boxes.get(name, ()):
      # Boxes are measured in the shipped films, whatever the size of these.
      found.rows.append({**row, 'box': box, 'annotation_size': '1024 1024'})
    if name not in boxes:
      found.rows.append(row)
  found.note(missing, 'films of the table are not below the root')
  found.note(contradicted, 'films with a box lack the label; they get 1')
  return found


def entries(path: str) -> Iterator[Mapping[str, str]]:
  """Yields the rows of `Data_Entry_2017`."""
  return layout.table(path, _COLUMNS)


def spacing(entry: Mapping[str, str], path: str) -> str:
  """Returns the spacing of a stored film's rows and columns in mm.

  The table has that of the original film, which was then brought to 1024 x
  1024 pixels, whatever its shape. It is empty if the film cannot be read.
  """
  try:
    with Image.open(path) as image:
      width, height = image.size
  except (OSError, ValueError):
    return ''
  return scaled_spacing(entry, height, width)


def scaled_spacing(entry: Mapping[str, str], height: int, width: int) -> str:
  """Returns the spacing of a film's rows and columns, stored in some size."""
  rows = (
    layout.number(entry, _SPACING_Y) * layout.number(entry, _HEIGHT) / height
  )
  columns = (
    layout.number(entry, _SPACING_X) * layout.number(entry, _WIDTH) / width
  )
  return f'{rows:.6g} {columns:.6g}'


def _boxes(path: str) -> dict[str, list[str]]:
  """Returns the boxes of pneumothorax by film."""
  boxes: dict[str, list[str]] = {}
  if not path:
    return boxes
  rows = files.csv_rows(path)
  next(rows, None)
  for line, row in rows:
    if len(row) < 6:
      raise UserError(f'{path}, line {line}: {len(row)} cells are too few')
    name, finding, *corners = row[:6]
    if finding == _FINDING:
      stem = os.path.splitext(name)[0]
      boxes.setdefault(stem, []).append(' '.join(corners))
  return boxes


def _names(path: str) -> set[str]:
  if not path:
    return set()
  return {os.path.splitext(row[0])[0] for _, row in files.csv_rows(path)}


def _age(text: str) -> str:
  """Returns years; the table has a few that nobody reaches."""
  digits = text.rstrip('Yy')
  years = int(digits) if digits.isdecimal() else -1
  return str(years) if 0 <= years <= 120 else ''
