"""MIMIC-CXR-JPG (Johnson et al., 2019), version 2.

Reads `mimic-cxr-2.0.0-metadata.csv`, `-chexpert.csv` and `-split.csv`, gzipped
or not. Labels are those of a study; the same holds for all its films.
"""

import os

from data_prep.public import layout

_PREFIX = 'mimic-cxr-2.0.0-'
_FRONTAL = ('AP', 'PA')


def read(root: str, options: layout.Options) -> layout.Found:
  """Returns the rows of a manifest: labels of frontal films."""
  found = layout.Found()
  labels = {
    (entry['subject_id'], entry['study_id']): layout.label(
      entry, 'Pneumothorax', options
    )
    for entry in layout.table(
      layout.path_of(root, f'{_PREFIX}chexpert.csv'),
      ('subject_id', 'study_id', 'Pneumothorax'),
    )
  }
  split = {
    entry['dicom_id']: entry['split']
    for entry in layout.table(
      layout.path_of(root, f'{_PREFIX}split.csv'), ('dicom_id', 'split')
    )
  }
  metadata = layout.path_of(root, f'{_PREFIX}metadata.csv')
  columns = ('dicom_id', 'subject_id', 'study_id', 'ViewPosition')
  missing = lateral = 0
  for entry in layout.table(metadata, columns):
    view = entry['ViewPosition']
    if not view.startswith(_FRONTAL):
      lateral += 1
      continue
    subject, study = entry['subject_id'], entry['study_id']
    path = os.path.join(
      *(root, 'files', f'p{subject[:2]}', f'p{subject}', f's{study}'),
      f'{entry["dicom_id"]}.jpg',
    )
    if not os.path.isfile(path):
      missing += 1
      continue
    found.rows.append(
      {
        'path': path,
        'image_id': entry['dicom_id'],
        'patient': f'mimic-p{subject}',
        'source': 'mimic_cxr_jpg',
        'split': 'test' if split.get(entry['dicom_id']) == 'test' else '',
        'label': labels.get((subject, study), options.unmentioned),
        'view': view,
      }
    )
  found.note(lateral, 'films that are not AP or PA were left out')
  found.note(missing, 'films of the tables are not below the root')
  return found
