"""Real films, masks of one source and labels of another: build to audit.

    python -m benchmarks.real_sources --real_data=... --folder=/tmp/sources

`--real_data` holds `siim_study` (DICOM files, run lengths) and `nih_labelled`
(JPEG files, image labels). A film without the finding has an empty mask, a
film with it and no mask has its label alone. Builds, trains, evaluates, and
prints the seconds that each takes, metrics with the films behind them, and
how far the sources can be distinguished, also by the network. 50 steps teach it
next to nothing.
"""

import csv
import json
import pathlib
import time
from collections.abc import Iterator
from contextlib import contextmanager

from absl import app, flags

from data_prep import dataset, source_audit
from data_prep.request import Request
from pnx_jax import config as schema
from pnx_jax.evaluation.evaluate import evaluate
from pnx_jax.formats import files, rle
from pnx_jax.training.train import train

_REAL_DATA = flags.DEFINE_string('real_data', None, 'Films.', required=True)
_FOLDER = flags.DEFINE_string('folder', None, 'Build and run.', required=True)
_SIZE = flags.DEFINE_integer('image_size', 128, 'Side of the records.')
_STEPS = flags.DEFINE_integer('steps', 50, 'Steps of the training.')

_FILMS_OF_AUDIT = 450  # of each source

_REPORTED = ('num_', 'dice', 'auc', 'all_empty_dice')

_HEADER = ('path', 'image_id', 'patient', 'source', 'label', 'rle')


def main(_):
  folder = pathlib.Path(_FOLDER.value)
  data_dir = folder / 'data'
  if not data_dir.exists():
    real = pathlib.Path(_REAL_DATA.value).absolute()
    table = folder / 'films.csv'
    rows = [*_with_masks(real / 'siim_study'), *_labels(real / 'nih_labelled')]
    files.write_csv(table, _HEADER, rows)
    with _timed('build'):
      report = dataset.build(
        Request(
          manifest=str(table),
          output_dir=str(data_dir),
          image_size=_SIZE.value,
          num_workers=1,
        )
      )
    print({name: report[name] for name in ('written', 'truth', 'sources')})
  config = schema.get_config()
  config.update_from_flattened_dict(
    {
      'data_dir': str(data_dir),
      'image_size': _SIZE.value,
      'total_steps': _STEPS.value,
      'positive_share': ((0, 0.5),),
      'source_weights': 'siim=1,nih=1',
      'model.width': 8,
      'optimizer.ema_decay': 0.9,
      'eval_epochs': 1000.0,
      'read_threads': 2,
      'eval.bootstrap': 200,
      'eval.num_overlays': 0,
    }
  )
  with _timed('training'):
    train(config, folder / 'run')
  with _timed('evaluation'):
    metrics = evaluate(config, folder / 'run')
  numbers = {
    name: value
    for name, value in metrics.items()
    if (name.startswith('source=') or '/' not in name)
    and name.split('/')[-1].startswith(_REPORTED)
  }
  print(json.dumps(numbers, indent=2))
  with _timed('audit'):
    audited = source_audit.run(
      data_dir,
      image_size=_SIZE.value,
      most_films=_FILMS_OF_AUDIT,
      predictions=str(folder / 'run' / 'eval' / 'per_image.csv'),
    )
  print(source_audit.text(audited))


@contextmanager
def _timed(what: str) -> Iterator[None]:
  began = time.perf_counter()
  yield
  print(f'{what}: {time.perf_counter() - began:.0f} s', flush=True)


def _with_masks(folder):
  """A row of the manifest per annotation."""
  with (folder / 'nih_id.csv').open() as file:
    patients = {
      row['Kaggle_ID']: row['NIH_ID'].split('_')[0]
      for row in csv.DictReader(file)
    }
  for image_id, annotations in rle.read_csv(folder / 'train-rle.csv').items():
    path = folder / 'dicom-images' / f'{image_id}.dcm'
    for text in annotations or ['']:
      label = int(bool(annotations))
      yield path, image_id, patients[image_id], 'siim', label, text


def _labels(folder):
  """A row of the manifest per film."""
  with (folder / 'labels.csv').open() as file:
    for row in csv.DictReader(file):
      path = folder / 'images' / f'{row["image_id"]}.jpg'
      label = int('Pneumothorax' in row['nih_labels'].split('|'))
      yield path, row['image_id'], row['patient'], 'nih', label, ''


if __name__ == '__main__':
  app.run(main)
