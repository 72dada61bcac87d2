"""A table of what DICOM headers say, without who the patient is.

  python -m data_prep.metadata --dicom_dir=dicom-images-train --output=meta.csv

writes one row per file (`.csv` or `.parquet`), sorted by image id. Only the
columns of `Row` are ever written. Pixels are not read.
"""

import collections
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import tqdm
from absl import app, flags

from pnx_jax import film_flags, pool
from pnx_jax.cli import one_line, parse_flags
from pnx_jax.errors import UserError
from pnx_jax.formats import dicom, dicom_header, files, refusals
from pnx_jax.formats.names import printable

_BATCH = 256


class Row(NamedTuple):
  """The columns, an allow-list; empty or -1 where the header says nothing."""

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
  detail: str


def row(path: str) -> Row | Unread:
  """Returns the row of a file, or why there is none."""
  header = refusals.attempt(dicom.read_header, path)
  if isinstance(header, refusals.Refusal):
    return Unread(path, *header)
  header = dicom_header.shortened(header)
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


def rows(
  paths: Sequence[str],
  num_workers: int,
  limits: pool.Limits = pool.Limits(),  # noqa: B008 (frozen)
) -> Iterator[Row | Unread]:
  """Yields what `row` returns for every path, as workers finish them."""
  batches = pool.batches(enumerate(paths), _BATCH)
  defects = refusals.Defects()
  for batch in pool.run(
    _rows,
    batches,
    num_workers=max(1, min(num_workers, len(batches))),
    on_death=_died,
    limits=limits,
  ):
    for item in batch:
      if isinstance(item, Unread):
        defects.check(refusals.Refusal(item.reason, item.detail))
      yield item


def write(table: Sequence[Row], output: str | os.PathLike[str]) -> None:
  """Writes rows as csv or Parquet, by the name's ending."""
  if str(output).endswith('.parquet'):
    import pyarrow
    from pyarrow import parquet

    columns = zip(*table, strict=True) if table else [()] * len(Row._fields)
    arrays = dict(zip(Row._fields, map(list, columns), strict=True))
    with files.atomic(output) as file:
      parquet.write_table(pyarrow.table(arrays), file)
    return
  files.write_csv(output, Row._fields, table)


def main(argv: Sequence[str]) -> None:
  del argv
  folder, output = _DICOM_DIR.value, _OUTPUT.value
  with one_line():
    table, unread = read_folder(
      folder, output, _NUM_WORKERS.value, film_flags.limits()
    )
    write(table, output)
  print(f'{output}: {len(table)} radiographs')
  reasons = collections.Counter(item.reason for item in unread)
  for reason, count in reasons.most_common():
    example = next(item.path for item in unread if item.reason == reason)
    print(f'left out, {reason}: {count}, for example {printable(example)}')


def read_folder(
  folder: str,
  output: str,
  num_workers: int,
  limits: pool.Limits = pool.Limits(),  # noqa: B008 (frozen)
) -> tuple[list[Row], list[Unread]]:
  """Reads all headers below a folder; both lists are sorted.

  Args:
    folder: The films.
    output: The table that will be written, whose ending is checked.
    num_workers: Number of processes.
    limits: What one film may take.

  Raises:
    UserError: There are no films, or no such table can be written.
  """
  if not output.endswith(('.csv', '.parquet')):
    raise UserError(f'--output={output}: end it in .csv or .parquet')
  if not os.path.isdir(folder):
    raise UserError(f'--dicom_dir={folder} is not a folder')
  paths = sorted(dicom.find(folder))
  if not paths:
    raise UserError(f'no DICOM file below --dicom_dir={folder}')
  found = list(
    tqdm.tqdm(
      rows(paths, num_workers, limits),
      total=len(paths),
      unit='file',
      disable=None,
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
  return Unread(path, *refusals.of_death(death))


if __name__ == '__main__':
  film_flags.define_limits()
  _DICOM_DIR = flags.DEFINE_string('dicom_dir', None, 'DICOM folder.')
  _OUTPUT = flags.DEFINE_string('output', None, 'Table, .csv or .parquet.')
  _NUM_WORKERS = flags.DEFINE_integer(
    'num_workers', pool.num_cores(), 'Worker processes.', lower_bound=1
  )
  flags.mark_flags_as_required(['dicom_dir', 'output'])
  app.run(main, flags_parser=parse_flags)
