"""CANDID-PTX (Feng et al., 2021): films with run lengths as in the challenge.

Reads `Pneumothorax_reports.csv` (`SOPInstanceUID`, `EncodedPixels`, and
`filename`, which begins with the number of the patient); films are named after
their SOPInstanceUID, with or without an ending. Reports are not copied.
"""

from data_prep.public import layout
from pnx_jax.formats import rle

_SIZE = '1024 1024'


def read(root: str, options: layout.Options) -> layout.Found:
  """Returns the rows of a manifest: run lengths of each annotation."""
  del options
  found = layout.Found()
  films = layout.films(root)
  table = layout.path_of(root, 'Pneumothorax_reports.csv')
  missing = unknown = 0
  for entry in layout.table(table, ('SOPInstanceUID', 'EncodedPixels')):
    name = entry['SOPInstanceUID'].removesuffix('.dcm')
    if name not in films:
      missing += 1
      continue
    text = entry['EncodedPixels']
    patient = entry.get('filename', '').split('_')[0]
    unknown += not patient
    found.rows.append(
      {
        'path': films[name],
        'image_id': name,
        'patient': f'candid-{patient}' if patient else '',
        'source': 'candid_ptx',
        'rle': rle.EMPTY if text and rle.is_empty(text) else text,
        'annotation_size': _SIZE,
      }
    )
  found.note(missing, 'films of the table are not below the root')
  found.note(unknown, 'rows do not name a patient')
  return found
