"""What becomes of a film: its files, and its line of the worklist."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from pnx_jax.case import Case, square_millimeters
from pnx_jax.formats import rle
from pnx_jax.inference.discovery import Source
from pnx_jax.inference.outputs import Outputs
from pnx_jax.inference.readings import Reading
from pnx_jax.prediction.decoding import Film, RefusedFilm, UnchangedFilm
from pnx_jax.prediction.predictor import Prediction
from pnx_jax.storage import local


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assessment:
  """Writes the files of films and returns their readings.

  Attributes:
    sources: of the films, by `DecodedFilm.number`.
    outputs: where the files go.
    versions: of `model` and `rules`, and their `seal`.
    earlier: by name, the readings of films that may be unchanged.
  """

  sources: Sequence[Source]
  outputs: Outputs
  versions: dict[str, str]
  earlier: Mapping[str, Reading]

  def __call__(self, film: Film, prediction: Prediction) -> Reading:
    """Writes the files of one film."""
    source = self.sources[film.number]
    if isinstance(film, UnchangedFilm):
      return dataclasses.replace(self.earlier[source.name], **_of(source))
    if isinstance(film, RefusedFilm):
      self.outputs.remove(source.name)
      return Reading(
        **_of(source),
        reason=film.reason,
        detail=film.detail,
        **self.versions,
      )
    header = film.header
    case = Case(
      image=film.picture,
      mask=prediction.mask,
      image_id=source.image_id,
      view=header.view,
      sex=header.sex,
      age=header.age,
      pixel_spacing=header.pixel_spacing,
      spacing_plane=header.spacing_plane,
      mirrored=header.mirrored,
      probability=prediction.probability,
    )
    detail = self.outputs.write(
      source.name, case, self.versions, film.reference
    )
    area = int(np.count_nonzero(prediction.mask))
    return Reading(
      **_of(source),
      digest=film.digest,
      detail=detail,
      probability=prediction.probability,
      operating_point=prediction.operating_point,
      area=area,
      area_mm2=square_millimeters(area, header.pixel_spacing),
      spacing_plane=header.spacing_plane,
      side=' and '.join(case.sides),
      boxes=tuple(map(tuple, prediction.boxes.tolist())),
      rle=rle.encode(prediction.mask),
      height=header.height,
      width=header.width,
      view=header.view,
      sex=header.sex,
      age=header.age,
      spread=-1.0 if math.isnan(prediction.spread) else prediction.spread,
      **self.versions,
    )


def _of(source: Source) -> dict[str, str]:
  """Returns what a reading says of the file; of a copy, where it came from."""
  return source._asdict() | {'path': local.origin(source.path)}
