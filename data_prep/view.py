"""Pictures of radiographs with mask outline, boxes and label text.

  python -m data_prep.view --dicom_dir=dicom-images-train \\
      --rle_csv=train-rle.csv --output_dir=pictures
  python -m data_prep.view --data_dir=data/siim --output_dir=pictures

writes a PNG per image and contact sheets. The second form shows what a build
holds.
"""

import functools
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures

import cv2
import numpy as np
import tqdm
from absl import app, flags

from data_prep import sources
from pnx_jax import draw, pool
from pnx_jax.case import Case, marked
from pnx_jax.errors import UserError, one_line
from pnx_jax.formats import dicom, letterbox, rle, schema, tfrecord

_SHEET = 24  # pictures on a contact sheet


def from_dicom(source: sources.Source) -> Case:
  """Reads a file of any modality that can be shown."""
  film = dicom.read(source.path, accept_modality=(), accept_body_part=())
  mask = None
  if source.rles is not None:
    mask = rle.union(source.rles, *film.pixels.shape)
  return Case(
    image=film.pixels,
    mask=mask,
    image_id=source.image_id,
    mirrored=film.header.mirrored,
    **_known(film.header),
  )


def from_record(record: schema.Record) -> Case:
  """Reads a built record, brought back to the film's own pixels."""
  square = cv2.imdecode(
    np.frombuffer(record.image, np.uint8), cv2.IMREAD_GRAYSCALE
  )
  shape = record.height, record.width
  labelled = record.label != schema.UNLABELLED
  return Case(
    image=letterbox.unletterbox(
      square, *shape, pixel_aspect=record.pixel_aspect
    ),
    mask=rle.decode(record.rle, *shape) if labelled else None,
    image_id=record.image_id,
    **_known(record),
  )


def write(
  loaders: Sequence[Callable[[], Case]],
  output_dir: str | os.PathLike,
  *,
  size: int,
  columns: int,
) -> tuple[int, list[str]]:
  """Writes all pictures; returns how many and what could not be shown."""
  folder = pathlib.Path(output_dir)
  folder.mkdir(parents=True, exist_ok=True)
  failures = []
  pictures = _pictures(loaders, folder, size, failures)
  for page in itertools.count(1):
    sheet = list(itertools.islice(pictures, _SHEET))
    if not sheet:
      break
    _save(
      folder / f'contact_sheet_{page}.png',
      draw.contact_sheet(sheet, columns=columns),
    )
  return len(loaders) - len(failures), failures


def _pictures(loaders, folder, size, failures) -> Iterator[np.ndarray]:
  """Yields the pictures in order, each written to its file before."""

  def one(load: Callable[[], Case]) -> np.ndarray | str:
    try:
      case = load()
    except (dicom.UnusableDicom, ValueError) as error:
      return str(error)
    result = marked(case, size)
    _save(folder / f'{case.image_id}.png', result)
    return result

  with futures.ThreadPoolExecutor(pool.num_cores()) as executor:
    results = executor.map(one, loaders)
    for result in tqdm.tqdm(
      results, total=len(loaders), unit='image', disable=None
    ):
      if isinstance(result, str):
        failures.append(result)
      else:
        yield result


def _save(path: pathlib.Path, picture: np.ndarray) -> None:
  cv2.imwrite(
    str(path),
    cv2.cvtColor(picture, cv2.COLOR_RGB2BGR),
    [cv2.IMWRITE_PNG_COMPRESSION, 3],
  )


def _known(header: dicom.Header | schema.Record) -> dict:
  names = ('view', 'sex', 'age', 'pixel_spacing', 'spacing_plane')
  return {name: getattr(header, name) for name in names}


def _loaders(values) -> list[Callable[[], Case]]:
  if bool(values.dicom_dir) == bool(values.data_dir):
    raise UserError('give either --dicom_dir (and --rle_csv) or --data_dir')
  if values.data_dir:
    splits = sorted(tfrecord.split_sizes(values.data_dir))
    records = tfrecord.split_source(values.data_dir, splits)
    return [
      lambda n=n: from_record(tfrecord.parse(records[n]))
      for n in range(len(records))
    ]
  if not os.path.isdir(values.dicom_dir):
    raise UserError(f'--dicom_dir={values.dicom_dir} is no folder')
  annotations = rle.read_csv(values.rle_csv) if values.rle_csv else {}
  found = sources.find(values.dicom_dir, sources.TRAIN, annotations)
  if not found:
    raise UserError(f'no DICOM file below --dicom_dir={values.dicom_dir}')
  if values.image_ids:
    found = [item for item in found if item.image_id in values.image_ids]
  return [functools.partial(from_dicom, source) for source in found]


def main(argv: Sequence[str]) -> None:
  del argv
  values = flags.FLAGS
  with one_line():
    loaders = _loaders(values)[: values.num_images]
    written, failures = write(
      loaders, values.output_dir, size=values.size, columns=values.columns
    )
  print(f'{values.output_dir}: {written} pictures and their contact sheets')
  for failure in failures:
    print(f'left out: {failure}')


def _define_flags() -> None:
  flags.DEFINE_string('dicom_dir', None, 'Radiographs.')
  flags.DEFINE_string('rle_csv', None, 'Their masks: ImageId,EncodedPixels.')
  flags.DEFINE_string('data_dir', None, 'A built dataset, instead of these.')
  flags.DEFINE_string('output_dir', None, 'Folder for the pictures.')
  flags.DEFINE_integer('size', 512, 'Longer side in pixels.', lower_bound=64)
  flags.DEFINE_integer('columns', 4, 'Of a contact sheet.', lower_bound=1)
  flags.DEFINE_integer('num_images', None, 'Only the first ones.')
  flags.DEFINE_list('image_ids', [], 'Only these.')
  flags.mark_flag_as_required('output_dir')


if __name__ == '__main__':
  cv2.setNumThreads(1)
  _define_flags()
  app.run(main)
