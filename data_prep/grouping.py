"""Which images belong to one person, as far as a build can know."""

import dataclasses
from collections.abc import Mapping, Sequence

from data_prep import prepare, sources


@dataclasses.dataclass(frozen=True)
class Patients:
  """The patients of a build.

  Attributes:
    number: Group number of every image; says nothing about the person.
    safe: Whether the groups are known to be people.
    source: Where the groups come from, in words.
  """

  number: Mapping[str, int]
  safe: bool
  source: str


def patients(
  images: Sequence[prepare.Prepared], patient_map: Mapping[str, str] | None
) -> Patients:
  """Groups images by the map where there is one, else by PatientID.

  Only training images count for whether that is safe: a test image that
  nothing is known of is a group of its own.
  """
  name = 'PatientID' if patient_map is None else 'the patient map'
  numbers: dict[object, int] = {}
  number = {}
  train, unknown = set(), 0
  images = sorted(images, key=lambda image: image.image_id)
  for image in images:
    image_id = image.image_id
    key = image.patient if patient_map is None else patient_map.get(image_id)
    number[image_id] = numbers.setdefault(key or (image_id,), len(numbers))
    if image.part == sources.TRAIN:
      train.add(image_id)
      unknown += not key
  different = len({number[image_id] for image_id in train}) == len(train)
  if unknown:
    source = f'{name}, which {unknown} of {len(train)} images lack'
  elif patient_map is None and different:
    source = f'{name}, which differs from image to image'
  else:
    return Patients(number, True, name)
  return Patients(number, False, source)


def merged(
  number: Mapping[str, int], alike: Sequence[Sequence[str]]
) -> dict[str, int]:
  """Returns the groups after joining those that hold images which are alike."""
  joined = dict(number)
  for image_ids in alike:
    groups = {joined[image_id] for image_id in image_ids}
    if len(groups) > 1:
      first = min(groups)
      joined = {
        image_id: first if group in groups else group
        for image_id, group in joined.items()
      }
  return joined
