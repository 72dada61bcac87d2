"""CheXpert (Irvin et al., 2019): `train.csv` and `valid.csv`.

The films of `valid.csv`, labeled by radiologists, become the test split.
"""

import os
from collections.abc import Mapping

from data_prep.public import layout

_COLUMNS = ('Path', 'Sex', 'Age', 'Frontal/Lateral', 'AP/PA', 'Pneumothorax')


def read(root: str, options: layout.Options) -> layout.Found:
  """Returns the rows of a manifest: labels of frontal films."""
  found = layout.Found()
  missing = lateral = 0
  for name, split in (('train.csv', ''), ('valid.csv', 'test')):
    table = layout.path_of(root, name, required=not split)
    for entry in layout.table(table, _COLUMNS) if table else ():
      if entry['Frontal/Lateral'] != 'Frontal':
        lateral += 1
        continue
      path = _path(root, entry)
      if not os.path.isfile(path):
        missing += 1
        continue
      found.rows.append(_row(entry, path, split, options))
  found.note(lateral, 'lateral films were left out')
  found.note(missing, 'films of the tables are not below the root')
  return found


def _row(
  entry: Mapping[str, str], path: str, split: str, options: layout.Options
) -> layout.Row:
  patient, study, film = entry['Path'].split('/')[-3:]
  return {
    'path': path,
    'image_id': f'{patient}_{study}_{os.path.splitext(film)[0]}',
    'patient': f'chexpert-{patient}',
    'source': 'chexpert',
    'split': split,
    'label': layout.label(entry, 'Pneumothorax', options),
    'view': entry['AP/PA'],
    'sex': entry['Sex'] if entry['Sex'] in ('Female', 'Male') else '',
    'age': entry['Age'],
  }


def _path(root: str, entry: Mapping[str, str]) -> str:
  """Returns where a film lies; paths begin with the dataset's own folder."""
  return os.path.join(root, *entry['Path'].split('/')[1:])
