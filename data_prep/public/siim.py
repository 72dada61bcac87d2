"""The SIIM-ACR challenge (Kaggle, 2019), stage 1 or 2.

Reads `train-rle.csv` or `stage_2_train.csv`, `nih_id.csv` (the true patients)
where that is there, and films below `dicom-images-train` and
`dicom-images-test` or `stage_2_images`. The headers have the pixel spacing of
the originals, not their size: `--nih_table` names NIH's table, which has both.
"""

import os

from data_prep import folds
from data_prep.public import layout, nih
from pnx_jax.errors import UserError
from pnx_jax.formats import dicom, files, refusals, rle

_PARTS = (
  ('', ('dicom-images-train', 'dicom-images')),
  ('test', ('dicom-images-test', 'stage_2_images')),
)


def read(root: str, options: layout.Options) -> layout.Found:
  """Returns the rows of a manifest: a row for every annotation."""
  found = layout.Found()
  annotations = rle.read_csv(
    layout.path_of(root, 'train-rle.csv', 'stage_2_train.csv')
  )
  map_path = layout.path_of(root, 'nih_id.csv', required=False)
  patients = folds.read_patient_map(map_path) if map_path else {}
  originals = _originals(map_path, options.nih_table)
  unlabeled = without_spacing = 0
  for split, names in _PARTS:
    folder = next(
      (each for each in names if os.path.isdir(os.path.join(root, each))), ''
    )
    paths = dicom.find(os.path.join(root, folder)) if folder else ()
    for path in sorted(paths):
      name = dicom.image_id_of(path)
      row = {
        'path': path,
        'image_id': name,
        'patient': patients.get(name, ''),
        'source': 'siim',
        'split': split,
      }
      if name in originals:
        row['pixel_spacing_mm'] = _spacing(path, originals[name])
      without_spacing += not row.get('pixel_spacing_mm')
      if split or name not in annotations:
        unlabeled += not split
        found.rows.append(row)
        continue
      texts = annotations[name] or [rle.EMPTY]
      found.rows += [{**row, 'rle': text} for text in texts]
  if not found.rows:
    raise UserError(f'--root={root} has no film in dicom-images-train')
  found.note(unlabeled, 'training films have no annotation')
  if options.nih_table:
    found.note(without_spacing, 'films are not in the table of NIH')
  return found


def _originals(map_path: str, table: str) -> dict[str, dict[str, str]]:
  """Returns the rows of NIH's table by image id."""
  if not map_path or not table:
    return {}
  by_file = {entry['Image Index']: dict(entry) for entry in nih.entries(table)}
  return {
    row[0]: by_file[row[1]]
    for _, row in files.csv_rows(map_path)
    if len(row) > 1 and row[1] in by_file
  }


def _spacing(path: str, entry: dict[str, str]) -> str:
  header = refusals.attempt(dicom.read_header, path)
  if isinstance(header, refusals.Refusal):
    return ''
  return nih.scaled_spacing(entry, header.height, header.width)
