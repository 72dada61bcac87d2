"""What damaged files do to the commands that read them.

  python -m benchmarks.fuzz --seed=0 --num_dicom=4000

changes bytes of headers and of each kind of compressed stream, and gives the
files in folders to the build, the pictures, the metadata and the reader of
predictions; changes csv files, records and JSON files and reads them. Of each
kind it counts files that were

  right    read, with the values that another decoder or reader finds,
  wrong    read with other values: there must be none,
  refused  refused with a reason,
  crashed  answered by an exception that is not meant for users: none,
  hung     not answered within --seconds_per_film: none.

A film whose decoder ends or exceeds its worker counts as refused: the command
goes on. What only the compressed stream can tell, such as a lossy picture, is
compared within 2 gray levels.
"""

import collections
import csv
import functools
import io
import json
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import pydicom
from absl import app, flags
from pydicom import uid
from pydicom.encaps import encapsulate

from pnx_jax import pool
from pnx_jax.cli import parse_flags
from pnx_jax.errors import UserError
from pnx_jax.formats import (
  built_dataset,
  dicom,
  dicom_header,
  dicom_pixels,
  refusals,
  rle,
  tfrecord,
)

_SEED = flags.DEFINE_integer('seed', 0, 'Of the changes.')
_NUM_DICOM = flags.DEFINE_integer('num_dicom', 4000, 'Damaged DICOM files.')
_NUM_CSV = flags.DEFINE_integer('num_csv', 500, 'Damaged csv files.')
_NUM_OTHERS = flags.DEFINE_integer('num_others', 200, 'Of each other kind.')
_FOLDER = 200
_SIDE = 128
_LIMITS = pool.Limits(seconds=10, gib=2)

Counts = collections.Counter[str]


def film(seed: int) -> np.ndarray:
  """A smooth picture of 12 bits, u16[S, S]."""
  noise = np.random.default_rng(seed).normal(size=(_SIDE, _SIDE))
  smooth = cv2.GaussianBlur(noise, (0, 0), 9)
  return np.round(cv2.normalize(smooth, None, 0, 4095, cv2.NORM_MINMAX)).astype(
    np.uint16
  )


def originals() -> list[bytes]:
  """Valid films of every transfer syntax that can be written here."""
  import jpeg_ls
  from openjpeg.utils import encode_array

  twelve = film(1)
  eight = (twelve >> 4).astype(np.uint8)
  _, jpeg = cv2.imencode('.jpg', eight, [cv2.IMWRITE_JPEG_QUALITY, 92])
  streams = [
    (uid.JPEGBaseline8Bit, eight, jpeg.tobytes()),
    (uid.JPEG2000Lossless, twelve, bytes(encode_array(twelve, bits_stored=12))),
    (
      uid.JPEG2000,
      twelve,
      bytes(encode_array(twelve, bits_stored=12, compression_ratios=[8])),
    ),
    (
      uid.JPEGLSLossless,
      twelve,
      bytes(jpeg_ls.encode_buffer(twelve.tobytes(), _SIDE, _SIDE, 1, 12)),
    ),
  ]
  made = []
  for syntax, samples, stream in streams:
    dataset = _dataset(samples)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([stream])
    dataset['PixelData'].VR = 'OB'
    made.append(dataset)
  for syntax in (
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
  ):
    dataset = _dataset(twelve)
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == uid.ExplicitVRBigEndian:
      dataset.PixelData = twelve.astype('>u2').tobytes()
    made.append(dataset)
  runs = _dataset(twelve)
  runs.compress(uid.RLELossless, encoding_plugin='pydicom')
  for number, dataset in enumerate([*made, runs]):
    dataset.PatientID = f'{number}'
  files_of_pydicom = [
    pathlib.Path(pydicom.data.get_testdata_file(name)).read_bytes()
    for name in ('JPEG-LL.dcm', 'MR_small_jpeg_ls_lossless.dcm')
    if pydicom.data.get_testdata_file(name, download=False)
  ]
  return [*map(_bytes, [*made, runs]), *files_of_pydicom]


