"""worklist.csv and the other tables of a prediction.

`assessment` fills a `readings.Reading`, and a row here shows it. A new column
is a field there, a name in `COLUMNS` and a value in `_row`; `page` shows it.
"""

import collections
import pathlib
from collections.abc import Iterable, Sequence

from pnx_jax.formats import files, rle
from pnx_jax.inference.readings import Reading

COLUMNS = (
  'rank',
  'image_id',
  'path',
  'probability',
  'operating_point',
  'area_px',
  'area_mm2',
  'spacing_plane',
  'side',
  'boxes',
  'view',
  'sex',
  'age',
  'model',
  'rules',
  'seal',
  'spread',
)
NOT_ASSESSED = ('path', 'image_id', 'reason', 'detail')


def in_order(readings: Iterable[Reading]) -> list[Reading]:
  """The most urgent first; films not assessed come last, by path."""
  return sorted(readings, key=_urgency)


def write(folder: pathlib.Path, readings: Sequence[Reading]) -> None:
  """Writes worklist.csv, not_assessed.csv and masks/masks.csv.

  Args:
    folder: the output folder.
    readings: the most urgent first.
  """
  assessed = [reading for reading in readings if reading.assessed]
  rows = [_row(rank, reading) for rank, reading in enumerate(assessed, 1)]
  files.write_csv(folder / 'worklist.csv', COLUMNS, rows)
  refused = [reading for reading in readings if not reading.assessed]
  rows = [(r.path, r.image_id, r.reason, r.detail) for r in refused]
  files.write_csv(folder / 'not_assessed.csv', NOT_ASSESSED, rows)
  # Where films share an id, their unique names tell them apart.
  count = collections.Counter(reading.image_id for reading in assessed)
  masks = (
    (r.image_id if count[r.image_id] == 1 else r.name, r.rle) for r in assessed
  )
  rle.write_csv(folder / 'masks' / 'masks.csv', sorted(masks))


def _urgency(reading: Reading) -> tuple:
  return not reading.assessed, -reading.probability, -reading.area, reading.path


def _row(rank: int, reading: Reading) -> tuple:
  boxes = ';'.join(' '.join(map(str, box[:4])) for box in reading.boxes)
  return (
    rank,
    reading.image_id,
    reading.path,
    f'{reading.probability:.6f}',
    reading.operating_point,
    reading.area,
    f'{reading.area_mm2:.1f}' if reading.area_mm2 >= 0 else '',
    reading.spacing_plane,
    reading.side,
    boxes,
    reading.view,
    reading.sex,
    reading.age if reading.age >= 0 else '',
    reading.model,
    reading.rules,
    reading.seal,
    f'{reading.spread:.6f}' if reading.spread >= 0 else '',
  )
