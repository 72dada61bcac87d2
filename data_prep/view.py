"""Pictures of radiographs with mask outline, boxes and label text.

  python -m data_prep.view --dicom_dir=dicom-images-train \\
      --rle_csv=train-rle.csv --output_dir=pictures
  python -m data_prep.view --manifest=films.csv --output_dir=pictures
  python -m data_prep.view --data_dir=data/siim --output_dir=pictures

writes a PNG per image and contact sheets. The last form shows the records of a
built dataset.
"""

import functools
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import tqdm
from absl import app, flags

from data_prep import entries, manifest_reader, prepare, truth
from data_prep.entries import Entry
from pnx_jax import draw, film_flags, pool
from pnx_jax.case import Case, overlay
from pnx_jax.cli import one_line, parse_flags
from pnx_jax.errors import UserError
from pnx_jax.formats import (
  built_dataset,
  dicom,
  files,
  letterbox,
  names,
  refusals,
  rle,
  schema,
  tfrecord,
)

_SHEET = 24  # pictures on a contact sheet
_FILMS_PER_BATCH = 4
_ANY_FILM = prepare.RecordOptions(
  image_size=1, window='auto', accept_modality=(), accept_body_part=()
)

# An image id and what loads its case; a job has the path of its picture, too.
_Film = tuple[str, Callable[[], Case]]
_Job = tuple[str, pathlib.Path, Callable[[], Case]]


def from_film(entry: Entry) -> Case:
  """Reads a film of any modality that can be shown, and its annotations.

  Raises:
    UnusableFilm: The film or one of its annotations cannot be used.
  """
  pixels, header = prepare.read_film(entry, _ANY_FILM)
  known = truth.of(entry, *pixels.shape)
  mask = None
  if known.kind == schema.MASK:
    mask = np.zeros(pixels.shape, bool)
    for one in known.masks:
      mask |= one
  return Case(
    image=pixels,
    mask=mask,
    image_id=entry.image_id,
    positive=_positive(known.kind, known.label),
    boxes=known.boxes if known.kind == schema.BOX else None,
    **_known(header),
  )


def from_record(record: schema.Record) -> Case:
  """Returns a record, its picture brought back to the film's own pixels.

  Raises:
    UnusableFilm: The picture in the record does not decode.
  """
  square = cv2.imdecode(
    np.frombuffer(record.image, np.uint8), cv2.IMREAD_GRAYSCALE
  )
  if square is None:
    raise refusals.UnusableFilm('undecodable', 'the PNG does not decode')
  shape = record.height, record.width
  has_mask = record.truth == schema.MASK
  return Case(
    image=letterbox.unletterbox(
      square, *shape, pixel_aspect=record.pixel_aspect
    ),
    mask=rle.decode(record.rle, *shape) if has_mask else None,
    image_id=record.image_id,
    positive=_positive(record.truth, record.label),
    boxes=record.boxes if record.truth == schema.BOX else None,
    **_known(record),
  )


def write(
  films: Sequence[_Film],
  output_dir: str | os.PathLike[str],
  *,
  size: int,
  columns: int,
  limits: pool.Limits = pool.Limits(),  # noqa: B008 (frozen)
) -> tuple[int, list[str]]:
  """Writes pictures and contact sheets.

  Args:
    films: An image id and what loads its case, each. The name of a picture is
      made from the id, and no two are the same.
    output_dir: Where to.
    size: Longer side of a picture in pixels.
    columns: Pictures side by side on a contact sheet.
    limits: What one film may take.

  Returns:
    The number of pictures, and why others could not be drawn.

  Raises:
    UserError: A picture cannot be written.
  """
  folder = pathlib.Path(output_dir)
  folder.mkdir(parents=True, exist_ok=True)
  pictures = _pictures(films, folder, size, limits)
  failures: list[str] = []
  written = 0
  shown = _without_failures(pictures, failures)
  for page in itertools.count(1):
    sheet = list(itertools.islice(shown, _SHEET))
    if not sheet:
      break
    written += len(sheet)
    _save(
      folder / f'{_sheet(page)}.png',
      draw.contact_sheet(sheet, columns=columns),
    )
  return written, failures


def _sheet(page: int) -> str:
  return f'contact_sheet_{page}'


