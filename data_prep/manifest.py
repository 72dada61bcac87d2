"""Manifests of public datasets, from their own tables as they are shipped.

  python -m data_prep.manifest --dataset=nih --root=ChestXray-NIHCC \\
      --output=films.csv

writes a csv for `python -m data_prep.build --manifest=films.csv`. Each module
of `data_prep.public` is one dataset.
"""

import importlib
import os
from collections.abc import Iterable, Sequence

from absl import app, flags

from data_prep import manifest_reader
from data_prep.public import layout
from pnx_jax.cli import one_line, parse_flags
from pnx_jax.errors import UserError
from pnx_jax.formats import files

DATASETS = (
  *('nih', 'chexpert', 'vindr', 'candid_ptx', 'ptx498'),
  *('chestx_det', 'mimic_cxr_jpg', 'siim'),
)
_FILES = ('path', 'mask')


def read(
  dataset: str, root: str, options: layout.Options | None = None
) -> layout.Found:
  """Returns the rows of a dataset's manifest, whose paths are not relative.

  Args:
    dataset: One of `DATASETS`.
    root: The folder of the dataset.
    options: How to treat what the dataset leaves open.

  Raises:
    UserError: The folder lacks a table, or it holds no film of it.
  """
  if not os.path.isdir(root):
    raise UserError(f'--root={root} is not a folder')
  reader = importlib.import_module(f'data_prep.public.{dataset}')
  found: layout.Found = reader.read(root, options or layout.Options())
  if not found.rows:
    raise UserError(
      f'--root={root}: none of the films of {dataset} was found; '
      f'{"; ".join(found.notes)}'
    )
  return found


def write(rows: Iterable[layout.Row], output: str) -> None:
  """Writes a manifest; its paths are relative to it."""
  rows = list(rows)
  used = {name for row in rows for name, cell in row.items() if cell}
  columns = [name for name in manifest_reader.COLUMNS if name in used]
  columns += sorted(used - set(columns))
  folder = os.path.dirname(os.path.abspath(output))

  def cell(row: layout.Row, name: str) -> str:
    text = row.get(name, '')
    if text and name in _FILES:
      return os.path.relpath(os.path.abspath(text), folder)
    return text

  files.write_csv(
    output,
    columns,
    ([cell(row, name) for name in columns] for row in rows),
    escape=False,
  )


def main(argv: Sequence[str]) -> None:
  del argv
  values = flags.FLAGS
  with one_line():
    found = read(
      values.dataset,
      values.root,
      layout.Options(
        uncertain=values.uncertain,
        unmentioned=values.unmentioned,
        min_readers=values.min_readers,
        nih_table=values.nih_table,
      ),
    )
    write(found.rows, values.output)
  films = {row['image_id']: row for row in found.rows}
  labels = [row.get('label', '') for row in films.values()]
  print(
    f'{values.output}: {len(films)} films in {len(found.rows)} rows; label 1 '
    f'{labels.count("1")}, 0 {labels.count("0")}, none {labels.count("")}'
  )
  for note in found.notes:
    print(note)


def _define_flags() -> None:
  flags.DEFINE_enum('dataset', None, DATASETS, 'Name of the dataset.')
  flags.DEFINE_string('root', None, 'Folder of the dataset.')
  flags.DEFINE_string('output', None, 'Manifest to write, a .csv.')
  flags.DEFINE_enum(
    'uncertain',
    '',
    ['', '0', '1'],
    'Label of films whose finding is uncertain; none by default.',
  )
  flags.DEFINE_enum(
    'unmentioned',
    '',
    ['', '0'],
    'Label of films whose report does not mention the finding; none by '
    'default.',
  )
  flags.DEFINE_integer(
    'min_readers',
    1,
    'VinDr: number of readers with a box that a label of 1 needs.',
    lower_bound=1,
  )
  flags.DEFINE_string(
    'nih_table',
    '',
    'SIIM: the file Data_Entry_2017.csv, for the true pixel spacing.',
  )
  flags.mark_flags_as_required(['dataset', 'root', 'output'])


if __name__ == '__main__':
  _define_flags()
  app.run(main, flags_parser=parse_flags)
