"""Builds from manifests: three forms of the same films, speed, copies, boxes.

  python -m benchmarks.manifests --real_data=../shared/data --wheel=FILE.whl

--wheel is torchxrayvision's, which ships the boxes of NIH ChestX-ray14. Real
films and what is made of them stay in a temporary folder.
"""

import csv
import gzip
import io
import json
import os
import pathlib
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from absl import app, flags
from PIL import Image

from data_prep import dataset, manifest
from data_prep.public import layout
from data_prep.request import Request
from pnx_jax.formats import dicom, files, record_reader, rle, schema

_REAL_DATA = flags.DEFINE_string('real_data', None, 'Folder of real films.')
_WHEEL = flags.DEFINE_string('wheel', None, 'Of torchxrayvision.')
_PARTS = flags.DEFINE_list(
  'parts', ['forms', 'boxes', 'copies', 'speed'], 'What to measure.'
)
_NUM_WORKERS = flags.DEFINE_integer('num_workers', 2, 'Processes.')
_NUM_FILMS = flags.DEFINE_integer('num_films', 1000, 'Of the speed.')
_SMALL_MASK = 1000  # px; smaller ones are not compared


def outlines(mask: np.ndarray) -> str:
  """Returns a mask as polygon of a manifest, holes as rings of their own."""
  rings, _ = cv2.findContours(
    mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
  )
  # One or two pixels are no polygon; a third point makes them one.
  rings = [
    np.resize(ring.reshape(-1, 2), (max(3, len(ring)), 2)) for ring in rings
  ]
  return ';'.join(' '.join(map(str, ring.ravel())) for ring in rings)


def holes(mask: np.ndarray) -> int:
  """Returns how many holes a mask has."""
  _, levels = cv2.findContours(
    mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
  )
  return 0 if levels is None else int((levels[0, :, 3] >= 0).sum())


def build(folder: pathlib.Path, rows: Sequence[layout.Row], **changes: Any):
  """Builds from rows; returns the report, the records and the seconds."""
  manifest.write(rows, str(folder / 'films.csv'))
  output = folder / 'records'
  values = {
    'image_size': 512,
    'num_folds': 2,
    'num_workers': _NUM_WORKERS.value,
  }
  began = time.perf_counter()
  summary = dataset.build(
    Request(
      **{
        'manifest': str(folder / 'films.csv'),
        'output_dir': str(output),
        'overwrite': True,
        **values,
        **changes,
      }
    )
  )
  seconds = time.perf_counter() - began
  splits = [name for name in summary['splits'] if name.startswith('fold')]
  return summary, record_reader.read(output, splits), seconds


def forms(root: pathlib.Path) -> dict[str, Any]:
  """The same films as DICOM, as PNG, and as JPEG with polygons."""
  siim = manifest.read('siim', str(root / 'siim')).rows
  siim = [row for row in siim if row['split'] != 'test']
  built: dict[str, dict[str, schema.Record]] = {}
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    as_png, as_jpeg = {}, {}
    for row in siim:
      image_id = row['image_id']
      if image_id in as_png:
        continue
      film = dicom.read(row['path']).pixels
      texts = [r['rle'] for r in siim if r['image_id'] == image_id]
      mask = rle.union(texts, *film.shape)
      common = {'image_id': image_id, 'patient': row['patient']}
      png, jpeg = folder / f'{image_id}.png', folder / f'{image_id}.jpg'
      Image.fromarray(film).save(png, compress_level=1)
      Image.fromarray(film).save(jpeg, quality=95)
      mask_path = folder / f'{image_id}_mask.png'
      Image.fromarray(mask).save(mask_path)
      as_png[image_id] = {**common, 'path': str(png), 'mask': str(mask_path)}
      truth_of = {'polygon': outlines(mask)} if mask.any() else {'label': '0'}
      as_jpeg[image_id] = {**common, 'path': str(jpeg), **truth_of}
    for form, rows in (
      ('dicom', siim),
      ('png', list(as_png.values())),
      ('jpeg', list(as_jpeg.values())),
    ):
      _, records, _ = build(folder, rows)
      built[form] = {
        record.image_id: record
        for record in map(records.payload, range(len(records)))
      }
  result: dict[str, Any] = {'films': len(built['dicom'])}
  first = built['dicom']
  for form in ('png', 'jpeg'):
    other = built[form]
    assert other.keys() == first.keys()
    differences = [
      np.abs(_image(first[i]).astype(int) - _image(other[i])).max()
      for i in first
    ]
    masks = [(_mask(first[i]), _mask(other[i])) for i in first]
    dice = [
      2 * np.count_nonzero(a & b) / (a.sum() + b.sum())
      for a, b in masks
      if a.sum() > _SMALL_MASK
    ]
    result[form] = {
      'largest_gray_difference': int(max(differences)),
      'identical_masks': sum(bool((a == b).all()) for a, b in masks),
      'masks_over_1000_px': len(dice),
      'lowest_dice': round(float(min(dice)), 5),
      'holes': [
        sum(holes(a) for a, _ in masks),
        sum(holes(b) for _, b in masks),
      ],
    }
  return result


