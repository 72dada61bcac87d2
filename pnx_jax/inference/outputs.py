"""The files of a film: its picture, its mask, its DICOM SEG."""

import dataclasses
import pathlib

import cv2
import numpy as np

from pnx_jax import draw
from pnx_jax.case import Case, overlay
from pnx_jax.formats import dicom_seg, files
from pnx_jax.inference.readings import Reading
from pnx_jax.prediction import evaluation_seal

# Longer side of the pictures.
PICTURE_SIZE = 640
RESEARCH_ONLY = 'research use only, not for diagnosis or treatment'


@dataclasses.dataclass(frozen=True)
class Outputs:
  """Writes the files of films.

  Attributes:
    folder: the output folder.
    with_dicom_seg: whether masks are written as DICOM SEG, too.
  """

  folder: pathlib.Path
  with_dicom_seg: bool

  def expected(self, reading: Reading) -> list[pathlib.Path]:
    """The files that an assessed film has; a mask only where it is marked."""
    paths = [self._picture(reading.name)]
    if reading.area:
      paths.append(self._mask(reading.name))
      # Where none could be written, `detail` says why.
      if self.with_dicom_seg and not reading.detail:
        paths.append(self._dicom_seg(reading.name))
    return paths

  def write(
    self,
    name: str,
    case: Case,
    versions: dict[str, str],
    reference: dicom_seg.Reference | str | None,
  ) -> str:
    """Writes the files of a film.

    Args:
      name: of the files, see `discovery.Source`.
      case: what the picture shows.
      versions: of `model` and `rules`, and their `seal`.
      reference: for the DICOM SEG, or why there can be none.

    Returns:
      Why its DICOM SEG could not be written, or ''.

    Raises:
      UserError: a file cannot be written.
    """
    self.remove(name)
    caption, rules = [RESEARCH_ONLY], versions['rules']
    if versions['seal'] != evaluation_seal.SEALED:
      caption.append(f'model: {versions["seal"]}')
      kind, _, _ = versions['seal'].partition(':')
      rules += f', {kind}'
    picture = draw.caption(overlay(case, PICTURE_SIZE), caption)
    files.write(self._picture(name), draw.encoded(picture, '.jpg'))
    if not case.mask.any():
      return ''
    png = cv2.imencode('.png', case.mask.view(np.uint8) * 255)[1]
    files.write(self._mask(name), png.tobytes())
    if not isinstance(reference, dicom_seg.Reference):
      return reference or ''
    path = self._dicom_seg(name)
    with files.explained(path):
      path.parent.mkdir(exist_ok=True)
    try:
      dicom_seg.write(
        reference, case.mask, path, model=versions['model'], rules=rules
      )
    except dicom_seg.Unsuitable as error:
      return str(error)
    return ''

  def remove(self, name: str) -> None:
    """Removes the files of a film, which show what it held before."""
    for path in (self._picture(name), self._mask(name), self._dicom_seg(name)):
      with files.explained(path):
        path.unlink(missing_ok=True)

  @property
  def pictures(self) -> pathlib.Path:
    """The folder of the pictures, `<name>.jpg`."""
    return self.folder / 'pictures'

  def _picture(self, name: str) -> pathlib.Path:
    return self.pictures / f'{name}.jpg'

  def _mask(self, name: str) -> pathlib.Path:
    return self.folder / 'masks' / f'{name}.png'

  def _dicom_seg(self, name: str) -> pathlib.Path:
    return self.folder / 'dicom_seg' / f'{name}.dcm'
