"""From files to what a network and a picture need, in worker processes.

What the workers import must not import JAX: they start in a second.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from concurrent import futures
from typing import NamedTuple

import numpy as np

from pnx_jax import draw, pool
from pnx_jax.formats import dicom, letterbox, refusals
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
  limits: pool.Limits = pool.Limits(),  # noqa: B008 (frozen)
) -> Iterator[Iterator[Film | Refused]]:
  """Yields the films, as they are done; the workers start at once.

  No more are read ahead than keeps the workers busy. A file that ends its
  worker or takes more than `limits` is refused.
  """
  batches = pool.run(
    functools.partial(_read_batch, looks=looks),
    pool.batches(enumerate(sources), _FILES_PER_BATCH),
    num_workers=num_workers,
    on_death=lambda _, source, death: Refused(
      source, *refusals.of_death(death)
    ),
    limits=limits,
  )
  with futures.ThreadPoolExecutor(1) as thread:
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
  batch: pool.Batch[Source], *, looks: Looks
) -> list[Film | Refused]:
  read_one = functools.partial(_read, looks=looks)
  found = []
  for _, source in pool.each(batch):
    film = refusals.attempt(read_one, source)
    if isinstance(film, refusals.Refusal):
      film = Refused(source, *film)
    found.append(film)
  return found


def _read(source: Source, looks: Looks) -> Film:
  film = dicom.read(
    source.path, window=looks.window, accept_modality=looks.accept_modality
  )
  screening.check(film)
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