def damaged(original: bytes, rng: np.random.Generator) -> bytes:
  """Returns a file of which some bytes were changed."""
  data = bytearray(original)
  kind = rng.integers(6)
  header = data.find(b'\xe0\x7f\x10\x00')
  header = header if header > 0 else min(len(data), 1500)
  start, end = (132, header) if kind < 3 else (header, len(data))
  match kind:
    case 0 | 3:  # bits
      for _ in range(rng.integers(1, 12)):
        data[rng.integers(start, end)] ^= 1 << rng.integers(8)
    case 1 | 4:  # a length or number
      place = rng.integers(start, max(end - 4, start + 1))
      value = int(rng.choice([0, 1, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]))
      data[place : place + 4] = value.to_bytes(4, 'little')
    case 2:  # twice
      first = rng.integers(start, end)
      last = min(first + int(rng.integers(1, 200)), end)
      data[first:first] = data[first:last]
    case _:  # cut
      del data[rng.integers(start, end) :]
  return bytes(data)


def another_decoder(data: bytes) -> np.ndarray | None:
  """Returns what gdcm reads of a file, None where it refuses it."""
  import gdcm

  with tempfile.NamedTemporaryFile(suffix='.dcm') as file:
    file.write(data)
    file.flush()
    reader = gdcm.ImageReader()
    reader.SetFileName(file.name)
    if not reader.Read():
      return None
    image = reader.GetImage()
    columns, rows = image.GetDimensions()[:2]
    kind = image.GetPixelFormat().GetScalarTypeAsString().lower()
    buffer = image.GetBuffer()
  if buffer is None:
    return None
  content = buffer.encode('utf-8', 'surrogateescape')
  try:
    return np.frombuffer(content, np.dtype(kind)).reshape(rows, columns)
  except (TypeError, ValueError):
    return None


def compared(path: str) -> str:
  """Reads a film and compares its stored values with those of gdcm."""
  try:
    data = dicom.content(path)
    film = dicom.read(data, accept_modality=(), accept_body_part=())
  except refusals.UnusableFilm:
    return 'refused'
  dataset = pydicom.dcmread(io.BytesIO(data), force=True)
  stored = dicom_pixels.decode(dataset, dicom_header.parse(dataset))
  other = another_decoder(data)
  if other is None or other.shape != film.pixels.shape:
    return 'right, alone'  # gdcm does not read it, or reads another picture
  if _alike(stored, other, dataset):
    return 'right'
  # Decoders go on differently after damage in a stream without checksums.
  return 'lossy, differs' if _is_lossy(dataset) else 'wrong'


def compared_batch(batch: pool.Batch[str]) -> list[tuple[int, str]]:
  """Returns what `compared` says of the files of a batch."""
  found = []
  for number, path in pool.each(batch):
    outcome = refusals.attempt(compared, path)
    if isinstance(outcome, refusals.Refusal):
      bug = outcome.reason == refusals.INTERNAL_ERROR
      outcome = f'crashed: {outcome.detail}' if bug else 'refused'
    found.append((number, outcome))
  return found


