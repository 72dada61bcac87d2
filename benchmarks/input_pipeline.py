"""Images/s from TFRecords to batches, beside tf.data on the same files.

    python -m benchmarks.input_pipeline --data_dir=data/siim

Both sides read the records of all folds in a shuffled order, decode image and
label and make batches of uint8 and bool arrays at the stored size. Ours takes
the label from the RLE, tf.data from the mask PNG. Runs alternate; the table
gives the median and the range.
"""

import statistics
import time

from absl import app, flags

from pnx_jax.formats import built_dataset
from pnx_jax.input import pipeline
from pnx_jax.input.sampling import Schedule

_DATA_DIR = flags.DEFINE_string('data_dir', 'data/siim', 'Built records.')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 8, 'Images a batch.')
_NUM_BATCHES = flags.DEFINE_integer('num_batches', 60, 'Batches a run.')
_THREADS = flags.DEFINE_integer('threads', 8, 'Threads of our reader.')
_TIMES = flags.DEFINE_integer('times', 5, 'Runs of each side.')


def ours(dataset, size):
  batches = pipeline.training_batches(
    dataset,
    Schedule(dataset.labels),
    image_size=size,
    loader=pipeline.Loader(
      batch_size=_BATCH_SIZE.value, threads=_THREADS.value
    ),
    first_step=0,
    last_step=_NUM_BATCHES.value,
  )
  return sum(len(batch['image']) for batch in batches)


def tf_data(files, size):
  import tensorflow as tf

  def parse(record):
    fields = tf.io.parse_single_example(
      record,
      {
        'image': tf.io.FixedLenFeature([], tf.string),
        'mask': tf.io.FixedLenFeature([], tf.string),
      },
    )
    shape = (size, size, 1)
    image = tf.ensure_shape(tf.io.decode_png(fields['image'], 1), shape)
    mask = tf.ensure_shape(tf.io.decode_png(fields['mask'], 1), shape)
    return image, mask > 0

  dataset = (
    tf.data.TFRecordDataset(files, num_parallel_reads=tf.data.AUTOTUNE)
    .repeat()
    .shuffle(256, seed=0)
    .map(parse, num_parallel_calls=tf.data.AUTOTUNE)
    .batch(_BATCH_SIZE.value, drop_remainder=True)
    .take(_NUM_BATCHES.value)
    .prefetch(tf.data.AUTOTUNE)
  )
  return sum(len(image) for image, _ in dataset.as_numpy_iterator())


def main(_):
  splits = pipeline.folds(_DATA_DIR.value)
  dataset = pipeline.Dataset(_DATA_DIR.value, splits)
  size = dataset.stored_size
  files = built_dataset.split_files(_DATA_DIR.value, splits)
  rates = {'pnx_jax': [], 'tf.data': []}
  for _ in range(_TIMES.value + 1):
    for name, run in (
      ('pnx_jax', lambda: ours(dataset, size)),
      ('tf.data', lambda: tf_data([str(file) for file in files], size)),
    ):
      before = time.perf_counter()
      images = run()
      rates[name].append(images / (time.perf_counter() - before))
  print(f'{len(dataset)} records of {size} x {size}, {_TIMES.value} runs')
  print('| reader | images/s | range |\n|---|---|---|')
  # The first run of each warms the page cache and is left out.
  for name, (_, *kept) in rates.items():
    middle = statistics.median(kept)
    print(f'| {name} | {middle:.0f} | {min(kept):.0f} to {max(kept):.0f} |')
  ratios = [
    one / other
    for one, other in zip(*(kept[1:] for kept in rates.values()), strict=True)
  ]
  print(
    f'ratio {statistics.median(ratios):.2f} '
    f'({min(ratios):.2f} to {max(ratios):.2f})'
  )


if __name__ == '__main__':
  app.run(main)
