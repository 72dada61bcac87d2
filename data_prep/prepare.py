"""DICOM and annotations -> records, in batches that outlive an interruption.

A batch of films becomes two files in the build's working folder: `*.records`
with the records, as in a TFRecord file, and `*.index` with what the build has
to know of each film, as JSON. Both appear whole and the index last, so a batch
is done exactly when its index is there. They are named after the films of
the batch: a build that resumes, or repeats a batch film by film, never writes
over another batch's records.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np

from data_prep import near_duplicates, truth
from data_prep.entries import TEST, Entry, Rejection, reject
from pnx_jax import pool
from pnx_jax.errors import UserError
from pnx_jax.formats import (
  boxes,
  dicom,
  dicom_header,
  files,
  letterbox,
  picture,
  refusals,
  rle,
  schema,
  spacing,
  tfrecord,
  typed_json,
)

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


@dataclasses.dataclass(frozen=True)
class RecordOptions:
  """What decides the content of the records; see the flags of the build."""

  image_size: int
  window: str
  accept_modality: tuple[str, ...]
  accept_body_part: tuple[str, ...]
  with_unlabeled: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Prepared:
  """A record in the working folder, and what the build has to know of it.

  Attributes:
    path: The film's file.
    image_id: As in the record.
    part: `train` or `test`.
    label: 1, 0 or -1 as in the record.
    area: Share of the film that the mask covers.
    num_annotations: As in the record.
    agreement: As in the record.
    patient: Keyed digest of the PatientID, empty without one.
    fingerprint: See `near_duplicates.fingerprint`; in hexadecimal digits.
    synthetic: The header says that the film shows no patient.
    truth: As in the record.
    source: As in the record.
    fold: The fold that the film must be in.
    scaled_mask: Whether a file with its mask had another size.
    records: The file that holds the record, relative to the working folder.
    offset: Where the record starts in it, -1 where none was written.
  """

  path: str
  image_id: str
  part: str
  label: int
  area: float
  num_annotations: int
  agreement: float
  patient: str
  fingerprint: str
  synthetic: bool
  truth: str = schema.MASK
  source: str = ''
  fold: int | None = None
  scaled_mask: bool = False
  records: str = ''
  offset: int = -1

  @property
  def is_written(self) -> bool:
    """Whether there is a record."""
    return self.offset >= 0


Outcome = Prepared | Rejection


def run_batch(
  batch: pool.Batch[Entry],
  *,
  options: RecordOptions,
  folder: str | os.PathLike[str],
  salt: bytes,
) -> list[Outcome]:
  """Prepares a batch and leaves it in `folder`.

  Args:
    batch: Entries, each with its number in the build.
    options: What decides the content of the records.
    folder: The working folder.
    salt: Keys the digests of the patients.
  """
  name = f'{_name(batch)}.records'
  prepare_one = functools.partial(_prepare, options=options, salt=salt)
  outcomes: list[Outcome] = []
  with files.atomic(pathlib.Path(folder, name), contended=True) as out:
    for _, entry in pool.each(batch):
      found = refusals.attempt(prepare_one, entry)
      if isinstance(found, refusals.Refusal):
        outcomes.append(reject(entry, *found))
        continue
      record, prepared = found
      wanted = entry.part == TEST or options.with_unlabeled
      if wanted or record.truth != schema.NONE:
        offset = tfrecord.write(out, tfrecord.serialize(record))
        prepared = dataclasses.replace(prepared, records=name, offset=offset)
      outcomes.append(prepared)
  save(batch, outcomes, folder)
  return outcomes


def save(
  batch: pool.Batch[Entry],
  outcomes: Sequence[Outcome],
  folder: str | os.PathLike[str],
) -> None:
  """Leaves the outcomes of a batch in `folder`, which makes it done."""
  path = pathlib.Path(folder, f'{_name(batch)}.index')
  content = [dataclasses.asdict(outcome) for outcome in outcomes]
  with files.atomic(path, contended=True) as file:
    file.write(json.dumps(content, allow_nan=False).encode())


def finished(folder: str | os.PathLike[str]) -> dict[str, Outcome]:
  """Returns the outcomes of all batches that a folder holds, by path.

  Of a film that was given up and tried again, what came of that counts.

  Raises:
    UserError: An index is damaged.
  """
  remedy = f'remove {folder} and build again'
  found = [
    outcome
    for index in sorted(pathlib.Path(folder).glob('*.index'))
    for outcome in _outcomes(index, remedy)
  ]
  given_up = [outcome for outcome in found if may_pass(outcome)]
  others = [outcome for outcome in found if not may_pass(outcome)]
  return {outcome.path: outcome for outcome in (*given_up, *others)}


def may_pass(outcome: Outcome) -> bool:
  """Whether a film was given up that another try may read."""
  return isinstance(outcome, Rejection) and outcome.reason in refusals.MAY_PASS


def remove_partial(folder: str | os.PathLike[str]) -> None:
  """Removes files that a killed build was writing."""
  for path in pathlib.Path(folder).glob(f'.*{files.PARTIAL}'):
    path.unlink()


def read_record(
  folder: str | os.PathLike[str], prepared: Prepared
) -> schema.Record:
  """Returns a record that `run_batch` left.

  Raises:
    UserError: It is damaged, or another film's record lies there.
  """
  # Only its name: the record lies in the folder, whatever an index says.
  path = pathlib.Path(folder, pathlib.Path(prepared.records).name)
  record = tfrecord.parse(tfrecord.read(path, prepared.offset))
  if record.image_id != prepared.image_id:
    raise UserError(
      f'{path} holds {record.image_id} where {prepared.image_id} should be: '
      f'remove {folder} and build again'
    )
  return record


def _outcomes(index: pathlib.Path, remedy: str) -> Iterable[Outcome]:
  content: Any = typed_json.load(
    index, list[Prepared | Rejection], remedy=remedy
  )
  return content


def _name(batch: pool.Batch[Entry]) -> str:
  numbers = [number for number, _ in batch]
  digest = hashlib.sha256(str(numbers).encode()).hexdigest()[:8]
  return f'{numbers[0]:08d}-{numbers[-1]:08d}-{digest}'


def _prepare(
  entry: Entry, *, options: RecordOptions, salt: bytes
) -> tuple[schema.Record, Prepared]:
  """Returns a film's record, whose patient is not known yet."""
  pixels, header = read_film(entry, options)
  known = truth.of(entry, header.height, header.width)
  mask = np.zeros((header.height, header.width), bool)
  for one in known.masks:
    mask |= one
  covered = np.count_nonzero(mask)
  square = functools.partial(
    letterbox.letterbox,
    size=options.image_size,
    pixel_aspect=header.pixel_aspect,
  )
  image = square(pixels)
  record = schema.Record(
    image=_png(image, _FILM_PNG),
    mask=_png(square(mask).view(np.uint8) * 255, _MASK_PNG),
    rle=rle.encode(mask),
    image_id=entry.image_id,
    patient=schema.UNKNOWN,
    label=known.label,
    height=header.height,
    width=header.width,
    pixel_aspect=header.pixel_aspect,
    view=header.view,
    sex=header.sex,
    age=header.age,
    pixel_spacing=header.pixel_spacing,
    spacing_plane=header.spacing_plane,
    mirrored=int(header.mirrored),
    num_annotations=len(known.masks),
    agreement=_agreement(known.masks),
    boxes=known.boxes if len(known.boxes) else boxes.boxes(mask),
    truth=known.kind,
    source=entry.source,
    boxes_exhaustive=int(known.kind == schema.BOX and entry.boxes_exhaustive),
    # Whatever the size of the records and the shape that is known of the
    # pixels, so that builds compare.
    fingerprint=near_duplicates.fingerprint(pixels).hex(),
  )
  prepared = Prepared(
    path=entry.path,
    image_id=entry.image_id,
    part=entry.part,
    label=record.label,
    area=covered / mask.size,
    num_annotations=record.num_annotations,
    agreement=record.agreement,
    patient=patient_digest(header.patient_id, salt),
    fingerprint=record.fingerprint,
    synthetic=header.synthetic,
    truth=known.kind,
    source=entry.source,
    fold=entry.fold,
    scaled_mask=known.scaled,
  )
  return record, prepared