def fuzz_dicom(seed: int, number: int, folder: pathlib.Path) -> Counts:
  """Gives damaged films to every command that reads films."""
  from data_prep import dataset, entries, metadata, view
  from data_prep.request import Request

  counts: Counts = collections.Counter()
  sources = originals()
  for first in range(0, number, _FOLDER):
    films = folder / f'{first}'
    films.mkdir()
    paths = []
    for n in range(first, min(first + _FOLDER, number)):
      rng = np.random.default_rng((seed, n))
      paths.append(films / f'{n}.dcm')
      paths[-1].write_bytes(damaged(sources[n % len(sources)], rng))
    for clean in range(4):  # a build needs some
      path = films / f'clean{clean}.dcm'
      path.write_bytes(_bytes(_dataset(film(100 + clean))))
    for done in pool.run(
      compared_batch,
      pool.batches(enumerate(map(str, paths)), 20),
      num_workers=1,
      on_death=lambda n, path, death: (
        n,
        'hung' if death.timed_out else 'refused',
      ),
      limits=_LIMITS,
    ):
      counts.update(outcome for _, outcome in done)
    table = films / 'rle.csv'
    names = [path.stem for path in sorted(films.glob('*.dcm'))]
    rle.write_csv(table, [(name, '3 4') for name in names])
    counts['build crashed'] += _fails(
      lambda films=films, table=table: dataset.build(
        Request(
          dicom_dir=str(films),
          rle_csv=str(table),
          output_dir=str(films / 'records'),
          image_size=64,
          num_folds=2,
          seconds_per_film=_LIMITS.seconds,
          gib_per_film=_LIMITS.gib,
        )
      )
    )
    found = entries.find(films, entries.TRAIN, {})
    shown = [(e.image_id, functools.partial(view.from_film, e)) for e in found]
    counts['view crashed'] += _fails(
      lambda shown=shown, films=films: view.write(
        shown, films / 'pictures', size=64, columns=8, limits=_LIMITS
      )
    )
    counts['metadata crashed'] += _fails(
      lambda films=films: metadata.read_folder(str(films), 'a.csv', 1, _LIMITS)
    )
    counts['predict crashed'] += _fails(
      lambda films=films: _read_for_prediction(sorted(films.glob('*.dcm')))
    )
    shutil.rmtree(films)
  return counts


def fuzz_csv(seed: int, number: int, folder: pathlib.Path) -> Counts:
  """Damages tables of annotations; right is what Python's csv module reads."""
  rows = [f'1.2.{n},{"3 4 5 6" if n % 2 else "-1"}' for n in range(40)]
  original = '\n'.join(['ImageId,EncodedPixels', *rows, '']).encode()
  path = folder / 'rle.csv'

  def check() -> bool:
    found = rle.read_csv(path)
    text = path.read_bytes().decode('utf-8-sig')
    lines = csv.reader(io.StringIO(text, newline=''), skipinitialspace=True)
    expected: dict[str, list[str]] = {}
    for row in lines:
      cells = [cell.strip() for cell in row]
      if any(cells) and (expected or cells[1].lower() != 'encodedpixels'):
        annotations = expected.setdefault(cells[0], [])
        annotations += [] if rle.is_empty(cells[1]) else [cells[1]]
    return expected == found

  return _tried(original, path, number, seed, check)


def fuzz_records(seed: int, number: int, folder: pathlib.Path) -> Counts:
  """Damages files of records."""
  path = folder / 'a.tfrecord'
  payloads = [np.random.default_rng(n).bytes(500) for n in range(8)]
  with path.open('wb') as file:
    for payload in payloads:
      tfrecord.write(file, payload)

  def check() -> bool:
    return list(tfrecord.TFRecordSource([path])) == payloads

  return _tried(path.read_bytes(), path, number, seed, check)


def fuzz_reports(seed: int, number: int, folder: pathlib.Path) -> Counts:
  """Damages build.json, dataset_info.json and folds.csv of a dataset."""
  from data_prep import dataset
  from data_prep.request import Request

  films = folder / 'films'
  films.mkdir()
  for n in range(8):
    made = _dataset(film(n), PatientID=f'{n}')
    (films / f'{n}.dcm').write_bytes(_bytes(made))
  rle.write_csv(folder / 'rle.csv', [(f'{n}', '3 4') for n in range(8)])
  built = folder / 'records'
  dataset.build(
    Request(
      dicom_dir=str(films),
      rle_csv=str(folder / 'rle.csv'),
      output_dir=str(built),
      image_size=64,
      num_folds=2,
    )
  )

  def state() -> tuple:
    return (
      built_dataset.origin(built),
      built_dataset.split_sizes(built),
      built_dataset.folds_of(built),
      len(built_dataset.split_source(built, ['fold0'])),
    )

  counts: Counts = collections.Counter()
  expected = state()
  names = ('build.json', 'dataset_info.json', 'folds.csv')
  for place, name in enumerate(names):
    path = built / name
    original = path.read_bytes()
    counts += _tried(
      original,
      path,
      number // len(names),
      seed + place,
      lambda: state() == expected,
    )
    path.write_bytes(original)
  return counts


