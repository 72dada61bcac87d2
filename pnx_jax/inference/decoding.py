"""From files to what a network and a picture need, in worker processes.

What the workers import must not import JAX: they start in a second.
"""

import contextlib
import dataclasses
import functools
import signal
from collections.abc import Iterator, Sequence
from concurrent import futures
from multiprocessing import resource_tracker
from typing import NamedTuple

import numpy as np

from pnx_jax import draw, pool
from pnx_jax.formats import dicom, letterbox
from pnx_jax.inference.discovery import Source
from pnx_jax.prediction import screening

# Longer side of the pictures.
PICTURE_SIZE = 640
_FILES_PER_BATCH = 4


class Looks(NamedTuple):
  """What a model wants to see.

  Attributes:
    image_size: S, the side of the square.
    window: see `greyscale.to_uint8`.
    accept_modality: see `dicom.read`.
  """

  image_size: int
  window: str
  accept_modality: tuple[str, ...]


class Film(NamedTuple):
  """A film to be assessed.

  Attributes:
    source: its file.
    header: without `patient_id`.
    square: uint8[S, S, 1] for the network.
    small: uint8[h, w] for the picture.
  """

  source: Source
  header: dicom.Header
  square: np.ndarray
  small: np.ndarray


class Refused(NamedTuple):
  """A file that is not assessed, and why: see `dicom` and `screening`."""

  source: Source
  reason: str
  detail: str


@contextlib.contextmanager
def read(
  sources: Sequence[Source],
  looks: Looks,
  *,
  num_workers: int,
  seconds_per_file: float = 60,
) -> Iterator[Iterator[Film | Refused]]:
  """Yields the films, as they are done; the workers start at once.

  No more are read ahead than keeps the workers busy. A file that takes longer
  than `seconds_per_file`, or crashes its decoder, is refused.
  """
  batches = pool.run(
    functools.partial(
      _read_batch, looks=looks, seconds_per_file=seconds_per_file
    ),
    pool.batches(enumerate(sources), _FILES_PER_BATCH),
    num_workers=num_workers,
    on_crash=lambda _, source: Refused(
      source, 'undecodable', 'the decoder crashed or took too long'
    ),
  )
  with futures.ThreadPoolExecutor(1, initializer=_leave_interrupts) as thread:
    ahead = thread.submit(next, batches, None)

    def films():
      nonlocal ahead
      while (done := ahead.result()) is not None:
        ahead = thread.submit(next, batches, None)
        yield from done

    try:
      yield films()
    finally:
      thread.submit(batches.close)


def _read_batch(
  batch: pool.Batch, *, looks: Looks, seconds_per_file: float
) -> list[Film | Refused]:
  read = []
  for _, source in batch:
    # Nothing else ends a decoder that hangs: the process dies of it.
    signal.setitimer(signal.ITIMER_REAL, seconds_per_file)
    read.append(_read(source, looks))
  signal.setitimer(signal.ITIMER_REAL, 0)
  return read


def _read(source: Source, looks: Looks) -> Film | Refused:
  try:
    film = dicom.read(
      source.path, window=looks.window, accept_modality=looks.accept_modality
    )
    screening.check(film)
  except dicom.UnusableDicom as error:
    return Refused(source, error.reason, error.detail)
  square = letterbox.letterbox(
    film.pixels, looks.image_size, pixel_aspect=film.header.pixel_aspect
  )
  small = draw.picture(film.pixels, PICTURE_SIZE)[..., 0]
  return Film(
    source,
    dataclasses.replace(film.header, patient_id=''),
    square[..., None],
    np.ascontiguousarray(small),
  )


def _leave_interrupts() -> None:
  """Ctrl-C is for the process that waits; those started here inherit this."""
  resource_tracker.ensure_running()  # Its start would undo the next line.
  signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
