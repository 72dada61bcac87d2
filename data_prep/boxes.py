"""Bounding boxes of the annotated regions, as a table or in COCO's format.

  python -m data_prep.boxes --rle_csv=train-rle.csv --output=boxes.csv

writes a row `image_id, x, y, width, height, area` for every connected region
of the union of an image's annotations; `--output=boxes.json` writes COCO
detections, which list the images without a region too.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags

from pnx_jax.cli import one_line, parse_flags
from pnx_jax.errors import UserError
from pnx_jax.formats import files, rle
from pnx_jax.formats.boxes import boxes

COLUMNS = ('image_id', 'x', 'y', 'width', 'height', 'area')


def read(
  rle_csv: str | os.PathLike[str], height: int, width: int
) -> dict[str, np.ndarray]:
  """Returns the boxes, int32[N, 5], of every image of a table of annotations.

  Raises:
    UserError: The table or an annotation in it is malformed.
  """
  found: dict[str, np.ndarray] = {}
  for image_id, rles in rle.read_csv(rle_csv).items():
    try:
      found[image_id] = boxes(rle.union(rles, height, width))
    except ValueError as error:
      raise UserError(
        f'{rle_csv}, image {image_id}, at {height} x {width}: {error}'
      ) from error
  return found


def coco(
  found: Mapping[str, np.ndarray], height: int, width: int
) -> dict[str, list[dict[str, Any]]]:
  """Returns the boxes as a COCO detection dataset (https://cocodataset.org)."""
  images: list[dict[str, Any]] = []
  annotations: list[dict[str, Any]] = []
  for number, (image_id, regions) in enumerate(found.items(), 1):
    images.append(
      {
        'id': number,
        'file_name': f'{image_id}.dcm',
        'height': height,
        'width': width,
      }
    )
    annotations += [
      {
        'id': len(annotations) + index,
        'image_id': number,
        'category_id': 1,
        'bbox': box,
        'area': area,
        'iscrowd': 0,
      }
      for index, (*box, area) in enumerate(regions.tolist(), 1)
    ]
  categories = [{'id': 1, 'name': 'pneumothorax'}]
  return {
    'images': images,
    'annotations': annotations,
    'categories': categories,
  }


def write(
  found: Mapping[str, np.ndarray],
  output: str | os.PathLike[str],
  height: int,
  width: int,
) -> None:
  """Writes csv or COCO json, by the name's ending."""
  if str(output).endswith('.json'):
    files.write(output, json.dumps(coco(found, height, width)))
    return
  rows = (
    (image_id, *region)
    for image_id, regions in found.items()
    for region in regions.tolist()
  )
  files.write_csv(output, COLUMNS, rows)


def main(argv: Sequence[str]) -> None:
  del argv
  output, height, width = _OUTPUT.value, _HEIGHT.value, _WIDTH.value
  with one_line():
    if not output.endswith(('.csv', '.json')):
      raise UserError(f'--output={output}: end it in .csv or .json')
    found = read(_RLE_CSV.value, height, width)
    write(found, output, height, width)
  regions = [len(rows) for rows in found.values()]
  print(
    f'{output}: {sum(regions)} regions in {np.count_nonzero(regions)} of '
    f'{len(regions)} images'
  )


if __name__ == '__main__':
  _RLE_CSV = flags.DEFINE_string('rle_csv', None, 'Csv of masks.')
  _OUTPUT = flags.DEFINE_string(
    'output', None, 'Boxes to write, .csv or .json.'
  )
  _HEIGHT = flags.DEFINE_integer(
    'height', 1024, 'Rows of the films that were annotated.', lower_bound=1
  )
  _WIDTH = flags.DEFINE_integer(
    'width', 1024, 'Columns of the films that were annotated.', lower_bound=1
  )
  flags.mark_flags_as_required(['rle_csv', 'output'])
  app.run(main, flags_parser=parse_flags)
