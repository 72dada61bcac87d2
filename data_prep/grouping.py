"""Which images belong to one person, as far as a build can know."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from data_prep import entries, prepare
from pnx_jax.errors import UserError


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

  Raises:
    UserError: All films claim to be of one patient.
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
    if image.part == entries.TRAIN:
      train.add(image_id)
      unknown += not key
  if patient_map is None and not unknown and len(train) > 1 == len(numbers):
    raise UserError(
      f'all {len(train)} films have the same PatientID, so patients cannot be '
      'distinguished: give --patient_map'
    )
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
  """Returns the groups after joining those that hold images which are alike.

  Args:
    number: Group of every image.
    alike: Groups of images; others than those of `number` are left out.
  """
  row = {image_id: index for index, image_id in enumerate(number)}
  groups = np.fromiter(number.values(), int, len(number))
  present = [[name for name in names if name in row] for names in alike]
  pairs = [
    (groups[row[names[0]]], groups[row[other]])
    for names in present
    for other in names
  ]
  one, other = np.array(pairs, int).reshape(-1, 2).T
  size = groups.max(initial=-1) + 1
  joined = sparse.coo_array((np.ones(len(one)), (one, other)), (size, size))
  _, component = csgraph.connected_components(joined, directed=False)
  return dict(zip(number, component[groups].tolist(), strict=True))
