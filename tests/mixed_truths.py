"""The small synthetic dataset with less known of some of its films."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np

from pnx_jax.formats import built_dataset, rle, schema, seal, tfrecord


def write(dataset_dir, output_dir):
  """Copies a dataset; of the positives a third keeps its mask.

  Of another third only the label is known, of the last one the boxes, which
  are exhaustive for every other film. Films are from the sources a and b by
  turns.
  """
  shutil.copytree(dataset_dir, output_dir)
  positives = 0
  for path in sorted(pathlib.Path(output_dir).glob('*-fold*.tfrecord*')):
    source = tfrecord.TFRecordSource([path])
    records = [tfrecord.parse(source[place]) for place in range(len(source))]
    with path.open('wb') as file:
      for place, record in enumerate(records):
        record = dataclasses.replace(record, source='ab'[place % 2])
        if record.label == schema.POSITIVE:
          record = _changed(record, positives)
          positives += 1
        tfrecord.write(file, tfrecord.serialize(record))
  path = pathlib.Path(output_dir, 'build.json')
  report = json.loads(path.read_text())
  report['checksum'] = built_dataset.checksum(output_dir)
  path.write_text(json.dumps(seal.sealed(report)))
  return str(output_dir)


def _changed(record, number):
  if number % 3 == 0:
    return record
  boxes = record.boxes if number % 3 == 2 else np.zeros((0, 5), np.int32)
  return dataclasses.replace(
    record,
    truth=schema.LABEL if number % 3 == 1 else schema.BOX,
    rle=rle.EMPTY,
    boxes=boxes,
    boxes_exhaustive=int(number % 6 == 2),
  )
