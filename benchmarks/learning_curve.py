"""What each part of the recipe is worth, on synthetic films of 128 x 128.

    python -m benchmarks.learning_curve --data_dir=data/demo \\
        --output_dir=runs/learning_curve

Trains the whole recipe and the recipe less one part, three seeds each, and
prints validation Dice with its spread over the seeds. Every finished run leaves
a scores.json; run the same command to resume.
"""

import json
import pathlib
import shutil
import statistics
import sys

from absl import app, flags

from configs import default
from pnx_jax.training.train import train

_DATA_DIR = flags.DEFINE_string('data_dir', 'data/demo', 'Built phantoms.')
_OUTPUT_DIR = flags.DEFINE_string(
  'output_dir', 'runs/learning_curve', 'One workdir a run.'
)
_SEEDS = flags.DEFINE_integer('seeds', 3, 'Runs of each variant.')
_STEPS = flags.DEFINE_integer('steps', 300, 'Steps of each run.')

_RECIPE = {
  'image_size': 128,
  'batch_size': 8,
  'eval.batch_size': 8,
  'positive_share': ((0, 0.8), (5, 0.5)),
  'model.encoder': 'efficientnet_lite0',
  'model.depth': 5,
  'pretrained': 'efficientnet-lite0',
  'optimizer.learning_rate': 1e-3,
  'optimizer.warmup_epochs': 0.25,
  'optimizer.ema_decay': 0.98,
  'eval_epochs': 100.0,
}
_VARIANTS = {
  'whole recipe': {},
  'no augmentation': {
    f'augmentation.{name}': 0.0
    for name in (
      'flip_probability',
      'affine_probability',
      'distortion_probability',
      'intensity_probability',
      'noise_probability',
    )
  },
  'no sampling schedule': {'positive_share': ()},
  'no EMA': {'optimizer.ema_decay': 0.0},
  'encoder from scratch': {'pretrained': ''},
}


def score(variant, seed):
  """The final validation scores of one run, trained where it is not yet."""
  name = variant.replace(' ', '_')
  workdir = pathlib.Path(_OUTPUT_DIR.value) / f'{name}_{seed}'
  path = workdir / 'scores.json'
  if not path.exists():
    config = default.get_config()
    config.update_from_flattened_dict(
      {
        **_RECIPE,
        **_VARIANTS[variant],
        'data_dir': _DATA_DIR.value,
        'total_steps': _STEPS.value,
        'seed': seed,
      }
    )
    scores = train(config, workdir)
    if scores == {}:  # It was killed between its end and its scores.json.
      shutil.rmtree(workdir)
      scores = train(config, workdir)
    if scores is None:
      sys.exit('Stopped; run the same command to resume.')
    path.write_text(json.dumps(scores))
  return json.loads(path.read_text())


def main(_):
  print('| variant | Dice | range | on positives | all empty |')
  print('|---|---|---|---|---|')
  for variant in _VARIANTS:
    runs = [score(variant, seed) for seed in range(_SEEDS.value)]
    values = [run['dice'] for run in runs]
    positives = statistics.mean(run['dice_positive'] for run in runs)
    print(
      f'| {variant} | {statistics.mean(values):.3f} '
      f'| {min(values):.3f} to {max(values):.3f} | {positives:.3f} '
      f'| {runs[0]["all_empty_dice"]:.3f} |',
      flush=True,
    )


if __name__ == '__main__':
  app.run(main)
