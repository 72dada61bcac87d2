"""Which of NIH's labeled films may be learned from.

    python -m benchmarks.study.nih_films --real_data=DIR

counts them. Left out are films of the study's patients and those that also lie
in the second test set, which fingerprints find. The same films tell how many of
the second test set show patients of the study.
"""

import csv
import gzip
import pathlib

import cv2
import numpy as np
from absl import app, flags

from data_prep import near_duplicates
from pnx_jax.formats import dicom

Rows = list[dict[str, str]]


def pixels(real_data: pathlib.Path, row: dict[str, str]) -> np.ndarray:
  """The film of a row, uint8[H, W]."""
  path = real_data / 'nih_labelled' / 'images' / f'{row["image_id"]}.jpg'
  return cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)


def usable(real_data: pathlib.Path) -> Rows:
  """The rows of labels.csv that may be learned from."""
  _, others = _by_patient(real_data)
  copies = _copies(real_data, others)
  return [row for row in others if row['image_id'] not in copies]


def tested_patients(real_data: pathlib.Path) -> set[str]:
  """The films of the second test set that are known to show study patients.

  Known are those of which NIH's labeled films hold a copy.
  """
  studied, _ = _by_patient(real_data)
  return _copies(real_data, studied) - {row['image_id'] for row in studied}


def expected_tested(real_data: pathlib.Path) -> float:
  """How many films of the second test set should show study patients.

  The share of NIH's labeled films of these patients that lie in it, times the
  films that the patients have outside the competition's training set: at least
  as many as their highest film number says.
  """
  studied, _ = _by_patient(real_data)
  with gzip.open(real_data / 'labels' / 'nih_id.csv.gz', 'rt') as file:
    trained = [
      row['NIH_ID'].removesuffix('.png') for row in csv.DictReader(file)
    ]
  patients = _patients(real_data)
  trained = [film for film in trained if film.split('_')[0] in patients]
  counts: dict[str, int] = {}
  for film in (*trained, *(row['image_id'] for row in studied)):
    patient, number = film.split('_')
    counts[patient] = max(counts.get(patient, 0), int(number) + 1)
  share = len(tested_patients(real_data)) / len(studied)
  return share * (sum(counts.values()) - len(trained))


def _patients(real_data: pathlib.Path) -> set[str]:
  """Of the study."""
  with (real_data / 'siim_study' / 'nih_id.csv').open(newline='') as file:
    return {row['NIH_ID'].split('_')[0] for row in csv.DictReader(file)}


def _by_patient(real_data: pathlib.Path) -> tuple[Rows, Rows]:
  """The rows of labels.csv: of patients of the study, and of others."""
  patients = _patients(real_data)
  studied, others = [], []
  with (real_data / 'nih_labelled' / 'labels.csv').open(newline='') as file:
    for row in csv.DictReader(file):
      (studied if row['patient'] in patients else others).append(row)
  return studied, others


def _copies(real_data: pathlib.Path, rows: Rows) -> set[str]:
  """The ids of NIH's films and of the second test set's that are the same."""
  prints = {
    row['image_id']: near_duplicates.fingerprint(pixels(real_data, row))
    for row in rows
  }
  test = {
    path.stem: near_duplicates.fingerprint(dicom.read(path).pixels)
    for path in sorted((real_data / 'siim_stage2_320').rglob('*.dcm'))
  }
  return {
    image_id
    for group in near_duplicates.near_duplicates({**prints, **test})
    if not (test.keys().isdisjoint(group) or prints.keys().isdisjoint(group))
    for image_id in group
  }


def main(_) -> None:
  real_data = pathlib.Path(flags.FLAGS.real_data)
  studied, others = _by_patient(real_data)
  left = usable(real_data)
  print(
    f'{len(studied) + len(others)} labeled films of NIH; {len(studied)} show '
    f'patients of the study, {len(others) - len(left)} of the others lie in '
    f'the second test set; {len(left)} films of '
    f'{len({row["patient"] for row in left})} patients are left.'
  )
  print(
    f'{len(tested_patients(real_data))} films of the second test set are known '
    f'to show patients of the study, {expected_tested(real_data):.0f} are '
    'expected to.'
  )


if __name__ == '__main__':
  flags.DEFINE_string('real_data', None, 'Folder of the films.')
  flags.mark_flag_as_required('real_data')
  app.run(main)
