"""ChestX-Det (Lian et al., 2021): films of NIH with polygons, 13 findings.

Reads `ChestX_Det_train.json` and `ChestX_Det_test.json`; films lie anywhere
below the root. Coordinates are those of 1024 x 1024 pixels. All findings were
looked for, so a film without a pneumothorax is a negative.
"""

from typing import Any

from data_prep.public import layout
from pnx_jax.errors import UserError
from pnx_jax.formats import files

_FINDING = 'Pneumothorax'
_TABLES = (('ChestX_Det_train.json', ''), ('ChestX_Det_test.json', 'test'))
_REMEDY = 'download it again'


def read(root: str, options: layout.Options) -> layout.Found:
  """Returns the rows of a manifest: a polygon each, or label 0."""
  del options
  found = layout.Found()
  films = layout.films(root)
  missing = without_polygon = 0
  for name, split in _TABLES:
    table = layout.path_of(root, name, required=not split)
    for entry in files.read_json(table, remedy=_REMEDY) if table else ():
      try:
        stem = entry['file_name'].rpartition('.')[0]
        instances = _instances(entry)
      except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(
          f'{table}: an entry lacks file_name, syms, boxes or polygons: '
          f'{str(entry)[:60]}'
        ) from None
      if stem not in films:
        missing += 1
        continue
      row = {
        'path': films[stem],
        'image_id': f'chestx_det-{stem}',
        'source': 'chestx_det',
        'split': split,
        'label': '1' if instances else '0',
        'annotation_size': '1024 1024',
      }
      # A region without an outline would make the mask too small.
      outlined = all(len(polygon) >= 3 for polygon, _ in instances)
      without_polygon += not outlined
      for polygon, box in instances:
        drawn = {'polygon': ' '.join(f'{x:g} {y:g}' for x, y in polygon)}
        boxed = {'box': layout.box(*box)}
        found.rows.append({**row, **(drawn if outlined else boxed)})
      if not instances:
        found.rows.append(row)
  found.note(missing, 'films of the tables are not below the root')
  found.note(without_polygon, 'films have boxes, as a polygon lacks points')
  return found


def _instances(entry: Any) -> list[tuple[list[list[float]], list[float]]]:
  """Returns polygon and corners of every region of pneumothorax."""
  regions = zip(entry['syms'], entry['polygons'], entry['boxes'], strict=True)
  return [
    (polygon, box) for finding, polygon, box in regions if finding == _FINDING
  ]
