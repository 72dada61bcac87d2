"""Readers of the evaluated images, from a csv, beside the network."""

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence

import numpy as np

from pnx_jax.errors import UserError
from pnx_jax.evaluation import tables
from pnx_jax.evaluation.results import Results
from pnx_jax.formats import files, rle
from pnx_jax.formats.schema import Record
from pnx_jax.metrics import reader_study
from pnx_jax.metrics.dice import dice
from pnx_jax.metrics.reader_study import Calls, ReaderStudy, Value

_logger = logging.getLogger(__name__)

_TAKEN = (reader_study.NETWORK, 'mean')  # Rows of readers.csv.


@dataclasses.dataclass(frozen=True)
class Reader:
  """What a reader said.

  Attributes:
    calls: Of the images.
    masks: RLE by image, where the reader outlined.
  """

  calls: Calls
  masks: dict[int, str]


@dataclasses.dataclass(frozen=True)
class ReaderReport:
  """The network beside readers.

  Attributes:
    study: Calls and scores.
    operating_point: At which the network calls, as a second reader.
    dice: Mean Dice of the masks of every two readers, and of every reader and
      the network, over images that either of them outlined; and how many.
  """

  study: ReaderStudy
  operating_point: str
  dice: dict[tuple[str, str], tuple[Value, int]]


def read(
  path: str | os.PathLike[str], records: Sequence[Record]
) -> dict[str, Reader]:
  """Reads a csv with the columns reader, image_id, call or score, and rle.

  Args:
    path: The csv. A call is 1 or 0; a score is any number, larger if surer; an
      RLE is relative, as in the challenge, and -1 for none.
    records: The evaluated images; others are ignored.

  Raises:
    UserError: The file is not such a table, or has none of the images.
  """
  (_, header), *rows = list(files.csv_rows(path)) or [(1, [])]
  if not {'reader', 'image_id'} <= set(header) or not (
    {'call', 'score'} & set(header)
  ):
    raise UserError(
      f'{path}: expected the columns reader, image_id, call or score, and '
      f'optionally rle; found {", ".join(header) or "nothing"}'
    )
  index = {record.image_id: number for number, record in enumerate(records)}
  found: dict[str, dict[int, dict[str, str]]] = {}
  ignored = 0
  for line, row in rows:
    place = f'{path}, line {line}'
    if len(row) != len(header):
      raise UserError(f'{place}: {len(row)} cells instead of {len(header)}')
    cells = dict(zip(header, row, strict=True))
    if cells['image_id'] not in index:
      ignored += 1
      continue
    if not cells['reader'] or cells['reader'] in _TAKEN:
      raise UserError(
        f'{place}: the reader {cells["reader"]!r} needs another name; '
        f'{" and ".join(_TAKEN)} are rows of the results'
      )
    number = index[cells['image_id']]
    of_reader = found.setdefault(cells['reader'], {})
    if number in of_reader:
      raise UserError(
        f'{place}: {cells["reader"]} has read {cells["image_id"]} twice'
      )
    _check(cells, records[number], place)
    of_reader[number] = cells
  if not found:
    raise UserError(f'{path} names none of the {len(records)} images')
  _logger.info(
    '%s: %d readers; %d rows are of other images and ignored.',
    path,
    len(found),
    ignored,
  )
  return {name: _reader(name, cells, path) for name, cells in found.items()}


def _check(cells: Mapping[str, str], record: Record, place: str) -> None:
  if cells.get('call', '') not in ('', '0', '1'):
    raise UserError(f'{place}: the call {cells["call"]!r} is not 0 or 1')
  try:
    score = float(cells.get('score') or 0)
  except ValueError:
    score = float('nan')
  if not np.isfinite(score):
    raise UserError(f'{place}: the score {cells["score"]!r} is not a number')
  if cells.get('rle'):
    try:
      rle.decode(cells['rle'], record.height, record.width)
    except ValueError as error:
      raise UserError(f'{place}: {error}') from error


