"""What a build is asked for."""

import dataclasses
import os
import shlex

from data_prep import prepare
from pnx_jax import pool
from pnx_jax.formats import dicom
from pnx_jax.storage import local


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """What to build from what; the build's flags of the same names explain it."""

  output_dir: str
  dicom_dir: str | None = None
  rle_csv: str | None = None
  manifest: str | None = None
  keep_columns: tuple[str, ...] = ()
  test_dicom_dir: str | None = None
  patient_map: str | None = None
  patient_key: str | None = None
  image_size: int = 1024
  window: str = 'auto'
  accept_modality: tuple[str, ...] = dicom.RADIOGRAPHY
  accept_body_part: tuple[str, ...] = dicom.CHEST
  keep_test_copies: bool = False
  num_folds: int = 5
  seed: int = 0
  on_bad_file: str = 'reject'
  overwrite: bool = False
  num_workers: int = 1
  seconds_per_film: float = pool.Limits().seconds
  gib_per_film: float = pool.Limits().gib
  beam_runner: str | None = None
  beam_options: str = ''

  @property
  def inputs(self) -> list[str]:
    """The files and folders to read."""
    folders = self.dicom_dir, self.test_dicom_dir
    tables = (
      *(self.rle_csv, self.patient_map, self.patient_key),
      self.manifest,
    )
    return [path for path in (*folders, *tables) if path]

  @property
  def key_file(self) -> str:
    """The file with the secret that keys the digests of patients."""
    if self.patient_key:
      return os.path.realpath(self.patient_key)
    beside = os.path.dirname(os.path.realpath(self.output_dir))
    return os.path.join(beside, '.patient_key')

  @property
  def options(self) -> prepare.RecordOptions:
    """What decides the content of the records."""
    return prepare.RecordOptions(
      self.image_size,
      self.window,
      self.accept_modality,
      self.accept_body_part,
      # Films that a manifest names are wanted, whatever is known of them.
      with_unlabeled=bool(self.manifest),
    )

  @property
  def retry(self) -> str:
    """The command that repeats the build with more memory and time per film."""
    wanted = dataclasses.replace(
      self,
      overwrite=True,
      num_workers=1,
      seconds_per_film=4 * self.seconds_per_film,
      gib_per_film=2 * self.gib_per_film,
    )
    words = [
      f'--{field.name}={_as_flag(getattr(wanted, field.name))}'
      for field in dataclasses.fields(self)
      if getattr(wanted, field.name) != field.default
      or field.name == 'num_workers'  # The flag has another default.
    ]
    return shlex.join(['python', '-m', 'data_prep.build', *words])

  @property
  def limits(self) -> pool.Limits:
    """What one film may take of its worker."""
    return pool.Limits(self.seconds_per_film, self.gib_per_film)


def _as_flag(value: object) -> str:
  if isinstance(value, tuple):
    return ','.join(value)
  return local.origin(str(value))
