"""What labels without masks add to a training: two synthetic sources.

    python -m benchmarks.truths --folder=/tmp/truths

Source `a` has a mask for every positive film; `b`, whose films were compressed
as JPEG, has masks for 10 % of its positives. Five trainings of as many steps
and of one batch size are validated on the same films of both sources, whose
masks are all known:

* masks: without the positives of `b` that have no mask;
* unbalanced: these positives give their labels to the presence head; half of
  the films shown are positive, so that few of those with a mask are;
* mixed: the same, with half of the films with a mask positive;
* apart: as mixed, but they are a source of their own, which gives a third of
  the positives, so that four fifths of a batch still train the mask;
* all: these positives have masks too, the best that is possible.

Finished runs are not repeated: `--arms=mixed --seeds=0` makes one of them. The
table is of all runs in the folder.
"""

import json
import pathlib
import statistics

import cv2
import numpy as np
from absl import app, flags

from data_prep import dataset
from data_prep.phantom import generate
from data_prep.request import Request
from pnx_jax import config as schema
from pnx_jax.formats import dicom, rle
from pnx_jax.training.train import train

_POSITIVE_SHARE = {
  'masks': 0.5,
  'unbalanced': 0.5,
  'mixed': 0.8,
  'apart': 0.6,
  'all': 0.5,
}
_LABELS_ALONE = ('unbalanced', 'mixed', 'apart')

_FOLDER = flags.DEFINE_string('folder', None, 'Films and runs.', required=True)
_ARMS = flags.DEFINE_list('arms', list(_POSITIVE_SHARE), 'Trainings.')
_SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2'], 'Seeds of the trainings.')
_STEPS = flags.DEFINE_integer('steps', 1000, 'Steps of a training.')

_SIZE, _DRAWN_SIZE = 64, 128
_FILMS = {'a': 160, 'b': 800}
_PREVALENCE = 0.5
_MASKED_SHARE = 0.1
_VALIDATED_SHARE = 0.3
_METRICS = ('dice', 'dice_positive', 'auc')


def main(_):
  folder = pathlib.Path(_FOLDER.value)
  films = folder / 'films.json'
  if not films.exists():
    films.parent.mkdir(parents=True, exist_ok=True)
    films.write_text(json.dumps(_films(folder)))
  for seed in _SEEDS.value:
    for arm in _ARMS.value:
      _run(folder, json.loads(films.read_text()), arm, int(seed))
  _print(folder)


def _films(folder):
  """Draws the films; returns a row of a manifest for each."""
  random = np.random.default_rng(0)
  rows = []
  for number, (source, count) in enumerate(_FILMS.items()):
    drawn = folder / f'drawn_{source}'
    request = generate.PhantomSet(count, 0, _PREVALENCE, number, _DRAWN_SIZE)
    generate.write(request, drawn, 2)
    masks = rle.read_csv(drawn / 'train-rle.csv')
    patients = dict(
      line.split(',')[:2]
      for line in (drawn / 'nih_id.csv').read_text().splitlines()[1:]
    )
    validated = {
      patient
      for patient in sorted({x.split('_')[0] for x in patients.values()})
      if random.random() < _VALIDATED_SHARE
    }
    for path in sorted(drawn.rglob('*.dcm')):
      name = dicom.image_id_of(path)
      picture = folder / f'{source}_{name}.{"png" if source == "a" else "jpg"}'
      quality = [] if source == 'a' else [cv2.IMWRITE_JPEG_QUALITY, 85]
      cv2.imwrite(str(picture), dicom.read(path).pixels, quality)
      patient = patients[name].split('_')[0]
      held_out = patient in validated
      positive = bool(masks[name])
      whole = source == 'a' or held_out or random.random() < _MASKED_SHARE
      for text in masks[name] or ['']:
        rows.append(
          {
            'path': picture.name,
            'patient': f'{source}{patient}',
            'source': source,
            'split': 'fold0' if held_out else 'fold1',
            'label': int(positive),
            'rle': text,
            'kind': 'mask' if whole or not positive else 'label',
          }
        )
  return rows


def _cell(film, name, arm):
  """What the manifest of a training says of a film in one column."""
  if arm in _LABELS_ALONE and film['kind'] == 'label':
    if name == 'rle':
      return ''
    if name == 'source' and arm == 'apart':
      return 'labels'
  return str(film[name])


def _run(folder, films, arm, seed):
  """Trains one of the arms, unless it is done."""
  result = folder / f'{arm}_{seed}.json'
  if result.exists():
    return
  data_dir = folder / f'data_{arm}'
  if not data_dir.exists():
    header = 'path,patient,source,split,label,rle'
    lines = [
      ','.join(_cell(film, name, arm) for name in header.split(','))
      for film in films
      if arm != 'masks' or film['kind'] == 'mask'
    ]
    table = folder / f'{arm}.csv'
    table.write_text('\n'.join([header, *dict.fromkeys(lines), '']))
    dataset.build(
      Request(
        manifest=str(table),
        output_dir=str(data_dir),
        image_size=_SIZE,
        num_folds=2,
      )
    )
  config = schema.get_config()
  config.update_from_flattened_dict(
    {
      'data_dir': str(data_dir),
      'image_size': _SIZE,
      'seed': seed,
      'total_steps': _STEPS.value,
      'batch_size': 16,
      'eval.batch_size': 32,
      'positive_share': ((0, _POSITIVE_SHARE[arm]),),
      'source_weights': 'a=1,b=1,labels=1' if arm == 'apart' else '',
      'model.encoder': 'resunet',
      'model.width': 8,
      'model.depth': 3,
      'losses.presence': 0.5,
      'augmentation.distortion_probability': 0.0,
      'optimizer.learning_rate': 3e-3,
      'optimizer.ema_decay': 0.98,
      'eval_epochs': 1000.0,
      'checkpoint_steps': 1000,
      'log_steps': 100,
      'read_threads': 2,
    }
  )
  scores = train(config, folder / f'run_{arm}_{seed}')
  if scores is None:
    raise SystemExit('stopped; run the same command to resume')
  result.write_text(json.dumps(scores, indent=2))


def _print(folder):
  """Prints a row per arm: mean and range over its seeds."""
  print(f'| training | n | {" | ".join(_METRICS)} |')
  print(f'|---|---|{"---|" * len(_METRICS)}')
  for arm in _POSITIVE_SHARE:
    runs = [json.loads(x.read_text()) for x in folder.glob(f'{arm}_[0-9].json')]
    if not runs:
      continue
    cells = []
    for name in _METRICS:
      values = [run[name] for run in runs]
      cells.append(
        f'{statistics.mean(values):.3f} '
        f'({min(values):.3f} to {max(values):.3f})'
      )
    print(f'| {arm} | {len(runs)} | {" | ".join(cells)} |')


if __name__ == '__main__':
  app.run(main)