def read_film(
  entry: Entry, options: RecordOptions
) -> tuple[np.ndarray, dicom_header.Header]:
  """Returns a film, u8[H, W], and its header with what the entry adds.

  Raises:
    UnusableFilm: The file is not a film that the options accept.
  """
  if picture.is_picture(entry.path):
    pixels = picture.read(entry.path, window=entry.window or options.window)
    header = dicom_header.unknown(*pixels.shape)
  else:
    film = dicom.read(
      entry.path,
      window=options.window,
      accept_modality=options.accept_modality,
      accept_body_part=options.accept_body_part,
    )
    pixels, header = film.pixels, dicom_header.shortened(film.header)
  changes: dict[str, Any] = {}
  for name in ('view', 'sex'):
    if getattr(entry, name):
      changes[name] = getattr(entry, name)
  if entry.age >= 0:
    changes['age'] = entry.age
  if entry.pixel_spacing:
    changes['pixel_aspect'] = dicom_header.aspect(entry.pixel_spacing)
    plausible = spacing.is_plausible(entry.pixel_spacing, *pixels.shape)
    changes['pixel_spacing'] = (
      entry.pixel_spacing if plausible else spacing.UNKNOWN
    )
    changes['spacing_plane'] = 'patient' if plausible else spacing.IMPLAUSIBLE
  return pixels, dicom_header.shortened(dataclasses.replace(header, **changes))


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


def patient_digest(patient: str, key: bytes) -> str:
  """Returns a patient's keyed digest, empty where the name is."""
  if not patient:
    return ''
  digest = hashlib.blake2b(patient.encode(), digest_size=16, key=key)
  return digest.hexdigest()