def boxes(root: pathlib.Path) -> dict[str, Any]:
  """Share of a mask inside NIH's boxes of the same film."""
  study = root / 'siim_study'
  annotations = rle.read_csv(study / 'train-rle.csv')
  ids = {row[1]: row[0] for _, row in files.csv_rows(study / 'nih_id.csv')}
  by_film: dict[str, list[tuple[int, int, int, int]]] = {}
  for row in _table('BBox_List_2017.csv.gz'):
    if row[1] == 'Pneumothorax' and row[0] in ids:
      x, y, w, h = map(float, row[2:6])
      corners = (int(x), int(y), int(np.ceil(w)), int(np.ceil(h)))
      by_film.setdefault(ids[row[0]], []).append(corners)
  shares: list[float] = []
  without = 0
  for image_id, corners in by_film.items():
    mask = rle.union(annotations.get(image_id, []), 1024, 1024)
    if not mask.any():
      without += 1
      continue
    inside = np.zeros_like(mask)
    for x, y, w, h in corners:
      inside[y : y + h, x : x + w] = True
    shares.append(np.count_nonzero(mask & inside) / np.count_nonzero(mask))
  return {
    'boxed_films': len(by_film),
    'without_a_mask': without,
    'quantiles_5_25_50_75_95': np.quantile(
      shares, [0.05, 0.25, 0.5, 0.75, 0.95]
    )
    .round(3)
    .tolist(),
    'less_than_half_inside': float(np.mean(np.array(shares) < 0.5).round(3)),
  }


def copies(root: pathlib.Path) -> dict[str, Any]:
  """Films of `nih_labelled` that are also among the challenge's test films."""
  rows: list[layout.Row] = []
  for row in layout.table(
    str(root / 'nih_labelled' / 'labels.csv'), ('image_id', 'nih_labels')
  ):
    path = root / 'nih_labelled' / 'images' / f'{row["image_id"]}.jpg'
    positive = 'Pneumothorax' in row['nih_labels'].split('|')
    rows.append(
      {
        'path': str(path),
        'patient': row['patient'],
        'source': 'nih',
        'label': str(int(positive)),
      }
    )
  for path in sorted((root / 'siim_stage2_320').glob('*.dcm')):
    rows.append({'path': str(path), 'split': 'test', 'source': 'siim'})
  with tempfile.TemporaryDirectory() as name:
    summary, _, seconds = build(pathlib.Path(name), rows, image_size=128)
  groups = [g for g in summary['near_duplicates'] if len(g) > 1]
  return {
    'films': len(rows),
    'seconds': round(seconds, 1),
    'left_out_as_copies': summary['rejected_by_reason'].get('test_copy', 0),
    'rejected': summary['rejected_by_reason'],
    'groups': len(groups),
    'largest_group': max(map(len, groups), default=0),
  }


def speed(root: pathlib.Path) -> dict[str, Any]:
  """A build of PNG films beside the loop that people write."""
  annotations = rle.read_csv(root / 'siim_study' / 'train-rle.csv')
  paths = sorted((root / 'siim_study' / 'dicom-images').glob('*.dcm'))
  rows: list[layout.Row] = []
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    for number in range(_NUM_FILMS.value):
      source = paths[number % len(paths)]
      film = np.roll(dicom.read(source).pixels, number // len(paths) * 97, 1)
      path = folder / f'{number:05}.png'
      cv2.imwrite(str(path), film)
      texts = annotations.get(source.stem) or [rle.EMPTY]
      mask = rle.union(texts, *film.shape)
      mask_path = folder / f'{number:05}_mask.png'
      cv2.imwrite(str(mask_path), mask.view(np.uint8) * 255)
      rows.append(
        {'path': str(path), 'mask': str(mask_path), 'patient': str(number)}
      )
    _, _, seconds = build(folder, rows)
    plain = _plain_loop(rows[: len(rows) // 4], folder / 'plain')
  return {
    'films': len(rows),
    'build_films_per_second': round(len(rows) / seconds, 1),
    'workers': _NUM_WORKERS.value,
    'plain_loop_films_per_second': round(len(rows) // 4 / plain, 1),
  }


def _plain_loop(rows: Sequence[layout.Row], folder: pathlib.Path) -> float:
  folder.mkdir()
  cv2.setNumThreads(1)
  began = time.perf_counter()
  for row in rows:
    for column, way in (('path', cv2.INTER_AREA), ('mask', cv2.INTER_NEAREST)):
      image = np.asarray(Image.open(row[column]))
      small = cv2.resize(image, (512, 512), interpolation=way)
      name = os.path.basename(row[column])
      cv2.imwrite(str(folder / name), small)
  return time.perf_counter() - began


def _image(record: schema.Record) -> np.ndarray:
  return cv2.imdecode(np.frombuffer(record.image, np.uint8), 0)


def _mask(record: schema.Record) -> np.ndarray:
  return rle.decode(record.rle, record.height, record.width)


def _table(name: str) -> Iterator[list[str]]:
  with zipfile.ZipFile(_WHEEL.value) as archive:
    text = gzip.decompress(archive.read(f'torchxrayvision/data/{name}'))
  return csv.reader(io.StringIO(text.decode()))


def main(argv: Sequence[str]) -> None:
  del argv
  root = pathlib.Path(_REAL_DATA.value)
  parts: dict[str, Callable[[pathlib.Path], dict[str, Any]]] = {
    'forms': forms,
    'boxes': boxes,
    'copies': copies,
    'speed': speed,
  }
  for name in _PARTS.value:
    print(json.dumps({name: parts[name](root)}), flush=True)


if __name__ == '__main__':
  flags.mark_flag_as_required('real_data')
  app.run(main)
