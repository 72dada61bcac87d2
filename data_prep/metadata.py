"""A table of what DICOM headers say, without anything about who it was.

  python -m data_prep.metadata --dicom_dir=dicom-images-train --output=meta.csv

writes one row a file (`.csv` or `.parquet`), sorted by image id. Only the
columns of `Row` are ever written. Pixels are not read.
"""

import collections
import csv
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import tqdm
from absl import app, flags

from data_prep import sources
from pnx_jax import pool
from pnx_jax.cli import one_line, parse_flags
from pnx_jax.errors import UserError
from pnx_jax.formats import dicom, refusals
from pnx_jax.formats.names import printable

_BATCH = 256


class Row(NamedTuple):
  """The columns: an allow-list. Empty or -1 where the header says nothing."""

  image_id: str
  view: str
  sex: str
  age: int
  height: int
  width: int
  spacing_row_mm: float
  spacing_column_mm: float
  spacing_plane: str
  bits_stored: int
  photometric: str
  transfer_syntax: str
  modality: str
  body_part: str
  manufacturer: str


class Unread(NamedTuple):
  """A file without a row."""

  path: str
  reason: str


def row(path: str) -> Row | Unread:
  """The row of a file, or why there is none."""
  header = refusals.attempt(dicom.read_header, path)
  if isinstance(header, refusals.Refusal):
    return Unread(path, header.reason)
  return Row(
    image_id=dicom.image_id_of(path),
    spacing_row_mm=header.pixel_spacing[0],
    spacing_column_mm=header.pixel_spacing[1],
    **{
      name: getattr(header, name)
      for name in Row._fields
      if hasattr(header, name)
    },
  )


def rows(paths: Sequence[str], num_workers: int) -> Iterable[Row | Unread]:
  """Yields what `row` returns for every path, batches as they are done."""
  batches = pool.batches(enumerate(paths), _BATCH)
  if num_workers == 1 or len(batches) < 8:
    yield from map(row, paths)
    return
  for batch in pool.run(
    _rows, batches, num_workers=num_workers, on_death=_died
  ):
    yield from batch


def write(table: Sequence[Row], output: str | os.PathLike) -> None:
  """Writes rows as csv or Parquet, by the name's ending."""
  if str(output).endswith('.parquet'):
    import pyarrow
    from pyarrow import parquet

    columns = zip(*table, strict=True) if table else [()] * len(Row._fields)
    arrays = dict(zip(Row._fields, map(list, columns), strict=True))
    parquet.write_table(pyarrow.table(arrays), output)
    return
  with open(output, 'w', newline='', encoding='utf-8') as file:
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(Row._fields)
    writer.writerows(table)


def main(argv: Sequence[str]) -> None:
  del argv
  folder, output = _DICOM_DIR.value, _OUTPUT.value
  with one_line():
    table, unread = read_folder(folder, output, _NUM_WORKERS.value)
    write(table, output)
  print(f'{output}: {len(table)} radiographs')
  reasons = collections.Counter(item.reason for item in unread)
  for reason, count in reasons.most_common():
    example = next(item.path for item in unread if item.reason == reason)
    print(f'left out, {reason}: {count}, for example {printable(example)}')


def read_folder(
  folder: str, output: str, num_workers: int
) -> tuple[list[Row], list[Unread]]:
  """Reads all headers below a folder; both lists are sorted."""
  if not output.endswith(('.csv', '.parquet')):
    raise UserError(f'--output={output}: end it in .csv or .parquet')
  if not os.path.isdir(folder):
    raise UserError(f'--dicom_dir={folder} is no folder')
  paths = [source.path for source in sources.find(folder, sources.TEST, {})]
  if not paths:
    raise UserError(f'no DICOM file below --dicom_dir={folder}')
  found = list(
    tqdm.tqdm(
      rows(paths, num_workers), total=len(paths), unit='file', disable=None
    )
  )
  return (
    sorted(item for item in found if isinstance(item, Row)),
    sorted(item for item in found if isinstance(item, Unread)),
  )


def _rows(batch: pool.Batch[str]) -> list[Row | Unread]:
  return [row(path) for _, path in pool.each(batch)]


def _died(number: int, path: str, death: pool.Death) -> Unread:
  del number
  return Unread(path, refusals.of_death(death).reason)


if __name__ == '__main__':
  _DICOM_DIR = flags.DEFINE_string('dicom_dir', None, 'Radiographs.')
  _OUTPUT = flags.DEFINE_string('output', None, 'Table: .csv or .parquet.')
  _NUM_WORKERS = flags.DEFINE_integer(
    'num_workers', pool.num_cores(), 'Processes.', lower_bound=1
  )
  flags.mark_flags_as_required(['dicom_dir', 'output'])
  app.run(main, flags_parser=parse_flags)
