"""Films decoded in worker processes: what a network and a picture need.

Nothing that the workers import may import JAX: they start in a second.
"""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent import futures
from typing import NamedTuple

import numpy as np

from pnx_jax import draw, pool
from pnx_jax.formats import dicom, letterbox, refusals
from pnx_jax.prediction import screening

_FILMS_PER_BATCH = 4


class ReadOptions(NamedTuple):
  """How films are read.

  Attributes:
    image_size: S, the side of the square image that the networks take.
    window: how gray levels are made, see `grayscale.to_uint8`.
    accept_modality: see `dicom.read`.
    picture_size: longer side of a picture to draw on; 0 for none.
  """

  image_size: int
  window: str
  accept_modality: tuple[str, ...] = dicom.RADIOGRAPHY
  picture_size: int = 0


class DecodedFilm(NamedTuple):
  """A film to be assessed.

  Attributes:
    number: of its path, from 0.
    header: without `patient_id`.
    square: uint8[S, S, 1], letterboxed.
    picture: uint8[h, w], None where none was asked for.
  """

  number: int
  header: dicom.Header
  square: np.ndarray
  picture: np.ndarray | None = None


class RefusedFilm(NamedTuple):
  """A film that is not assessed, and why: see `dicom` and `screening`.

  Attributes:
    number: of its path, from 0.
    reason: one word.
    detail: more about it.
  """

  number: int
  reason: str
  detail: str


@contextlib.contextmanager
def read(
  paths: Sequence[str | os.PathLike[str]],
  options: ReadOptions,
  *,
  num_workers: int,
  limits: pool.Limits = pool.Limits(),  # noqa: B008 (frozen)
) -> Iterator[Iterator[DecodedFilm | RefusedFilm]]:
  """Yields the films in the order in which they are done.

  The workers start at once and read no more ahead than keeps them busy. A
  film that ends its worker or takes more than `limits` is refused.
  """
  batches = pool.run(
    functools.partial(_read_batch, options=options),
    pool.batches(enumerate(paths), _FILMS_PER_BATCH),
    num_workers=num_workers,
    on_death=lambda number, _, death: RefusedFilm(
      number, *refusals.of_death(death)
    ),
    limits=limits,
  )
  with futures.ThreadPoolExecutor(1) as thread:
    ahead = thread.submit(next, batches, None)

    def films() -> Iterator[DecodedFilm | RefusedFilm]:
      nonlocal ahead
      while (done := ahead.result()) is not None:
        ahead = thread.submit(next, batches, None)
        yield from done

    try:
      yield films()
    finally:
      thread.submit(batches.close)


def in_order(
  films: Iterable[DecodedFilm | RefusedFilm],
) -> Iterator[DecodedFilm | RefusedFilm]:
  """Yields films in the order of their paths; those that are early wait."""
  waiting: dict[int, DecodedFilm | RefusedFilm] = {}
  following = 0
  for film in films:
    waiting[film.number] = film
    while following in waiting:
      yield waiting.pop(following)
      following += 1


def prepare(film: dicom.Film, options: ReadOptions) -> DecodedFilm:
  """The image and the picture of a film; its number is 0."""
  square = letterbox.letterbox(
    film.pixels, options.image_size, pixel_aspect=film.header.pixel_aspect
  )
  picture = None
  if options.picture_size:
    gray = draw.picture(film.pixels, options.picture_size)[..., 0]
    picture = np.ascontiguousarray(gray)
  header = dataclasses.replace(film.header, patient_id='')
  return DecodedFilm(0, header, square[..., None], picture)


def _read_batch(
  batch: pool.Batch[str | os.PathLike[str]], *, options: ReadOptions
) -> list[DecodedFilm | RefusedFilm]:
  read_one = functools.partial(_read, options=options)
  films = []
  for number, path in pool.each(batch):
    film = refusals.attempt(read_one, path)
    if isinstance(film, refusals.Refusal):
      film = RefusedFilm(number, *film)
    films.append(film._replace(number=number))
  return films


def _read(path: str | os.PathLike[str], options: ReadOptions) -> DecodedFilm:
  film = dicom.read(
    path, window=options.window, accept_modality=options.accept_modality
  )
  screening.check(film)
  return prepare(film, options)