def _reader(
  name: str,
  cells: Mapping[int, Mapping[str, str]],
  path: str | os.PathLike[str],
) -> Reader:
  columns = {}
  for column in ('call', 'score'):
    given = [bool(row.get(column)) for row in cells.values()]
    if any(given) and not all(given):
      raise UserError(
        f'{path}: {name} has a {column} on {sum(given)} of {len(given)} '
        'images; give one for each of them, or for none'
      )
    if any(given):
      columns[column] = np.array([float(row[column]) for row in cells.values()])
  if not columns:
    raise UserError(f'{path}: {name} has neither calls nor scores')
  called = columns.get('call')
  return Reader(
    Calls(
      np.array(list(cells), int),
      None if called is None else called > 0,
      columns.get('score'),
    ),
    {number: row['rle'] for number, row in cells.items() if row.get('rle')},
  )


def summarize(
  readers: Mapping[str, Reader],
  results: Results,
  records: Sequence[Record],
  masks: Mapping[int, str],
  *,
  replicates: int,
) -> ReaderReport:
  """Compares them.

  Args:
    readers: Of `read`.
    results: Of the evaluation.
    records: N images.
    masks: RLE of the network's mask of every image that has one.
    replicates: Of the bootstrap.
  """
  images, calibration = results.images, results.calibration
  called, name = calibration.called(tables.CALLS_AT), tables.CALLS_AT
  if called is None:
    called, name = images.predicted, 'a mask under the rule'
  study = reader_study.study(
    {name: reader.calls for name, reader in readers.items()},
    probability=images.probability,
    network_called=called,
    label=images.label,
    patient=images.patient,
    replicates=replicates,
  )
  outlined = {name: x.masks for name, x in readers.items() if x.masks}
  everyone = {**outlined, reader_study.NETWORK: _every(masks, len(records))}
  names = list(everyone)
  pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
  return ReaderReport(
    study,
    name,
    {
      (one, other): _dice(
        everyone[one], everyone[other], records, images.patient
      )
      for one, other in pairs
    },
  )


def _every(masks: Mapping[int, str], count: int) -> dict[int, str]:
  return {index: masks.get(index, rle.EMPTY) for index in range(count)}


def _dice(
  first: Mapping[int, str],
  second: Mapping[int, str],
  records: Sequence[Record],
  patient: np.ndarray,
) -> tuple[Value, int]:
  """Over the images that both read and at least one outlined."""
  rows, values = [], []
  for index in first.keys() & second.keys():
    pair = first[index], second[index]
    if pair == (rle.EMPTY, rle.EMPTY):
      continue
    shape = records[index].height, records[index].width
    one, other = (rle.decode(text, *shape) for text in pair)
    areas = map(np.count_nonzero, (one & other, one, other))
    rows.append(index)
    values.append(float(dice(*map(np.asarray, areas))))
  return reader_study.mean_dice(np.array(values), patient[np.array(rows, int)])


def write(path: str | os.PathLike[str], report: ReaderReport) -> None:
  """Writes one row per reader and value.

  Raises:
    UserError: The file cannot be written.
  """
  rows = []
  for name, result in report.study.readers.items():
    for field in dataclasses.fields(result):
      value = getattr(result, field.name)
      if isinstance(value, Value):
        rows.append((name, field.name, *_cells(value)))
      else:
        rows.append((name, field.name, value, None, None))
  rows.append(('mean', 'difference', *_cells(report.study.mean_difference)))
  for pair, value in report.study.kappa.items():
    rows.append((' and '.join(pair), 'kappa', *_cells(value)))
  for pair, (value, count) in report.dice.items():
    rows.append((' and '.join(pair), 'dice', *_cells(value)))
    rows.append((' and '.join(pair), 'num_outlined', count, None, None))
  files.write_csv(path, ('reader', 'metric', 'value', 'low', 'high'), rows)


def _cells(value: Value) -> tuple[float | None, ...]:
  if np.isnan(value.value):
    return None, None, None
  return value.value, *(value.interval or (None, None))
