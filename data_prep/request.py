"""What a build is asked for."""

import dataclasses

from data_prep import prepare
from pnx_jax.formats import dicom


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """What to build from what; the flags of the same names explain it."""

  dicom_dir: str
  rle_csv: str
  output_dir: str
  test_dicom_dir: str | None = None
  patient_map: str | None = None
  image_size: int = 1024
  window: str = 'auto'
  accept_modality: tuple[str, ...] = dicom.RADIOGRAPHY
  accept_body_part: tuple[str, ...] = dicom.CHEST
  num_folds: int = 5
  seed: int = 0
  on_bad_file: str = 'reject'
  overwrite: bool = False
  num_workers: int = 1
  beam_runner: str | None = None
  beam_options: str = ''

  @property
  def inputs(self) -> list[str]:
    """The files and folders to read."""
    paths = self.dicom_dir, self.test_dicom_dir, self.rle_csv, self.patient_map
    return [path for path in paths if path]

  @property
  def options(self) -> prepare.Options:
    return prepare.Options(
      self.image_size, self.window, self.accept_modality, self.accept_body_part
    )
