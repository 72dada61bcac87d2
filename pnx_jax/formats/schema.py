"""What a record of a built dataset holds, and how its splits are named.

A dataset is a folder of TFRecords in TFDS layout. `data_prep` writes it,
`pnx_jax.input` reads it; both take the fields from here.
"""

import dataclasses

import numpy as np

from pnx_jax.formats import spacing

NAME = 'siim'
VERSION = '1.2.0'
# Records of older versions lack fields that have a default here.
READABLE_VERSIONS = ('1.0.0', '1.1.0', VERSION)
# Builds of these versions have no seal.
UNSEALED_VERSIONS = ('1.0.0',)
TEST_SPLIT = 'test'
UNLABELED_SPLIT = 'unlabeled'

POSITIVE, NEGATIVE, UNLABELED = 1, 0, -1
UNKNOWN = -1

# What is known of a film: its mask, boxes, the label alone, or nothing.
MASK, BOX, LABEL, NONE = 'mask', 'box', 'label', 'none'


def fold_split(fold: int) -> str:
  """Returns the name of the split that holds a fold."""
  return f'fold{fold}'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
  """One radiograph. The fields are the features of the dataset, in order.

  Attributes:
    image: PNG of uint8[S, S, 1], letterboxed to a square.
    mask: PNG of uint8[S, S, 1], 0 or 255, letterboxed like the image.
    rle: Union of the annotations, at the film's own height x width; `-1` for
      none.
    image_id: Stem of the file's name.
    patient: Group number of this build; says nothing about the person.
    label: 1 pneumothorax, 0 none, -1 not labeled.
    height: Rows of the film.
    width: Columns of the film.
    pixel_aspect: Height of a film's pixel over its width. Together with height
      and width it is all the geometry `letterbox` needs.
    view: ViewPosition, or ViewCodeSequence in its terms (`PA`, `AP`, ...),
      empty where unknown.
    sex: `F`, `M`, `O`, empty where unknown.
    age: Years, -1 where unknown.
    pixel_spacing: f32[2], millimeters between rows and between columns, -1
      where unknown or implausible, see `formats.spacing`.
    spacing_plane: `patient` (PixelSpacing), `detector` (ImagerPixelSpacing,
      larger than the body by the magnification), `implausible`, empty where
      unknown.
    mirrored: 1 where the film's left half is the patient's left, else 0.
    num_annotations: How many annotations `rle` unites.
    agreement: Mean Dice over the pairs of annotations, -1 for fewer than two.
    boxes: i32[N, 5], x, y, width, height and area of every connected region
      of the mask, in pixels of the film, see `formats.boxes`; of a film whose
      truth is `box` those that were annotated.
    truth: `mask`, `box`, `label` or `none`. Unless it is `mask`, `rle` and
      `mask` are empty and say nothing; empty in records of version 1.0.0.
    source: Which of several datasets the film comes from, if it is noted.
    boxes_exhaustive: 1 where the truth is `box` and no pneumothorax lies
      outside of the boxes, else 0.
    fingerprint: What copies of the film have in common whatever their id, size
      and compression, in hexadecimal digits, see `formats.fingerprints`; empty
      where unknown.
    patient_digest: The patient's name, hashed with a secret key: equal for one
      patient in all builds with that key. Empty where unknown.
  """

  image: bytes
  mask: bytes
  rle: str
  image_id: str
  patient: int
  label: int
  height: int
  width: int
  pixel_aspect: float
  view: str
  sex: str
  age: int
  pixel_spacing: tuple[float, float]
  spacing_plane: str
  mirrored: int
  num_annotations: int
  agreement: float
  boxes: np.ndarray
  truth: str = ''
  source: str = ''
  boxes_exhaustive: int = 0
  fingerprint: str = ''
  patient_digest: str = ''

  def __post_init__(self) -> None:
    if not self.truth:
      known = NONE if self.label == UNLABELED else MASK
      object.__setattr__(self, 'truth', known)
    # Records of older versions hold what the header said.
    if not spacing.is_plausible(self.pixel_spacing, self.height, self.width):
      object.__setattr__(self, 'pixel_spacing', spacing.UNKNOWN)
      object.__setattr__(self, 'spacing_plane', spacing.IMPLAUSIBLE)


FIELDS = tuple(field.name for field in dataclasses.fields(Record))
