"""The study's films, and films of NIH beside them without their labels.

    python -m benchmarks.study.unlabeled --real_data=DIR \\
        --data_dir=data/study --output=data/study_unlabeled

A manifest and a build of it: every film of the study stays in its fold, and the
films that `pretrain.chosen` allows (of no patient of the study, not in the
second test set) become the split `unlabeled`.
"""

import csv
import pathlib
import subprocess
import sys
from collections.abc import Iterator

from absl import app, flags

from benchmarks.study import plan, pretrain
from pnx_jax.formats import built_dataset, files, rle

COLUMNS = ('path', 'image_id', 'patient', 'source', 'split', 'label', 'rle')


def rows(
  real_data: pathlib.Path, folds: dict[str, int]
) -> Iterator[tuple[str, ...]]:
  """Yields the rows of the manifest.

  Args:
    real_data: Holds siim_study, siim_stage2_320 and nih_labelled.
    folds: Of each film of the study.
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
  folder = real_data.resolve() / 'nih_labelled' / 'images'
  for row in pretrain.chosen(real_data):
    path = folder / f'{row["image_id"]}.jpg'
    yield str(path), row['image_id'], row['patient'], 'nih', '', '', ''


def main(_) -> None:
  values = flags.FLAGS
  manifest = pathlib.Path(f'{values.output}.csv')
  folds = built_dataset.folds_of(values.data_dir)
  files.write_csv(
    manifest, COLUMNS, rows(pathlib.Path(values.real_data), folds)
  )
  subprocess.run(
    [
      *(sys.executable, '-m', 'data_prep.build'),
      *(f'--manifest={manifest}', f'--output_dir={values.output}'),
      f'--image_size={plan.RECORD_SIZE}',
    ],
    check=True,
  )


if __name__ == '__main__':
  flags.DEFINE_string('real_data', None, 'Folder of the films.')
  flags.DEFINE_string('data_dir', 'data/study', "The study's records.")
  flags.DEFINE_string('output', 'data/study_unlabeled', 'For the records.')
  flags.mark_flag_as_required('real_data')
  app.run(main)
