"""The files that a film gets: its picture, its mask."""

import dataclasses
import pathlib

import cv2
import numpy as np

from pnx_jax import draw
from pnx_jax.case import Case, overlay
from pnx_jax.errors import UserError
from pnx_jax.formats import dicom_seg, files
from pnx_jax.inference.decoding import PICTURE_SIZE
from pnx_jax.inference.discovery import Source
from pnx_jax.inference.readings import Reading

RESEARCH_ONLY = 'research use only, not for diagnosis or treatment'


@dataclasses.dataclass(frozen=True)
class Outputs:
  """Where films leave their files.

  Attributes:
    folder: of all of them.
    with_dicom_seg: masks are written as DICOM SEG, too.
  """

  folder: pathlib.Path
  with_dicom_seg: bool

  def expected(self, reading: Reading) -> list[pathlib.Path]:
    """What there is to be of an assessed film; masks of positive ones alone."""
    paths = [self._picture(reading.name)]
    if reading.area:
      paths.append(self._mask(reading.name))
      # Where there could be none, `detail` says why.
      if self.with_dicom_seg and not reading.detail:
        paths.append(self._dicom_seg(reading.name))
    return paths

  def write(self, source: Source, case: Case, versions: dict[str, str]) -> str:
    """Writes a film's files; returns why there is no DICOM SEG, if so."""
    self.remove(source.name)
    picture = draw.caption(overlay(case, PICTURE_SIZE), [RESEARCH_ONLY])
    files.write(self._picture(source.name), draw.encoded(picture, '.jpg'))
    if not case.mask.any():
      return ''
    png = cv2.imencode('.png', case.mask.view(np.uint8) * 255)[1]
    files.write(self._mask(source.name), png.tobytes())
    if not self.with_dicom_seg:
      return ''
    path = self._dicom_seg(source.name)
    with files.explained(path):
      path.parent.mkdir(exist_ok=True)
      try:
        dicom_seg.write(source.path, case.mask, path, **versions)
      except UserError as error:
        return str(error)
    return ''

  def remove(self, name: str) -> None:
    """Removes a film's files: what its file held before is gone."""
    for path in (self._picture(name), self._mask(name), self._dicom_seg(name)):
      with files.explained(path):
        path.unlink(missing_ok=True)

  @property
  def pictures(self) -> pathlib.Path:
    return self.folder / 'pictures'

  def _picture(self, name: str) -> pathlib.Path:
    return self.pictures / f'{name}.jpg'

  def _mask(self, name: str) -> pathlib.Path:
    return self.folder / 'masks' / f'{name}.png'

  def _dicom_seg(self, name: str) -> pathlib.Path:
    return self.folder / 'dicom_seg' / f'{name}.dcm'
