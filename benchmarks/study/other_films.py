"""The study's films, and others beside them.

    python -m benchmarks.study.other_films --real_data=DIR --films=nih \\
        --data_dir=data/study --output=data/study_nih

A manifest and a build of it; every film of the study stays in its fold.

--films        others                                        split
nih            NIH's, of no patient of the study and not in  `unlabeled`
               the second test set (`nih_films.usable`)
nih_negatives  those of them that NIH's labels do not call   a fold that is
               a pneumothorax, as negatives                  trained on
test           the second test set's, except those that are  `unlabeled`
               known to show patients of the study
"""

import csv
import pathlib
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence

from absl import app, flags

from benchmarks.study import nih_films, plan
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


def others(
  real_data: pathlib.Path, films: str, *, held_out: int
) -> Iterator[tuple[str, ...]]:
  """Yields the rows of other films.

  Args:
    real_data: Holds siim_study, siim_stage2_320 and nih_labelled.
    films: 'nih', 'nih_negatives' or 'test'.
    held_out: The fold that is not trained on.
  """
  unlabeled = ('', '', '')
  if films == 'test':
    left_out = nih_films.tested_patients(real_data)
    for path in sorted(
      (real_data.resolve() / 'siim_stage2_320').rglob('*.dcm')
    ):
      if path.stem not in left_out:
        yield str(path), path.stem, path.stem, 'test', *unlabeled
    return
  folder = real_data.resolve() / 'nih_labelled' / 'images'
  negative = (str(plan.trained_fold(held_out)), '0', '')
  for row in nih_films.usable(real_data):
    film = (
      str(folder / f'{row["image_id"]}.jpg'),
      row['image_id'],
      row['patient'],
      'nih',
    )
    if films == 'nih':
      yield *film, *unlabeled
    elif 'Pneumothorax' not in row['nih_labels'].split('|'):
      yield *film, *negative


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
  rows = others(real_data, values.films, held_out=values.fold)
  build([*annotated(real_data, folds), *rows], values.output)


if __name__ == '__main__':
  flags.DEFINE_string('real_data', None, 'Folder of the films.')
  flags.DEFINE_enum('films', 'nih', plan.OTHER_FILMS, 'Beside the study.')
  flags.DEFINE_integer('fold', 0, 'That is not trained on.')
  flags.DEFINE_string('data_dir', 'data/study', "The study's records.")
  flags.DEFINE_string('output', 'data/study_nih', 'For the records.')
  flags.mark_flag_as_required('real_data')
  app.run(main)
