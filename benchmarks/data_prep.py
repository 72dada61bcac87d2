"""How fast a build is, and how much memory it takes, beside the plain loop.

  python -m benchmarks.data_prep --dicom_dir=data/phantom/dicom-images-train

The plain loop is what people write: pydicom's default decoder, cv2.resize, one
PNG file for the film and one for the mask. The films are those of the folder,
mirrored, shifted and encoded again, so that no two are alike.
"""

import csv
import io
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import cv2
import numpy as np
import pydicom
from absl import app, flags
from PIL import Image
from pydicom import encaps

from pnx_jax import pool
from pnx_jax.formats import dicom, rle

_DICOM_DIR = flags.DEFINE_string('dicom_dir', None, 'Films, 1024 x 1024.')
_NUM_IMAGES = flags.DEFINE_integer('num_images', 2500, 'The smallest build.')
_MULTIPLES = flags.DEFINE_list('multiples', ['1', '2', '4'], 'Of num_images.')
_NUM_WORKERS = flags.DEFINE_integer('num_workers', 2, 'Processes.')
_IMAGE_SIZE = flags.DEFINE_integer('image_size', 512, 'Side of the records.')
_PLAIN_IMAGES = 300
_PREVALENCE = 0.22

_BUILD = """
import json, resource, sys, time
from data_prep import dataset, request
began = time.perf_counter()
dataset.build(request.Request(**json.loads(sys.argv[1])))
print(json.dumps({
  'seconds': time.perf_counter() - began,
  'megabytes': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
}))
"""


def make_films(batch: pool.Batch) -> list[None]:
  """Writes altered copies, `(original, copy)` each."""
  for number, (original, copy) in batch:
    random_state = np.random.default_rng(number)
    film = dicom.read(original, accept_modality=()).pixels
    film = np.roll(film, random_state.integers(0, 1024, 2), (0, 1))
    if random_state.random() < 0.5:
      film = film[:, ::-1]
    buffer = io.BytesIO()
    Image.fromarray(film).save(buffer, 'JPEG', quality=92)
    made = pydicom.dcmread(original)
    made.PixelData = encaps.encapsulate([buffer.getvalue()])
    made.save_as(copy)
  return [None] * len(batch)


def make_archive(folder: pathlib.Path, num_images: int) -> pathlib.Path:
  """Returns a csv with a mask for every film that `make_films` writes."""
  originals = sorted(map(str, pathlib.Path(_DICOM_DIR.value).rglob('*.dcm')))
  if not originals:
    sys.exit(f'benchmarks.data_prep: no *.dcm file in {_DICOM_DIR.value}')
  (folder / 'films').mkdir()
  pairs = [
    (original, str(folder / 'films' / f'{number:06}.dcm'))
    for number, original in zip(
      range(num_images), itertools.cycle(originals), strict=False
    )
  ]
  for _ in pool.run(
    make_films,
    pool.batches(enumerate(pairs), 32),
    num_workers=_NUM_WORKERS.value,
    on_death=lambda number, pair, death: sys.exit(
      f'{pair[0]} ends the process ({death.cause})'
    ),
  ):
    pass
  return write_labels(folder / 'train-rle.csv', num_images)


def write_labels(path: pathlib.Path, num_images: int) -> pathlib.Path:
  """Writes an ellipse for every fifth film or so, of realistic size."""
  random_state = np.random.default_rng(0)
  with open(path, 'w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['ImageId', 'EncodedPixels'])
    for number in range(num_images):
      mask = np.zeros((1024, 1024), np.uint8)
      if random_state.random() < _PREVALENCE:
        center = random_state.integers(200, 800, 2).tolist()
        axes = random_state.integers(15, 150, 2).tolist()
        cv2.ellipse(mask, center, axes, 30, 0, 360, 1, -1)
      writer.writerow([f'{number:06}', rle.encode(mask)])
  return path


def plain_loop(folder: pathlib.Path, labels: pathlib.Path) -> float:
  """Returns the films a second of the loop that people write."""
  annotations = rle.read_csv(labels)
  size = (_IMAGE_SIZE.value, _IMAGE_SIZE.value)
  (folder / 'png').mkdir()
  films = sorted((folder / 'films').iterdir())[:_PLAIN_IMAGES]
  began = time.perf_counter()
  for path in films:
    film = pydicom.dcmread(path).pixel_array
    rows = annotations[path.stem]
    mask = rle.union(rows, *film.shape).astype(np.uint8) * 255
    for name, picture in (('image', film), ('mask', mask)):
      small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
      cv2.imwrite(str(folder / 'png' / f'{path.stem}_{name}.png'), small)
  return len(films) / (time.perf_counter() - began)


def build(
  folder: pathlib.Path, labels: pathlib.Path, num_images: int
) -> dict[str, float]:
  """Builds from so many films (hard links beyond the first ones)."""
  films = sorted((folder / 'films').iterdir())
  part = folder / f'part{num_images}'
  part.mkdir()
  for number, film in zip(
    range(num_images), itertools.cycle(films), strict=False
  ):
    os.link(film, part / f'{number:06}.dcm')
  request = {
    'dicom_dir': str(part),
    'rle_csv': str(labels),
    'output_dir': str(folder / 'built'),
    'image_size': _IMAGE_SIZE.value,
    'num_workers': _NUM_WORKERS.value,
    'overwrite': True,
  }
  done = subprocess.run(
    [sys.executable, '-c', _BUILD, json.dumps(request)],
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  return json.loads(done.stdout.splitlines()[-1])


def main(argv: Sequence[str]) -> None:
  del argv
  sizes = [_NUM_IMAGES.value * int(times) for times in _MULTIPLES.value]
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    make_archive(folder, _NUM_IMAGES.value)
    labels = write_labels(folder / 'train-rle.csv', max(sizes))
    print('| what | images | images/s | peak memory of the main process |')
    print('|---|---|---|---|')
    rate = plain_loop(folder, labels)
    print(f'| plain loop, 1 process | {_PLAIN_IMAGES} | {rate:.0f} | |')
    for size in sizes:
      result = build(folder, labels, size)
      print(
        f'| data_prep.build, {_NUM_WORKERS.value} workers | {size} | '
        f'{size / result["seconds"]:.0f} | {result["megabytes"]:.0f} MB |',
        flush=True,
      )


if __name__ == '__main__':
  flags.mark_flag_as_required('dicom_dir')
  app.run(main)
