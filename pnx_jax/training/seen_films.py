"""The films that a network has seen, and whether others are among them.

A film is recognized by its id, by the fingerprint of its content (another id,
size or compression changes nothing), or by the keyed digest of its patient.
Runs and datasets of older versions have ids alone.
"""

import dataclasses
from collections.abc import Collection, Iterable
from typing import Any

from pnx_jax.formats import fingerprints, schema, seal

# How a run uses a film: its loss trains the weights; its score chooses the best
# checkpoint; its picture is seen without any annotation.
TRAINED, VALIDATED, UNLABELED = 'trained', 'validated', 'unlabeled'
USES = (TRAINED, VALIDATED, UNLABELED)


@dataclasses.dataclass(frozen=True, order=True)
class SeenFilm:
  """A film that a run has seen.

  Attributes:
    image_id: Its id.
    fingerprint: As in the record, empty where unknown.
    patient_digest: As in the record, empty where unknown.
    use: One of `USES`.
    test_copy: Whether the build kept it although it is a copy of a film of the
      split `test`.
  """

  image_id: str
  fingerprint: str = ''
  patient_digest: str = ''
  use: str = TRAINED
  test_copy: bool = False

  @property
  def is_known(self) -> bool:
    """Whether more than its id is known."""
    return bool(self.fingerprint or self.patient_digest)


def of(
  records: Iterable[schema.Record],
  *,
  use: str = TRAINED,
  test_copies: Collection[str] = (),
) -> list[SeenFilm]:
  """Returns the films of some records.

  Args:
    records: Of the films.
    use: What they are used for.
    test_copies: Ids of those that are copies of test films.
  """
  return [
    SeenFilm(
      record.image_id,
      record.fingerprint,
      record.patient_digest,
      use=use,
      test_copy=record.image_id in test_copies,
    )
    for record in records
  ]


def to_json(films: Iterable[SeenFilm | str]) -> list[Any]:
  """Returns the content of trained_on.json: sorted, with ids or objects.

  A film of which no more is known is its id.
  """
  return [
    {name: value for name, value in _fields(film).items() if value}
    if film.is_known or film.use != TRAINED or film.test_copy
    else film.image_id
    for film in sorted(from_json(films))
  ]


def from_json(content: Iterable[SeenFilm | str]) -> list[SeenFilm]:
  """Returns films, of which some may be given by their ids alone."""
  return [SeenFilm(film) if isinstance(film, str) else film for film in content]


def digest(films: Iterable[SeenFilm | str]) -> str:
  """Returns a digest of the films, by which an edited list is noticed."""
  return seal.digest({'ids': to_json(films)})


def _fields(film: SeenFilm) -> dict[str, str | bool]:
  fields = dataclasses.asdict(film)
  return fields if film.use != TRAINED else fields | {'use': ''}


@dataclasses.dataclass(frozen=True)
class Overlap:
  """How films and those that were seen are the same.

  Attributes:
    films: Pairs of ids, of the seen film and of the other one.
    patients: Pairs of ids of films of one patient, other films than these.
  """

  films: tuple[tuple[str, str], ...]
  patients: tuple[tuple[str, str], ...]

  def __bool__(self) -> bool:
    return bool(self.films or self.patients)

  def __str__(self) -> str:
    """What they have in common, with an example."""
    told: list[str] = []
    if self.films:
      seen, other = self.films[0]
      there = '' if seen == other else f', {seen} there'
      told.append(f'{len(self.films)} films ({other}{there})')
    if self.patients:
      seen, other = self.patients[0]
      told.append(
        f'the patients of {len(self.patients)} films ({other}, with {seen} '
        'there)'
      )
    return ' and '.join(told)


def overlap(
  seen: Collection[SeenFilm], others: Collection[SeenFilm]
) -> Overlap:
  """Compares films with those that were seen, by ids, content and patients."""
  ids = {film.image_id for film in seen}
  same = [(x.image_id, x.image_id) for x in others if x.image_id in ids]
  copies = fingerprints.copies(
    {film.image_id: film.fingerprint for film in seen},
    {x.image_id: x.fingerprint for x in others if x.image_id not in ids},
  )
  patients = {x.patient_digest: x.image_id for x in seen if x.patient_digest}
  found = {other for _, other in (*same, *copies)}
  shared = [
    (patients[x.patient_digest], x.image_id)
    for x in others
    if x.patient_digest in patients and x.image_id not in found
  ]
  return Overlap((*same, *copies), tuple(shared))
