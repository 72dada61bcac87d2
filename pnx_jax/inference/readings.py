"""The result of one film: a line of the worklist and of its journal."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
  """The result of one film, or the reason why it was not assessed.

  Attributes:
    name: of the film's files in the output folder; safe and unique.
    path: the film's own file, as it was found.
    image_id: the stem of the file's name.
    stamp: by which a changed file is noticed, see `discovery.Source`.
    digest: SHA-256 of the bytes that were decoded; empty in old journals and
      where none were.
    reason: why the film was not assessed, empty where it was.
    detail: more about the reason, or why there is no DICOM SEG.
    probability: of a pneumothorax, calibrated; -1 where not assessed.
    operating_point: the strictest one reached, empty for none.
    area: of the mask, in pixels of the film.
    area_mm2: of the mask, in mm2; -1 where the pixel spacing is unknown.
    spacing_plane: see `schema.Record`.
    side: of the patient: 'right', 'left', 'right and left', or empty.
    boxes: x, y, width, height, area of every region, largest first.
    rle: the mask at the film's own size, '-1' for none.
    height: rows of the film, 0 where unknown.
    width: columns of the film, 0 where unknown.
    view: see `schema.Record`, like `sex` and `age`.
    sex: see `view`.
    age: see `view`.
    model: version of the networks.
    rules: version of the rules and thresholds.
    seal: whether the model was as it was written, see `evaluation_seal`;
      empty in old journals.
    spread: see `Prediction`; -1 where unknown.
  """

  name: str
  path: str
  image_id: str
  stamp: str = ''
  digest: str = ''
  reason: str = ''
  detail: str = ''
  probability: float = -1.0
  operating_point: str = ''
  area: int = 0
  area_mm2: float = -1.0
  spacing_plane: str = ''
  side: str = ''
  boxes: tuple[tuple[int, int, int, int, int], ...] = ()
  rle: str = '-1'
  height: int = 0
  width: int = 0
  view: str = ''
  sex: str = ''
  age: int = -1
  model: str = ''
  rules: str = ''
  seal: str = ''
  spread: float = -1.0

  @property
  def assessed(self) -> bool:
    """Whether there is a prediction."""
    return not self.reason
