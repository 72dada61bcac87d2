"""DICOM and annotations -> records, in batches that outlive an interruption.

A batch of files becomes two files in the build's working folder: `*.records`
with the records and `*.index` with what the build has to know of each. Both
appear whole and the index last, so a batch is done exactly when it is there.
They are named after the first and the last file of the batch: a build that
goes on, or repeats a batch file by file, never writes over another's records.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import os
import pathlib
import pickle
import uuid
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import cv2
import numpy as np

from data_prep import near_duplicates, sources
from pnx_jax import pool
from pnx_jax.errors import UserError
from pnx_jax.formats import boxes, dicom, letterbox, refusals, rle, schema

UNFINISHED = '.tmp'  # ends the names of files that are being written

# Of cv2's settings the fastest to write and to read (1.7 and 1.2 ms at 512^2,
# by default 4.9 and 2.5), and smaller files.
_FILM_PNG = (
  *(cv2.IMWRITE_PNG_COMPRESSION, 1),
  *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY),
  *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP),
)
_MASK_PNG = (
  *(cv2.IMWRITE_PNG_COMPRESSION, 1),
  *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
  *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE),
)


class UnusableAnnotation(refusals.UnusableFilm):
  """Annotations that are not masks of their film."""


@dataclasses.dataclass(frozen=True)
class Options:
  """What decides the content of the records."""

  image_size: int
  window: str
  accept_modality: tuple[str, ...]
  accept_body_part: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Prepared:
  """A record in the working folder, and what the build has to know of it.

  Attributes:
    source: The file.
    label: 1, 0 or -1 as in the record.
    area: Share of the film that the mask covers.
    num_annotations: As in the record.
    agreement: As in the record.
    patient: Keyed digest of the PatientID, empty without one.
    fingerprint: See `likeness`.
    synthetic: The file says that no patient was before the camera.
    records: The file that holds the record, relative to the working folder.
    offset: Where the record starts in it, -1 where none was written.
  """

  source: sources.Source
  label: int
  area: float
  num_annotations: int
  agreement: float
  patient: str
  fingerprint: bytes
  synthetic: bool
  records: str
  offset: int

  @property
  def image_id(self) -> str:
    return self.source.image_id

  @property
  def path(self) -> str:
    return self.source.path

  @property
  def part(self) -> str:
    return self.source.part

  @property
  def is_written(self) -> bool:
    return self.offset >= 0


Outcome = Prepared | sources.Rejection


def run_batch(
  batch: pool.Batch,
  *,
  options: Options,
  folder: str | os.PathLike,
  salt: bytes,
) -> list[Outcome]:
  """Prepares a batch and leaves it in `folder`.

  Args:
    batch: Files, each with its number in the build.
    options: What decides the content of the records.
    folder: The working folder.
    salt: Keys the digests of the patients.
  """
  name = f'{_name(batch)}.records'
  prepare_one = functools.partial(_prepare, options=options, salt=salt)
  outcomes: list[Outcome] = []
  with _appearing(pathlib.Path(folder, name)) as out:
    for _, source in pool.each(batch):
      prepared = refusals.attempt(prepare_one, source)
      if isinstance(prepared, refusals.Refusal):
        outcomes.append(sources.reject(source, *prepared))
        continue
      record, about = prepared
      offset = -1
      if record.label != schema.UNLABELLED or source.part == sources.TEST:
        offset = out.tell()
        pickle.dump(record, out)
      outcomes.append(about(records=name, offset=offset))
  save(batch, outcomes, folder)
  return outcomes


def save(
  batch: pool.Batch, outcomes: Sequence[Outcome], folder: str | os.PathLike
) -> None:
  """Leaves the outcomes of a batch in `folder`, which makes it done."""
  with _appearing(pathlib.Path(folder, f'{_name(batch)}.index')) as out:
    pickle.dump(list(outcomes), out)


def finished(folder: str | os.PathLike) -> dict[str, Outcome]:
  """Returns the outcomes of all batches that a folder holds, by path."""
  return {
    outcome.path: outcome
    for index in sorted(pathlib.Path(folder).glob('*.index'))
    for outcome in pickle.loads(index.read_bytes())
  }


def read_record(folder: str | os.PathLike, prepared: Prepared) -> schema.Record:
  """Returns a record that `run_batch` left.

  Raises:
    UserError: Another film's record lies there.
  """
  with open(pathlib.Path(folder, prepared.records), 'rb') as file:
    file.seek(prepared.offset)
    record = pickle.load(file)
  if record.image_id != prepared.image_id:
    raise UserError(
      f'{file.name} holds {record.image_id} where {prepared.image_id} should '
      f'be: remove {folder} and build again'
    )
  return record


def _name(batch: pool.Batch) -> str:
  return f'{batch[0][0]:08d}-{batch[-1][0]:08d}'


@contextlib.contextmanager
def _appearing(path: pathlib.Path) -> Iterator[BinaryIO]:
  """Yields a file that gets its name when it is complete.

  Nobody else writes it meanwhile, though a cluster may run a batch twice.
  """
  unfinished = path.with_name(f'{path.name}.{uuid.uuid4().hex}{UNFINISHED}')
  with open(unfinished, 'wb') as file:
    yield file
  unfinished.replace(path)


def _prepare(source: sources.Source, options: Options, salt: bytes):
  """Returns a file's record and `Prepared` without the record's place.

  The record's patient is not known yet.
  """
  film = dicom.read(
    source.path,
    window=options.window,
    accept_modality=options.accept_modality,
    accept_body_part=options.accept_body_part,
  )
  header = film.header
  masks = _masks(source, header.height, header.width)
  mask = np.zeros((header.height, header.width), bool)
  for one in masks:
    mask |= one
  covered = np.count_nonzero(mask)
  square = functools.partial(
    letterbox.letterbox,
    size=options.image_size,
    pixel_aspect=header.pixel_aspect,
  )
  image = square(film.pixels)
  record = schema.Record(
    image=_png(image, _FILM_PNG),
    mask=_png(square(mask).view(np.uint8) * 255, _MASK_PNG),
    rle=rle.encode(mask),
    image_id=source.image_id,
    patient=schema.UNKNOWN,
    label=schema.UNLABELLED if source.rles is None else int(covered > 0),
    height=header.height,
    width=header.width,
    pixel_aspect=header.pixel_aspect,
    view=header.view,
    sex=header.sex,
    age=header.age,
    pixel_spacing=header.pixel_spacing,
    spacing_plane=header.spacing_plane,
    mirrored=int(header.mirrored),
    num_annotations=len(masks),
    agreement=_agreement(masks),
    boxes=boxes.boxes(mask),
  )
  about = functools.partial(
    Prepared,
    source=source,
    label=record.label,
    area=covered / mask.size,
    num_annotations=record.num_annotations,
    agreement=record.agreement,
    patient=_digest(header.patient_id, salt),
    fingerprint=near_duplicates.fingerprint(image),
    synthetic=header.synthetic,
  )
  return record, about


def _masks(source: sources.Source, height: int, width: int) -> list[np.ndarray]:
  try:
    return [rle.decode(text, height, width) for text in source.rles or ()]
  except rle.PastTheEnd as error:
    raise UnusableAnnotation('rle_past_end', str(error)) from error
  except ValueError as error:
    raise UnusableAnnotation('malformed_rle', str(error)) from error


def _agreement(masks: Sequence[np.ndarray]) -> float:
  """Returns the mean Dice over pairs of masks, -1 for fewer than two."""
  pairs = [
    2
    * np.count_nonzero(one & other)
    / max(np.count_nonzero(one) + np.count_nonzero(other), 1)
    for one, other in itertools.combinations(masks, 2)
  ]
  return float(np.mean(pairs)) if pairs else -1.0


def _png(image: np.ndarray, settings: Sequence[int]) -> bytes:
  return cv2.imencode('.png', image, settings)[1].tobytes()


def _digest(patient_id: str, salt: bytes) -> str:
  if not patient_id:
    return ''
  digest = hashlib.blake2b(patient_id.encode(), digest_size=16, key=salt)
  return digest.hexdigest()
