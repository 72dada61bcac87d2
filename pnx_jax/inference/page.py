"""worklist.html: the readings as one self-contained page."""

import base64
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from pnx_jax import pages
from pnx_jax.formats import files
from pnx_jax.inference.discovery import printable
from pnx_jax.inference.readings import Reading
from pnx_jax.metrics.calibration import OperatingPoint

_MOST_PICTURES = 200


class _Row(NamedTuple):
  """A film in the table; its picture as base64, empty for none."""

  rank: int
  reading: Reading
  picture: str


def write(
  path: str | os.PathLike[str],
  readings: Sequence[Reading],
  pictures: str | os.PathLike[str],
  *,
  about: Mapping[str, str],
  points: Sequence[OperatingPoint] = (),
  data: str = '',
) -> None:
  """Writes the page; one picture at a time is in memory.

  Args:
    path: of the page.
    readings: the most urgent first; those not assessed anywhere among them.
    pictures: a folder with `<name>.jpg` of the assessed films.
    about: names and values at the top, such as the model's version.
    points: the operating points that the readings name.
    data: what the model was trained and scored on, in words.

  Raises:
    UserError: the page cannot be written.
  """
  path, pictures = pathlib.Path(path), pathlib.Path(pictures)
  assessed = [reading for reading in readings if reading.assessed]
  pieces = pages.stream(
    'worklist.html',
    about=about,
    points=sorted(points, key=lambda point: -point.threshold),
    num_assessed=len(assessed),
    num_marked=sum(reading.area > 0 for reading in assessed),
    most_pictures=_MOST_PICTURES,
    folder=pictures.name,
    rows=_rows(assessed, pictures),
    refused=[reading for reading in readings if not reading.assessed],
    data=data,
    printable=printable,
  )
  with files.atomic(path) as file:
    file.writelines(piece.encode() for piece in pieces)


def _rows(
  readings: Sequence[Reading], pictures: pathlib.Path
) -> Iterator[_Row]:
  for rank, reading in enumerate(readings, 1):
    picture = pictures / f'{reading.name}.jpg'
    content = b''
    if rank <= _MOST_PICTURES and picture.exists():
      content = picture.read_bytes()
    yield _Row(rank, reading, base64.b64encode(content).decode('ascii'))
