"""Which files a build reads: found, named, and told from their copies."""

import dataclasses
import hashlib
import os
import pathlib
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence

from pnx_jax.errors import UserError
from pnx_jax.formats import dicom

TRAIN, TEST = 'train', 'test'


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
  """A file and what the annotations say of it.

  Attributes:
    path: The file.
    image_id: Stem of its name.
    part: `train` or `test`.
    rles: One string per annotation, none for a negative, None where the image
      is not labelled.
  """

  path: str
  image_id: str
  part: str
  rles: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Rejection:
  """A file left out; `reason` is a code, `detail` the same in words."""

  path: str
  image_id: str
  part: str
  reason: str
  detail: str


def reject(source: Source, reason: str, detail: str) -> Rejection:
  """Returns a file's rejection."""
  return Rejection(source.path, source.image_id, source.part, reason, detail)


def find(
  folder: str | os.PathLike,
  part: str,
  annotations: Mapping[str, Sequence[str]],
) -> list[Source]:
  """Returns every file named `*.dcm`, or carrying DICOM's mark, by path."""
  found = []
  for path in sorted(dicom.find(folder)):
    image_id = dicom.image_id_of(path)
    rles = annotations.get(image_id) if part == TRAIN else None
    found.append(
      Source(path, image_id, part, None if rles is None else tuple(rles))
    )
  return found


def check_named(
  found: Sequence[Source], image_ids: Collection[str], path: str | os.PathLike
) -> None:
  """Refuses a csv that speaks of other films than those found."""
  if not any(source.image_id in image_ids for source in found):
    raise UserError(
      f'no row of {path} names a film: the ids of the files look like '
      f'{found[0].image_id}'
    )


def without_duplicates(
  sources: Iterable[Source],
) -> tuple[list[Source], list[Rejection]]:
  """Tells files of one id apart: of equal ones the first stays, else none."""
  by_id: dict[str, list[Source]] = {}
  for source in sources:
    by_id.setdefault(source.image_id, []).append(source)
  kept, rejected = [], []
  for same_id in by_id.values():
    digests = {}
    if len(same_id) > 1:
      digests = {source: _digest(source.path) for source in same_id}
      rejected += [
        reject(s, 'unreadable', f'one of {len(same_id)} files with this id')
        for s in same_id
        if not digests[s]
      ]
      same_id = [source for source in same_id if digests[source]]
    if len(same_id) < 2:
      kept += same_id
      continue
    first, *others = same_id
    if len({digests[source] for source in same_id}) == 1:
      kept.append(first)
      rejected += [
        reject(s, 'duplicate', f'copy of {first.path}') for s in others
      ]
    else:
      rejected += [
        reject(s, 'duplicate', f'{len(same_id)} different files have this id')
        for s in same_id
      ]
  return kept, rejected


def _digest(path: str) -> bytes:
  """Returns what tells a file's content, empty where it cannot be read."""
  try:
    if stat.S_ISREG(os.stat(path).st_mode):
      return hashlib.sha256(pathlib.Path(path).read_bytes()).digest()
  except OSError:
    pass
  return b''
