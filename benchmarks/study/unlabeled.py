"""The study's films, and others beside them without their labels.

    python -m benchmarks.study.unlabeled --real_data=DIR --films=nih \\
        --data_dir=data/study --output=data/study_nih

A manifest and a build of it: every film of the study stays in its fold, others
become the split `unlabeled`. With `--films=nih` those are the films that
`pretrain.chosen` allows (of no patient of the study, not in the second test
set), with `--films=test` those of the second test set: about a fifth of them
should show a pneumothorax, of NIH's hardly any.
"""

import csv
import pathlib
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence

from absl import app, flags

from benchmarks.study import plan, pretrain
from pnx_jax.formats import built_dataset, files, rle

COLUMNS = ('path', 'image_id', 'patient', 'source', 'split', 'label', 'rle')


def annotated(
  real_data: pathlib.Path, folds: dict[str, int]
) -> Iterator[tuple[str, ...]]:
  """Yields the rows of the study's films.

  Args:
    real_data: Holds siim_study.
    folds: Of each film.
  """
  study = real_data.resolve() / 'siim_study'
  with (study / 'nih_id.csv').open(newline='') as file:
    patients = {
      row['Kaggle_ID']: row['NIH_ID'].split('_')[0]
      for row in csv.DictReader(file)
    }
  annotations = rle.read_csv(study / 'train-rle.csv')
  for image_id, fold in sorted(folds.items()):
    film = (
      str(study / 'dicom-images' / f'{image_id}.dcm'),
      image_id,
      patients[image_id],
      'siim',
      str(fold),
    )
    for mask in annotations[image_id]:
      yield (*film, '1', mask)
    if not annotations[image_id]:
      yield (*film, '0', '')


def unannotated(
  real_data: pathlib.Path, films: str
) -> Iterator[tuple[str, ...]]:
  """Yields rows without a label: path, id, patient, source, no split.

  Args:
    real_data: Holds siim_study, siim_stage2_320 and nih_labelled.
    films: 'nih' or 'test'.
  """
  if films == 'test':
    for path in sorted(
      (real_data.resolve() / 'siim_stage2_320').rglob('*.dcm')
    ):
      yield str(path), path.stem, path.stem, films, '', '', ''
    return
  folder = real_data.resolve() / 'nih_labelled' / 'images'
  for row in pretrain.chosen(real_data):
    path = folder / f'{row["image_id"]}.jpg'
    yield str(path), row['image_id'], row['patient'], films, '', '', ''


def build(
  rows: Iterable[tuple[str, ...]],
  output: str,
  columns: Sequence[str] = COLUMNS,
) -> None:
  """Writes a manifest beside `output` and builds the records from it."""
  manifest = pathlib.Path(f'{output}.csv')
  files.write_csv(manifest, columns, rows)
  subprocess.run(
    [
      *(sys.executable, '-m', 'data_prep.build'),
      *(f'--manifest={manifest}', f'--output_dir={output}'),
      f'--image_size={plan.RECORD_SIZE}',
    ],
    check=True,
  )


def main(_) -> None:
  values = flags.FLAGS
  real_data = pathlib.Path(values.real_data)
  folds = built_dataset.folds_of(values.data_dir)
  others = unannotated(real_data, values.films)
  build([*annotated(real_data, folds), *others], values.output)


if __name__ == '__main__':
  flags.DEFINE_string('real_data', None, 'Folder of the films.')
  flags.DEFINE_enum('films', 'nih', ['nih', 'test'], 'Beside the study.')
  flags.DEFINE_string('data_dir', 'data/study', "The study's records.")
  flags.DEFINE_string('output', 'data/study_nih', 'For the records.')
  flags.mark_flag_as_required('real_data')
  app.run(main)
