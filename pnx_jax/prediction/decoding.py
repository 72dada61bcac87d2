"""Films decoded in worker processes: what a network and a picture need.

Nothing that the workers import may import JAX: they start in a second.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent import futures
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pnx_jax import draw, pool
from pnx_jax.formats import dicom, dicom_header, letterbox, refusals
from pnx_jax.prediction import screening

if TYPE_CHECKING:
  from pnx_jax.formats import dicom_seg

_FILMS_PER_BATCH = 4

# A path, and the digest that the file had when it was decoded, or ''.
_Job = tuple[str | os.PathLike[str], str]


class ReadOptions(NamedTuple):
  """How films are read.

  Attributes:
    image_size: S, the side of the square image that the networks take.
    window: how gray levels are made, see `grayscale.to_uint8`.
    accept_modality: see `dicom.read`.
    picture_size: longer side of a picture to draw on; 0 for none.
    dicom_seg: whether a DICOM SEG may be written, which needs more of the
      header.
  """

  image_size: int
  window: str
  accept_modality: tuple[str, ...] = dicom.RADIOGRAPHY
  picture_size: int = 0
  dicom_seg: bool = False


class DecodedFilm(NamedTuple):
  """A film to be assessed.

  Attributes:
    number: of its path, from 0.
    header: without `patient_id`.
    square: uint8[S, S, 1], letterboxed.
    digest: SHA-256 of the bytes that were decoded.
    picture: uint8[h, w], None where none was asked for.
    reference: for a DICOM SEG, or why there can be none; None where none was
      asked for.
  """

  number: int
  header: dicom.Header
  square: np.ndarray
  digest: str = ''
  picture: np.ndarray | None = None
  reference: 'dicom_seg.Reference | str | None' = None


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


class UnchangedFilm(NamedTuple):
  """A film whose bytes are those that were decoded before.

  Attributes:
    number: of its path, from 0.
  """

  number: int


Film = DecodedFilm | RefusedFilm | UnchangedFilm


@contextlib.contextmanager
def read(
  paths: Sequence[str | os.PathLike[str]],
  options: ReadOptions,
  *,
  num_workers: int,
  limits: pool.Limits = pool.Limits(),  # noqa: B008 (frozen)
  digests: Sequence[str] = (),
) -> Iterator[Iterator[Film]]:
  """Yields the films in the order in which they are done.

  The workers start at once and read no more ahead than keeps them busy. A
  film that ends its worker or takes more than `limits` is refused. When many
  meet the same defect of this program, the iterator raises UserError.

  Args:
    paths: of the files.
    options: how they are read.
    num_workers: processes.
    limits: of time and memory for each film.
    digests: of each path, SHA-256 of the bytes that need not be decoded again,
      or ''; none at all where not given.
  """
  jobs = zip(paths, digests or [''] * len(paths), strict=True)
  batches = pool.run(
    functools.partial(_read_batch, options=options),
    pool.batches(enumerate(jobs), _FILMS_PER_BATCH),
    num_workers=num_workers,
    on_death=lambda number, _, death: RefusedFilm(
      number, *refusals.of_death(death)
    ),
    limits=limits,
  )
  with futures.ThreadPoolExecutor(1) as thread:
    ahead = thread.submit(next, batches, None)

    defects = refusals.Defects()

    def films() -> Iterator[Film]:
      nonlocal ahead
      while (done := ahead.result()) is not None:
        ahead = thread.submit(next, batches, None)
        for film in done:
          if isinstance(film, RefusedFilm):
            defects.check(refusals.Refusal(film.reason, film.detail))
          yield film

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
  """The image and the picture of a film; its number is 0.

  The texts of the header are cut to what is drawn and written.
  """
  square = letterbox.letterbox(
    film.pixels, options.image_size, pixel_aspect=film.header.pixel_aspect
  )
  picture = None
  if options.picture_size:
    gray = draw.picture(film.pixels, options.picture_size)[..., 0]
    picture = np.ascontiguousarray(gray)
  header = dataclasses.replace(
    dicom_header.shortened(film.header), patient_id=''
  )
  return DecodedFilm(0, header, square[..., None], picture=picture)


def _read_batch(batch: pool.Batch[_Job], *, options: ReadOptions) -> list[Film]:
  read_one = functools.partial(_read, options=options)
  films = []
  for number, job in pool.each(batch):
    film = refusals.attempt(read_one, job)
    if isinstance(film, refusals.Refusal):
      film = RefusedFilm(number, *film)
    films.append(film._replace(number=number))
  return films


def _read(job: _Job, options: ReadOptions) -> DecodedFilm | UnchangedFilm:
  path, known = job
  content = dicom.content(path)
  digest = hashlib.sha256(content).hexdigest()
  if digest == known:
    return UnchangedFilm(0)
  film = dicom.read(
    content, window=options.window, accept_modality=options.accept_modality
  )
  screening.check(film)
  reference = _reference(content) if options.dicom_seg else None
  return prepare(film, options)._replace(digest=digest, reference=reference)


def _reference(content: bytes) -> 'dicom_seg.Reference | str':
  from pnx_jax.formats import dicom_seg  # Its table of codes takes a while.

  try:
    return dicom_seg.reference(content)
  except dicom_seg.Unsuitable as error:
    return str(error)
