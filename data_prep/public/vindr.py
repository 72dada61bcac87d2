"""VinDr-CXR (Nguyen et al., 2022), from PhysioNet or as VinBigData on Kaggle.

Reads `annotations/annotations_train.csv` and `annotations_test.csv`, or
Kaggle's `train.csv`; films are `train/<id>.dicom` and `test/<id>.dicom`. Each
training film has three readers. Every reader's box is an annotation of it; how
many of them mark a pneumothorax is in the column `readers`, such as `2/3`, and
how much their boxes overlap in `readers_iou`: intersection over union of what
two readers mark, mean over the pairs of those who mark something.
`data_prep.build --keep_columns=readers,readers_iou` keeps both.
"""

import collections
import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

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
  overlaps: list[float] = []
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
      if overlap := rows[0].get('readers_iou'):
        overlaps.append(float(overlap))
  found.note(missing, 'films of the tables are not below the root')
  for readers, number in sorted(agreement.items()):
    found.note(number, f'films are marked by {readers} of their readers')
  if overlaps:
    low, median, high = np.quantile(overlaps, [0.25, 0.5, 0.75])
    found.note(
      len(overlaps),
      'films have boxes of two readers or more: their intersection over union '
      f'has the median {median:.2f} (quartiles {low:.2f} and {high:.2f})',
    )
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
  if len(marking) > 1:
    row['readers_iou'] = f'{_overlap(boxes):.3f}'
  if len(marking) < min(options.min_readers, len(everyone)):
    return [row], readers
  return [{**row, 'label': '1', 'box': _box(box)} for box in boxes] or [
    row
  ], readers


def _overlap(boxes: Iterable[Mapping[str, str]]) -> float:
  """Returns the mean intersection over union of what two readers mark."""
  marked: dict[str, list[tuple[float, ...]]] = collections.defaultdict(list)
  for box in boxes:
    marked[box['rad_id']].append(
      tuple(layout.number(box, name) for name in _CORNERS)
    )
  return float(
    np.mean(
      [_iou(*pair) for pair in itertools.combinations(marked.values(), 2)]
    )
  )


def _iou(
  one: Sequence[tuple[float, ...]], other: Sequence[tuple[float, ...]]
) -> float:
  """Returns intersection over union of the areas that boxes cover.

  It is 0 if they have no area.
  """
  corners = np.array([*one, *other])
  # Between the sides of the boxes a place is in all of a box or in none of it.
  x, y = np.unique(corners[:, [0, 2]]), np.unique(corners[:, [1, 3]])
  areas = np.outer(np.diff(y), np.diff(x))

  def covered(some: Sequence[tuple[float, ...]]) -> np.ndarray:
    inside = np.zeros(areas.shape, bool)
    for left, top, right, bottom in some:
      inside |= np.outer(
        (y[:-1] >= top) & (y[1:] <= bottom), (x[:-1] >= left) & (x[1:] <= right)
      )
    return inside

  first, second = covered(one), covered(other)
  union = areas[first | second].sum()
  return float(areas[first & second].sum() / union) if union else 0.0


def _box(entry: Mapping[str, str]) -> str:
  return layout.box(*(layout.number(entry, name) for name in _CORNERS))
