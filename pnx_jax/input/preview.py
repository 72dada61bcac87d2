r"""Draws radiographs and what training sees of them after augmentation.

python -m pnx_jax.input.preview --config=configs/resunet.py \
    --config.data_dir=data/demo --output=augmentation.png
"""

import functools

import cv2
import jax
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from pnx_jax import draw
from pnx_jax.cli import one_line, parse_flags
from pnx_jax.config import DEFAULT_RECIPE
from pnx_jax.errors import UserError
from pnx_jax.input import pipeline
from pnx_jax.input.augment import Augmentation

_PICTURE_SIZE = 200


def sheet(
  dataset: pipeline.Dataset,
  augmentation: Augmentation,
  *,
  rows: int = 4,
  columns: int = 6,
) -> np.ndarray:
  """Draws radiographs (left) and augmented versions of each (right).

  Args:
    dataset: Its first positives are drawn.
    augmentation: What is applied to them.
    rows: Number of radiographs.
    columns: Number of pictures of each, the unchanged one included.

  Returns:
    u8[H, W, 3].
  """
  size = dataset.stored_size
  pictures = []
  for index in np.flatnonzero(dataset.labels == 1)[:rows]:
    image, label = dataset.image(index, size), dataset.label(index, size)
    repeated = [
      np.repeat(x[None, ..., None], columns - 1, 0) for x in (image, label)
    ]
    key = jax.random.fold_in(jax.random.key(0), index)
    images, labels = jax.jit(augmentation)(
      key, repeated[0].astype(np.float32) / 255, repeated[1]
    )
    images = np.round(np.asarray(images) * 255).astype(np.uint8)
    pairs = [
      (image, label),
      *zip(images[..., 0], np.asarray(labels)[..., 0], strict=True),
    ]
    pictures += [
      draw.outline(draw.picture(one, _PICTURE_SIZE), mask)
      for one, mask in pairs
    ]
  return draw.contact_sheet(pictures, columns=columns)


def main(_: list[str]) -> None:
  config = flags.FLAGS['config'].value
  with one_line():
    dataset = pipeline.Dataset(config.data_dir, pipeline.folds(config.data_dir))
    drawn = sheet(dataset, Augmentation(**config.augmentation))
    path = flags.FLAGS['output'].value
    if not cv2.imwrite(path, drawn[..., ::-1]):
      raise UserError(f'cannot write {path}')
  print(f'Wrote {path}')


if __name__ == '__main__':
  config_flags.DEFINE_config_file('config', None, 'The recipe.')
  flags.DEFINE_string('output', 'augmentation.png', 'Picture to write.')
  app.run(
    main, flags_parser=functools.partial(parse_flags, recipe=DEFAULT_RECIPE)
  )
