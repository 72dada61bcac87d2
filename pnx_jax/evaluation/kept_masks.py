"""Candidate masks of all films, kept while the networks predict them.

Which rule makes the masks is known only when all films are predicted. So that
no network has to run again, each film's pixels are kept by how many of
`dice.THRESHOLDS` they exceed: the mask of any rule follows exactly. The maps
are compressed pictures in one temporary file.
"""

import functools
import os
import tempfile
from collections.abc import Sequence
from concurrent import futures

import cv2
import numpy as np

from pnx_jax import pool
from pnx_jax.formats import letterbox
from pnx_jax.formats.schema import Record
from pnx_jax.metrics.dice import THRESHOLDS
from pnx_jax.metrics.rules import column

_EDGES = np.array(THRESHOLDS, np.float32)
# Runs of equal pixels are what these maps have.
_PNG = [
  *(cv2.IMWRITE_PNG_COMPRESSION, 1),
  *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
]


class KeptMasks:
  """Maps of levels: a level is how many of THRESHOLDS a pixel exceeds.

  Films are numbered in the order in which they are added. The file vanishes
  when the object is closed or the process ends.
  """

  def __init__(
    self, *, lowest: float, folder: str | os.PathLike[str] | None = None
  ):
    """Opens the file.

    Args:
      lowest: The lowest threshold of a mask; pixels below it have level 0.
      folder: For the file; by default that of the system's temporary files.

    Raises:
      UserError: `lowest` is not one of THRESHOLDS.
    """
    self._lowest = level(lowest)
    self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
    self._places: list[list[tuple[int, int]]] = []
    self._threads = futures.ThreadPoolExecutor(pool.num_cores())

  def __enter__(self) -> 'KeptMasks':
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def __len__(self) -> int:
    return len(self._places)

  @property
  def num_bytes(self) -> int:
    """Size of the file."""
    return self._file.tell()

  def close(self) -> None:
    """Removes the file."""
    self._threads.shutdown()
    self._file.close()

  def add(self, records: Sequence[Record], probs: np.ndarray) -> None:
    """Adds films.

    Args:
      records: B of them.
      probs: f32[B, S, S], probabilities of pixels.
    """
    packed = functools.partial(_packed, lowest=self._lowest)
    for maps in self._threads.map(packed, records, probs):
      places = []
      for data in maps:
        places.append((self._file.tell(), len(data)))
        self._file.write(data)
      self._places.append(places)

  def levels(self, index: int) -> np.ndarray:
    """The levels of a film in its square, uint8[S, S]; 0 beside the film."""
    return self._read(*self._places[index][0])

  def film_levels(self, index: int) -> np.ndarray:
    """The levels of a film in its own pixels, uint8[H, W]."""
    return self._read(*self._places[index][-1])

  def _read(self, start: int, size: int) -> np.ndarray:
    self._file.flush()
    data = os.pread(self._file.fileno(), size, start)
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def level(threshold: float) -> int:
  """Pixels of at least this level exceed the threshold.

  Raises:
    UserError: It is not one of THRESHOLDS.
  """
  return column(threshold) + 1


def _packed(record: Record, probs: np.ndarray, *, lowest: int) -> list[bytes]:
  """The map of the square and, where it differs, that of the film."""
  shape = record.height, record.width
  probs = letterbox.blanked(probs, *shape, pixel_aspect=record.pixel_aspect)
  maps = [probs]
  if shape != probs.shape:
    maps.append(
      letterbox.unletterbox(probs, *shape, pixel_aspect=record.pixel_aspect)
    )
  return [_encoded(each, lowest) for each in maps]


def _encoded(probs: np.ndarray, lowest: int) -> bytes:
  levels = np.searchsorted(_EDGES, probs.ravel()).astype(np.uint8)
  levels[levels < lowest] = 0
  return cv2.imencode('.png', levels.reshape(probs.shape), _PNG)[1].tobytes()
