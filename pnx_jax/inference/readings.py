"""What is known of a film after it was read: one line of a worklist."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
  """One film: a finding, or the reason why there is none.

  Attributes:
    name: of the film's own files below the output folder; safe and unique.
    path: the file, as it was found.
    image_id: the stem of its name.
    stamp: tells whether the file is still the same, see `studies.Source`.
    reason: why it was not assessed, empty where it was.
    detail: more about that.
    probability: of a pneumothorax, calibrated; -1 where not assessed.
    operating_point: the strictest one reached, empty for none.
    area: of the mask, in pixels of the film.
    area_mm2: -1 where the spacing is unknown.
    spacing_plane: see `schema.Record`.
    side: the patient's: 'right', 'left', 'right and left' or empty.
    boxes: x, y, width, height, area of every region, largest first.
    rle: the mask at the film's own size, '-1' for none.
    height: rows of the film, 0 where unknown.
    width: columns of the film, 0 where unknown.
    view: see `schema.Record`, like `sex` and `age`.
    sex: see `view`.
    age: see `view`.
    model: version of the networks.
    rules: version of the rules and thresholds.
  """

  name: str
  path: str
  image_id: str
  stamp: str = ''
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

  @property
  def assessed(self) -> bool:
    return not self.reason
