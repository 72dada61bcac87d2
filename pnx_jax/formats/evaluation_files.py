"""The tables of an evaluation, checked whenever they are read.

`SHA256SUMS` holds the checksum of every table, as `sha256sum --check` reads it;
evaluations by older versions have none.
"""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from pnx_jax.errors import UserError
from pnx_jax.formats import files, seal, typed_json

PER_IMAGE = (
  'image_id',
  'patient',
  'fold',
  'label',
  'probability',
  'dice',
  'truth_area',
  'predicted_area',
  'size_quartile',
  'view',
  'sex',
  'age',
)
CHECKSUMS = 'SHA256SUMS'
BOXES = ('image_id', 'x', 'y', 'width', 'height', 'area')
_REMEDY = '`python launch.py --mode=eval` writes it again'
_TOLERANCE = 1e-9
_LARGEST = (1 << 63) - 1


@dataclasses.dataclass(frozen=True)
class PerImage:
  """per_image.csv: one row per held-out image; N of them.

  Attributes:
    image_id: str[N].
    patient: int[N].
    fold: int[N].
    label: bool[N], the image has a pneumothorax.
    probability: f64[N], not calibrated.
    dice: f64[N], NaN where the mask is not known.
    truth_area: int[N], in pixels at 1024 x 1024; 0 where not known.
    predicted_area: int[N], likewise.
    size_quartile: int[N], 1 to 4, 0 without a pneumothorax.
    view: str[N], empty where unknown, like `sex`.
    sex: str[N].
    age: int[N], -1 where unknown.
  """

  image_id: np.ndarray
  patient: np.ndarray
  fold: np.ndarray
  label: np.ndarray
  probability: np.ndarray
  dice: np.ndarray
  truth_area: np.ndarray
  predicted_area: np.ndarray
  size_quartile: np.ndarray
  view: np.ndarray
  sex: np.ndarray
  age: np.ndarray

  def __len__(self) -> int:
    return len(self.image_id)

  def __getitem__(self, chosen: np.ndarray) -> 'PerImage':
    """The rows that a mask or indices choose."""
    columns = dataclasses.fields(self)
    return PerImage(*(getattr(self, column.name)[chosen] for column in columns))


def write_checksums(folder: str | os.PathLike[str]) -> None:
  """Writes the checksums of all files in a folder, but not in those below it.

  Raises:
    UserError: The file cannot be written.
  """
  folder = pathlib.Path(folder)
  names = (path.name for path in folder.iterdir() if path.is_file())
  lines = [
    f'{_digest(folder / name)}  {name}\n'
    for name in sorted(names)
    if name != CHECKSUMS
  ]
  files.write(folder / CHECKSUMS, ''.join(lines))


def verify(path: str | os.PathLike[str]) -> None:
  """Compares a file with its checksum, if its folder has checksums.

  Raises:
    UserError: They differ, or the file has none.
  """
  path = pathlib.Path(path)
  checksums = path.with_name(CHECKSUMS)
  if not checksums.exists():
    if _is_sealed(path.with_name('postprocess.json')):
      raise UserError(
        f'{checksums} is missing, which holds the checksum of {path.name}: '
        f'restore it; {_REMEDY}'
      )
    return
  lines = checksums.read_text(errors='replace').split('\n')
  known = {
    name: digest for digest, _, name in (x.partition('  ') for x in lines)
  }
  try:
    found = _digest(path)
  except OSError as error:
    raise UserError(
      f'cannot read {path}: {error.strerror}; {_REMEDY}'
    ) from None
  if known.get(path.name) != found:
    raise UserError(
      f'{path} was changed after the evaluation wrote it: its checksum is not '
      f'that in {CHECKSUMS}; {_REMEDY}'
    )


def _is_sealed(path: pathlib.Path) -> bool:
  """Whether an evaluation wrote a file that also writes checksums."""
  try:
    return seal.FIELD in files.parse_json(path.read_bytes())
  except (OSError, ValueError, TypeError):
    return False