def _tried(
  original: bytes,
  path: pathlib.Path,
  number: int,
  seed: int,
  check: Callable[[], bool],
) -> Counts:
  counts: Counts = collections.Counter()
  for n in range(number):
    rng = np.random.default_rng((seed, n))
    data = bytearray(original)
    kind = rng.integers(3)
    if kind == 0:
      del data[rng.integers(len(data)) :]
    for _ in range(rng.integers(1, 4) if kind else 0):
      # Any byte, or one that leaves text as text.
      value = rng.integers(256) if kind == 1 else rng.integers(48, 58)
      data[rng.integers(len(data))] = value
    path.write_bytes(data)
    try:
      counts['right' if check() else 'wrong'] += 1
    except UserError:
      counts['refused'] += 1
    except Exception as error:
      counts[f'crashed: {error!r}'[:100]] += 1
  return counts


def _read_for_prediction(paths: Sequence[pathlib.Path]) -> None:
  from pnx_jax.prediction import decoding

  options = decoding.ReadOptions(64, 'auto', ('CR', 'DX'))
  with decoding.read(paths, options, num_workers=1, limits=_LIMITS) as found:
    if len(list(found)) != len(paths):
      raise AssertionError('a film was lost')


def _fails(call: Callable[[], object]) -> int:
  try:
    call()
  except UserError as error:
    print(f'refused as a whole: {error}')
  except Exception as error:
    print(f'crashed: {error!r}')
    return 1
  return 0


def _alike(
  stored: np.ndarray, other: np.ndarray, dataset: pydicom.Dataset
) -> bool:
  bits = int(dataset.BitsStored)
  most = 2 << max(bits - 8, 0) if _is_lossy(dataset) else 0
  mask = (1 << bits) - 1
  difference = (stored.astype(np.int64) & mask) - (
    other.astype(np.int64) & mask
  )
  return bool(np.abs(difference).max() <= most)


def _is_lossy(dataset: pydicom.Dataset) -> bool:
  syntax = dataset.file_meta.TransferSyntaxUID
  return syntax in (uid.JPEGBaseline8Bit, uid.JPEG2000, uid.JPEGExtended12Bit)


def _dataset(samples: np.ndarray, **attributes: str) -> pydicom.Dataset:
  made = pydicom.Dataset()
  made.file_meta = pydicom.dataset.FileMetaDataset()
  made.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
  made.SOPClassUID = uid.SecondaryCaptureImageStorage
  made.SOPInstanceUID = '1.2.3'
  made.Modality, made.BodyPartExamined, made.ViewPosition = 'CR', 'CHEST', 'PA'
  made.PatientID = attributes.get('PatientID', 'somebody')
  made.SamplesPerPixel = 1
  made.PhotometricInterpretation = 'MONOCHROME2'
  made.Rows, made.Columns = samples.shape
  made.BitsAllocated = 8 * samples.dtype.itemsize
  made.BitsStored = 8 if samples.dtype == np.uint8 else 12
  made.HighBit = made.BitsStored - 1
  made.PixelRepresentation = 0
  made.PixelSpacing = [0.2, 0.2]
  made.PixelData = samples.tobytes()
  made['PixelData'].VR = 'OW'
  return made


def _bytes(made: pydicom.Dataset) -> bytes:
  buffer = io.BytesIO()
  made.save_as(buffer, enforce_file_format=True)
  return buffer.getvalue()


def main(argv: Sequence[str]) -> None:
  del argv
  kinds = {
    'dicom': (fuzz_dicom, _NUM_DICOM.value),
    'csv': (fuzz_csv, _NUM_CSV.value),
    'records': (fuzz_records, _NUM_OTHERS.value),
    'json and folds.csv': (fuzz_reports, _NUM_OTHERS.value),
  }
  for kind, (run, number) in kinds.items():
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
      counts = run(_SEED.value, number, pathlib.Path(folder))
    seconds = time.monotonic() - began
    print(
      kind, number, json.dumps(dict(sorted(counts.items()))), f'{seconds:.0f} s'
    )


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)