def _pictures(
  films: Sequence[_Film],
  folder: pathlib.Path,
  size: int,
  limits: pool.Limits,
) -> Iterator[np.ndarray | str]:
  """Yields pictures, each written to its file before, or failures, in order."""
  taken = {_sheet(page) for page in range(1, len(films) // _SHEET + 2)}
  jobs: list[_Job] = []
  for image_id, load in films:
    stem = names.safe_name(image_id)
    tries = itertools.chain([stem], (f'{stem}_{n}' for n in itertools.count(2)))
    name = next(name for name in tries if name not in taken)
    taken.add(name)
    jobs.append((image_id, folder / f'{name}.png', load))
  batches = pool.batches(enumerate(jobs), _FILMS_PER_BATCH)
  results = pool.run(
    functools.partial(_draw, size=size),
    batches,
    num_workers=min(pool.num_cores(), max(len(batches), 1)),
    on_death=lambda number, _, death: (
      number,
      _told(films[number][0], refusals.of_death(death)),
    ),
    limits=limits,
  )
  waiting: dict[int, np.ndarray | str] = {}
  following = 0
  with tqdm.tqdm(total=len(films), unit='image', disable=None) as progress:
    for done in results:
      progress.update(len(done))
      waiting.update(done)
      while following in waiting:
        yield waiting.pop(following)
        following += 1


def _draw(
  batch: pool.Batch[_Job], *, size: int
) -> list[tuple[int, np.ndarray | str]]:
  """Draws films in a worker, which a damaged one may end."""
  drawn: list[tuple[int, np.ndarray | str]] = []
  for number, (image_id, path, load) in pool.each(batch):
    picture = refusals.attempt(lambda load: overlay(load(), size), load)
    if isinstance(picture, refusals.Refusal):
      drawn.append((number, _told(image_id, picture)))
      continue
    _save(path, picture)
    drawn.append((number, picture))
  return drawn


def _told(image_id: str, refusal: refusals.Refusal) -> str:
  return f'{image_id}: {refusal.reason}: {refusal.detail}'


def _without_failures(
  pictures: Iterable[np.ndarray | str], failures: list[str]
) -> Iterator[np.ndarray]:
  for picture in pictures:
    if isinstance(picture, str):
      failures.append(picture)
    else:
      yield picture


def _save(path: pathlib.Path, picture: np.ndarray) -> None:
  _, png = cv2.imencode(
    '.png',
    cv2.cvtColor(picture, cv2.COLOR_RGB2BGR),
    [cv2.IMWRITE_PNG_COMPRESSION, 3],
  )
  files.write(path, png.tobytes())


def _positive(kind: str, label: int) -> bool | None:
  """Returns whether a film without a mask has a pneumothorax, if known."""
  known = kind in (schema.BOX, schema.LABEL)
  return label == schema.POSITIVE if known else None


def _known(header: dicom.Header | schema.Record) -> dict[str, Any]:
  fields = ('view', 'sex', 'age', 'pixel_spacing', 'spacing_plane')
  known = {name: getattr(header, name) for name in fields}
  return {**known, 'mirrored': bool(header.mirrored)}


def _films(values: Any) -> list[_Film]:
  """Returns the ids and loaders of what the flags ask for."""
  films = _wanted(_all(values), values.image_ids)
  return list(itertools.islice(films, values.num_images))


def _wanted(
  films: Iterable[_Film], image_ids: Sequence[str]
) -> Iterator[_Film]:
  missing = set(image_ids)
  for film in films:
    if film[0] in image_ids or not image_ids:
      missing.discard(film[0])
      yield film
  if missing:
    raise UserError(
      f'--image_ids: no film is named {", ".join(sorted(missing))}'
    )


def _all(values: Any) -> Iterator[_Film]:
  given = values.dicom_dir, values.data_dir, values.manifest
  if sum(map(bool, given)) != 1:
    raise UserError(
      'give either --dicom_dir (and --rle_csv), --manifest or --data_dir'
    )
  if values.manifest:
    for entry in manifest_reader.read(values.manifest).entries:
      yield entry.image_id, functools.partial(from_film, entry)
    return
  if values.data_dir:
    records = _records(values.data_dir)
    for n in range(len(records)):
      load = functools.partial(_from_dataset, values.data_dir, n)
      yield tfrecord.parse(records[n]).image_id, load
    return
  if not os.path.isdir(values.dicom_dir):
    raise UserError(f'--dicom_dir={values.dicom_dir} is not a folder')
  annotations = rle.read_csv(values.rle_csv) if values.rle_csv else {}
  found = entries.find(values.dicom_dir, entries.TRAIN, annotations)
  if not found:
    raise UserError(f'no DICOM file below --dicom_dir={values.dicom_dir}')
  if values.rle_csv:
    entries.check_named(found, annotations, values.rle_csv)
  for entry in found:
    yield entry.image_id, functools.partial(from_film, entry)


@functools.cache
def _records(data_dir: str) -> tfrecord.TFRecordSource:
  return built_dataset.split_source(
    data_dir, sorted(built_dataset.split_sizes(data_dir))
  )


def _from_dataset(data_dir: str, number: int) -> Case:
  return from_record(tfrecord.parse(_records(data_dir)[number]))


def main(argv: Sequence[str]) -> None:
  del argv
  values = flags.FLAGS
  with one_line():
    written, failures = write(
      _films(values),
      values.output_dir,
      size=values.size,
      columns=values.columns,
      limits=film_flags.limits(),
    )
    if failures and not written:
      raise UserError(
        f'none of {len(failures)} images can be shown, the first: {failures[0]}'
      )
  print(f'{values.output_dir}: {written} pictures and their contact sheets')
  for failure in failures:
    print(f'left out: {names.printable(failure)}')


def _define_flags() -> None:
  flags.DEFINE_string('dicom_dir', None, 'Folder of DICOM files.')
  flags.DEFINE_string(
    'rle_csv', None, 'Csv of the masks: ImageId,EncodedPixels.'
  )
  flags.DEFINE_string(
    'manifest',
    None,
    'Csv of films and annotations, instead of --dicom_dir and --rle_csv; see '
    'docs/data.md.',
  )
  flags.DEFINE_string(
    'data_dir', None, 'Built dataset, instead of --dicom_dir and --rle_csv.'
  )
  flags.DEFINE_string('output_dir', None, 'Folder for the pictures.')
  flags.DEFINE_integer('size', 512, 'Longer side of a picture.', lower_bound=64)
  flags.DEFINE_integer(
    'columns', 4, 'Columns of a contact sheet.', lower_bound=1
  )
  flags.DEFINE_integer(
    'num_images', None, 'Show only this many images.', lower_bound=1
  )
  flags.DEFINE_list('image_ids', [], 'Show only these images.')
  film_flags.define_limits()
  flags.adopt_module_key_flags(film_flags)
  flags.mark_flag_as_required('output_dir')


if __name__ == '__main__':
  cv2.setNumThreads(1)
  _define_flags()
  app.run(main, flags_parser=parse_flags)