def _digest(path: pathlib.Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def read_per_image(path: str | os.PathLike[str]) -> PerImage:
  """Reads a per_image.csv and checks it against the metrics.json beside it.

  Raises:
    UserError: One of them cannot be read, is damaged, or the rows are not those
      that the metrics were computed from.
  """
  verify(path)
  rows = files.read_csv(path, PER_IMAGE, remedy=_REMEDY)
  columns = {
    name: _column(path, rows, name, parse) for name, parse in _CELLS.items()
  }
  table = PerImage(**columns)
  if len(set(table.image_id.tolist())) < len(table):
    raise UserError(f'{path} is damaged: it repeats an image; {_REMEDY}')
  metrics = read_metrics(pathlib.Path(path).with_name('metrics.json'))
  scored = np.isfinite(table.dice)
  for found, expected, what in (
    (len(table), metrics['num_images'], 'rows'),
    (int(table.label.sum()), metrics['num_positive'], 'positive images'),
    (
      float(table.dice[scored].sum()) / max(1, scored.sum()),
      metrics['dice'],
      'as mean Dice',
    ),
  ):
    if abs(found - expected) > _TOLERANCE:
      raise UserError(
        f'{path} is incomplete or was edited: it has {found} {what}, '
        f'metrics.json says {expected}; {_REMEDY}'
      )
  return table


def read_metrics(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Reads a metrics.json: values by name, and `intervals`.

  Raises:
    UserError: It cannot be read or is damaged.
  """
  verify(path)
  metrics = typed_json.load(path, dict[str, _Value], remedy=_REMEDY)
  for name in ('dice', 'num_images', 'num_positive'):
    value = metrics.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
      raise UserError(f'{path} is damaged: it has no number {name}; {_REMEDY}')
  for name, value in metrics.items():
    if isinstance(value, str) and name not in _TEXTS:
      raise UserError(f'{path} is damaged: {name} is text; {_REMEDY}')
  if not isinstance(metrics.get('intervals'), dict):
    raise UserError(f'{path} is damaged: it has no intervals; {_REMEDY}')
  return metrics


# The entries that are no numbers.
_TEXTS = ('seal', 'data_dir', 'data_checksum')
_Value = (
  int
  | float
  | bool
  | str
  | None
  | dict[str, tuple[float, float] | None]
  | dict[str, str]
)


def _column(
  path: str | os.PathLike[str],
  rows: list[dict[str, str]],
  name: str,
  parse: Callable[[str], Any],
) -> np.ndarray:
  values = []
  for line, row in enumerate(rows, 2):
    try:
      values.append(parse(row[name]))
    except ValueError:
      raise UserError(
        f'{path}, line {line}: {row[name]!r} is not a valid {name}; {_REMEDY}'
      ) from None
  return np.array(values, object if parse is str else None)


def _integer(low: int, high: int = _LARGEST) -> Callable[[str], int]:
  """A parser of an integer within bounds."""

  def parse(cell: str) -> int:
    value = int(cell)
    if not low <= value <= high:
      raise ValueError
    return value

  return parse


def _share(cell: str) -> float:
  value = float(cell)
  if not 0 <= value <= 1:
    raise ValueError
  return value


def _or_empty(parse: Callable[[str], int], empty: int) -> Callable[[str], int]:
  return lambda cell: parse(cell) if cell else empty


_CELLS: dict[str, Callable[[str], Any]] = {
  'image_id': str,
  'patient': _integer(-_LARGEST),
  'fold': _integer(0),
  'label': lambda cell: bool(_integer(0, 1)(cell)),
  'probability': _share,
  'dice': lambda cell: _share(cell) if cell else np.nan,
  'truth_area': _or_empty(_integer(0), 0),
  'predicted_area': _integer(0),
  'size_quartile': _or_empty(_integer(1, 4), 0),
  'view': str,
  'sex': str,
  'age': _or_empty(_integer(0), -1),
}
