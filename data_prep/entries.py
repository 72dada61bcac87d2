"""The entries of a build: which films it reads, and what is known of them."""

import dataclasses
import os
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence

from pnx_jax.errors import UserError
from pnx_jax.formats import dicom, files

TRAIN, TEST = 'train', 'test'


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
  """A film's file and what the annotations say of it.

  What is empty or None is not known, or is what the file says.

  Attributes:
    path: The file.
    image_id: Stem of its name, or what the manifest calls it.
    part: `train` or `test`.
    rles: One string per annotation, none for a negative, None where no mask
      is known.
    label: 1 or 0, where it is noted apart from the annotations.
    masks: Files of masks; their pixels belong to `rles`.
    polygons: Rings of x and y, of each annotation; belong to `rles`.
    boxes: x, y, width and height of each box.
    boxes_exhaustive: No pneumothorax lies outside of the boxes.
    annotation_size: Columns and rows in which annotations are measured.
    patient: Tells patients apart.
    source: Which of several datasets the film comes from.
    fold: The fold that it must be in.
    view: Such as `PA`.
    sex: `F`, `M` or `O`.
    age: Years, -1 if unknown.
    pixel_spacing: Millimeters between rows and between columns.
    window: Stored values that are black and white.
    kept: Cells of the columns named by --keep_columns.
  """

  path: str
  image_id: str
  part: str
  rles: tuple[str, ...] | None = None
  label: int | None = None
  masks: tuple[str, ...] = ()
  polygons: tuple[tuple[tuple[float, ...], ...], ...] = ()
  boxes: tuple[tuple[int, int, int, int], ...] = ()
  boxes_exhaustive: bool = False
  annotation_size: tuple[int, int] | None = None
  patient: str = ''
  source: str = ''
  fold: int | None = None
  view: str = ''
  sex: str = ''
  age: int = -1
  pixel_spacing: tuple[float, float] | None = None
  window: tuple[float, float] | None = None
  kept: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Rejection:
  """A film that is left out; `reason` is a code, `detail` the same in words."""

  path: str
  image_id: str
  part: str
  reason: str
  detail: str


def reject(entry: Entry, reason: str, detail: str) -> Rejection:
  """Returns an entry's rejection."""
  return Rejection(entry.path, entry.image_id, entry.part, reason, detail)


def find(
  folder: str | os.PathLike[str],
  part: str,
  annotations: Mapping[str, Sequence[str]],
) -> list[Entry]:
  """Returns an entry for every file that `dicom.find` finds, by path."""
  found: list[Entry] = []
  for path in sorted(dicom.find(folder)):
    image_id = dicom.image_id_of(path)
    rles = annotations.get(image_id) if part == TRAIN else None
    found.append(
      Entry(path, image_id, part, None if rles is None else tuple(rles))
    )
  return found


def check_named(
  found: Sequence[Entry],
  image_ids: Collection[str],
  path: str | os.PathLike[str],
) -> None:
  """Raises UserError where a csv names none of the films that were found."""
  if not any(entry.image_id in image_ids for entry in found):
    raise UserError(
      f'no row of {path} names a film: the ids of the files look like '
      f'{found[0].image_id}'
    )


def without_duplicates(
  entries: Iterable[Entry],
) -> tuple[list[Entry], list[Rejection]]:
  """Returns the entries to read, and rejections of others with the same id.

  Of files with equal content the first stays; of files that differ, none.
  """
  by_id: dict[str, list[Entry]] = {}
  for entry in entries:
    by_id.setdefault(entry.image_id, []).append(entry)
  kept: list[Entry] = []
  rejected: list[Rejection] = []
  for same_id in by_id.values():
    digests: dict[Entry, str] = {}
    if len(same_id) > 1:
      digests = {entry: _digest(entry.path) for entry in same_id}
      rejected += [
        reject(e, 'unreadable', f'one of {len(same_id)} files with this id')
        for e in same_id
        if not digests[e]
      ]
      same_id = [entry for entry in same_id if digests[entry]]
    if len(same_id) < 2:
      kept += same_id
      continue
    first, *others = same_id
    if len({digests[entry] for entry in same_id}) == 1:
      kept.append(first)
      rejected += [
        reject(e, 'duplicate', f'copy of {first.path}') for e in others
      ]
    else:
      rejected += [
        reject(e, 'duplicate', f'{len(same_id)} different files have this id')
        for e in same_id
      ]
  return kept, rejected


def _digest(path: str) -> str:
  """Returns a digest of a file's content, empty where it cannot be read."""
  try:
    if stat.S_ISREG(os.stat(path).st_mode):
      return files.checksum(path)
  except OSError:
    pass
  return ''
