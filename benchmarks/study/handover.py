"""Hands the films of a run to another program.

    python -m benchmarks.study.handover --run=default/seed0_fold0 \\
        --data_dir=data/study --output=runs/study/handover/seed0_fold0.npz

The file holds what this project's run would train on, in its order, and the
films that are held out:

    image        uint8[N, S, S]
    label        bool[N, S, S]
    order        int64[steps, batch], films of each step
    held_out     int64[M], films that are scored
    image_id     str[N]
"""

import pathlib

import numpy as np
from absl import app, flags

from benchmarks.study import plan
from pnx_jax.formats import schema
from pnx_jax.input import pipeline
from pnx_jax.input.sampling import Schedule

_RUN = flags.DEFINE_string('run', 'default/seed0_fold0', 'Which run.')
_DATA_DIR = flags.DEFINE_string('data_dir', 'data/study', 'The records.')
_OUTPUT = flags.DEFINE_string('output', None, 'The npz file.')


def arrays(run: plan.Run, data_dir: str) -> dict[str, np.ndarray]:
  """Returns the content of the file."""
  config = plan.config(run, data_dir, output_dir='')
  size = config.image_size
  train, held_out = pipeline.split_names(data_dir, run.fold)
  datasets = [pipeline.Dataset(data_dir, names) for names in (train, held_out)]
  schedule = Schedule(
    datasets[0].labels, positive_share=config.positive_share, seed=run.seed
  )
  count = config.total_steps * config.batch_size
  films = [
    (dataset.image(index, size), dataset.label(index, size), record.image_id)
    for dataset in datasets
    for index, record in enumerate(dataset.records)
  ]
  image, label, image_id = map(np.array, zip(*films, strict=True))
  positive = np.concatenate([each.labels for each in datasets])
  assert np.array_equal(label.any((1, 2)), positive == schema.POSITIVE)
  return {
    'image': image,
    'label': label,
    'image_id': image_id,
    'order': np.array(
      [schedule.record(position) for position in range(count)]
    ).reshape(-1, config.batch_size),
    'held_out': np.arange(len(datasets[0]), len(image)),
  }


def main(_) -> None:
  path = pathlib.Path(_OUTPUT.value)
  path.parent.mkdir(parents=True, exist_ok=True)
  run = plan.parse(_RUN.value)
  np.savez_compressed(path, **arrays(run, _DATA_DIR.value))


if __name__ == '__main__':
  flags.mark_flag_as_required('output')
  app.run(main)
