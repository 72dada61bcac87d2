"""VinDr-CXR (Nguyen et al., 2022), from PhysioNet or as VinBigData on Kaggle.

Reads `annotations/annotations_train.csv` and `annotations_test.csv`, or
Kaggle's `train.csv`; films are `train/<id>.dicom` and `test/<id>.dicom`. Each
training film has three readers. Every reader's box is an annotation of it; how
many of them mark a pneumothorax is in the column `readers`, such as `2/3`,
which `data_prep.build --keep_columns=readers` keeps.
"""

import collections
from collections.abc import Iterable, Mapping

from data_prep.public import layout

_FINDING = 'Pneumothorax'
_CORNERS = ('x_min', 'y_min', 'x_max', 'y_max')
_PARTS = (
  ('', ('annotations/annotations_train.csv', 'train.csv')),
  ('test', ('annotations/annotations_test.csv',)),
)


def read(root: str, options: layout.Options) -> layout.Found:
  """Returns the rows of a manifest: boxes, and labels without any."""
  found = layout.Found()
  films = layout.films(root)
  agreement: collections.Counter[str] = collections.Counter()
  missing = 0
  for split, names in _PARTS:
    table = layout.path_of(root, *names, required=not split)
    if not table:
      continue
    by_film: dict[str, list[Mapping[str, str]]] = collections.defaultdict(list)
    for entry in layout.table(table, ('image_id', 'class_name', *_CORNERS)):
      by_film[entry['image_id']].append(entry)
    for name, entries in by_film.items():
      if name not in films:
        missing += 1
        continue
      rows, readers = _rows(name, films[name], split, entries, options)
      found.rows += rows
      if readers[0] != '0':
        agreement[readers] += 1
  found.note(missing, 'films of the tables are not below the root')
  for readers, number in sorted(agreement.items()):
    found.note(number, f'films are marked by {readers} of their readers')
  return found


def _rows(
  name: str,
  path: str,
  split: str,
  entries: Iterable[Mapping[str, str]],
  options: layout.Options,
) -> tuple[list[layout.Row], str]:
  """Returns the rows of a film, and how many of its readers mark it."""
  entries = list(entries)
  boxes = [entry for entry in entries if entry['class_name'] == _FINDING]
  # Test films have one reading, agreed on by all.
  everyone = {entry.get('rad_id', 'all') for entry in entries}
  marking = {entry.get('rad_id', 'all') for entry in boxes}
  readers = f'{len(marking)}/{len(everyone)}'
  row = {
    'path': path,
    'image_id': name,
    'source': 'vindr',
    'split': split,
    'label': '0' if not marking else '',
    'readers': readers,
  }
  if len(marking) < min(options.min_readers, len(everyone)):
    return [row], readers
  return [{**row, 'label': '1', 'box': _box(box)} for box in boxes] or [
    row
  ], readers


def _box(entry: Mapping[str, str]) -> str:
  return layout.box(*(float(entry[name]) for name in _CORNERS))
