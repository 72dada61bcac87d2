"""The csv that maps images to patients."""

import os
import re

from pnx_jax.errors import UserError
from pnx_jax.formats import files

_NIH_FILE = re.compile(r'(\d{8})_\d{3}(\.png)?')
_MASK = re.compile(r'encodedpixels|-1|\d+(\s+\d+)+', re.IGNORECASE)


def read_patient_map(path: str | os.PathLike[str]) -> dict[str, str]:
  """Reads `image id, patient` rows (a header and .gz are fine).

  Names of NIH ChestX-ray14 files (`00002563_000.png`) become the patient they
  start with.
  """
  patients = {}
  for number, row in files.csv_rows(path):
    if len(row) < 2 or not row[0] or not row[1]:
      raise UserError(
        f'{path}, line {number}: expected "image id,patient", got {row}'
      )
    if _MASK.fullmatch(row[1]):
      raise UserError(
        f'{path}, line {number}: {row[1][:20]!r} is a mask, not a patient: '
        'name a csv of "image id,patient" with --patient_map'
      )
    if number == 1 and row[0].lower().endswith('id'):
      continue
    nih = _NIH_FILE.fullmatch(row[1])
    patient = nih[1] if nih else row[1]
    if patients.setdefault(row[0], patient) != patient:
      raise UserError(
        f'{path}, line {number}: {row[0]} has two patients, '
        f'{patients[row[0]]} and {patient}: leave one'
      )
  return patients
