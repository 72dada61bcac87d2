"""A built dataset as a folder: its splits, its report, its folds."""

import functools
import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from pnx_jax.errors import UserError
from pnx_jax.formats import files, schema, seal, typed_json
from pnx_jax.formats.tfrecord import TFRecordSource
from pnx_jax.storage import local

_REMEDY = 'build the dataset again'


class _Split(NamedTuple):
  name: str
  shardLengths: tuple[str, ...] = ()


class _Info(NamedTuple):
  """What this program reads of TFDS' `dataset_info.json`."""

  name: str
  version: str
  splits: tuple[_Split, ...]


class _Options(NamedTuple):
  window: str


class _Report(NamedTuple):
  """What this program reads of `build.json`."""

  options: _Options
  patient_safe: bool
  written: int
  positive: int
  patients: int
  patients_from: str
  checksum: str
  # Older builds did not count or note these.
  synthetic: int = 0
  kept_test_copies: int = 0
  test_copies: tuple[str, ...] = ()
  folds_checksum: str = ''


class Origin(NamedTuple):
  """What a build reports of its records.

  Attributes:
    window: How their gray levels were made, see `grayscale.to_uint8`.
    patient_safe: Whether no true patient is in two folds.
    written: The number of labeled films.
    positive: The number of those with a pneumothorax.
    synthetic: The number of those that show no patient, by their header.
    patients: The number of patients.
    patients_from: What the patients are identified by.
    kept_test_copies: The number of training films that are copies of test
      films.
  """

  window: str
  patient_safe: bool
  written: int
  positive: int
  synthetic: int
  patients: int
  patients_from: str
  kept_test_copies: int = 0


def split_sizes(data_dir: str | os.PathLike[str]) -> dict[str, int]:
  """Returns the number of records of every split.

  Raises:
    UserError: There is no dataset at `data_dir`, or one of another kind.
  """
  path = folder(data_dir) / 'dataset_info.json'
  info = _info(data_dir)
  try:
    return {
      split.name: sum(int(length) for length in split.shardLengths)
      for split in info.splits
    }
  except ValueError as error:
    raise UserError(f'{path} is damaged: {error}; {_REMEDY}') from None


def origin(data_dir: str | os.PathLike[str]) -> Origin:
  """Returns what the build reported of its records.

  Raises:
    UserError: There is no dataset, or its report is damaged.
  """
  report = _report(data_dir)
  return Origin(
    report.options.window,
    report.patient_safe,
    report.written,
    report.positive,
    report.synthetic,
    report.patients,
    report.patients_from,
    report.kept_test_copies,
  )


def test_copies(data_dir: str | os.PathLike[str]) -> frozenset[str]:
  """Returns the ids of training films that are copies of films of the test.

  A build leaves such films out unless it is told to keep them; of older builds
  that kept some they are not known.

  Raises:
    UserError: There is no dataset, or its report is damaged.
  """
  if not noted_checksum(data_dir):
    return frozenset()
  return frozenset(_report(data_dir).test_copies)


def folds_of(data_dir: str | os.PathLike[str]) -> dict[str, int]:
  """Returns the fold of each labeled image, without reading the records.

  Raises:
    UserError: The build's table of folds is missing or damaged.
  """
  path = folder(data_dir) / 'folds.csv'
  rows = files.read_csv(path, ('image_id', 'fold'), remedy=_REMEDY)
  folds = {
    row['image_id']: int(row['fold']) if row['fold'].isdecimal() else -1
    for row in rows
  }
  sizes = split_sizes(data_dir)
  sizes = {
    name: size
    for name, size in sizes.items()
    if name not in (schema.TEST_SPLIT, schema.UNLABELED_SPLIT)
  }
  found = dict.fromkeys(sizes, 0)
  for fold in folds.values():
    name = schema.fold_split(fold)
    found[name] = found.get(name, 0) + 1
  noted = _report(data_dir).folds_checksum
  if (
    len(folds) != len(rows)
    or found != sizes
    or noted not in ('', files.checksum(path))
  ):
    raise UserError(
      f'{path} is damaged: it does not name the images in the folds of the '
      f'build; {_REMEDY}'
    )
  return folds


def check_splits(
  data_dir: str | os.PathLike[str], splits: Sequence[str]
) -> None:
  """Raises UserError where a dataset lacks one of some splits."""
  sizes = split_sizes(data_dir)
  for split in splits:
    if split not in sizes:
      raise UserError(
        f'{data_dir} has no split {split!r}; it has {", ".join(sorted(sizes))}'
      )


def split_files(
  data_dir: str | os.PathLike[str], splits: Sequence[str]
) -> list[pathlib.Path]:
  """Returns the files of `splits`, one split after the other.

  Raises:
    UserError: A split is unknown.
  """
  check_splits(data_dir, splits)
  return [
    path
    for split in splits
    for path in sorted(folder(data_dir).glob(f'*-{split}.tfrecord-*'))
  ]


def split_source(
  data_dir: str | os.PathLike[str], splits: Sequence[str]
) -> TFRecordSource:
  """Returns the records of `splits`, one split after the other.

  Raises:
    UserError: A split is unknown, or its files are not those that the build
      has written.
  """
  source = TFRecordSource(split_files(data_dir, splits))
  sizes = split_sizes(data_dir)
  expected = sum(sizes[split] for split in splits)
  if len(source) != expected:
    raise UserError(
      f'{data_dir} holds {len(source)} records of {", ".join(splits)}, not '
      f'the {expected} of its dataset_info.json: build the dataset again'
    )
  if (folder(data_dir) / 'build.json').exists():
    _check_files(data_dir)
  return source


def checksum(data_dir: str | os.PathLike[str]) -> str:
  """Returns the SHA-256 over the names and bytes of all record files."""
  digest = hashlib.sha256()
  for path in record_files(data_dir):
    digest.update(path.name.encode())
    digest.update(_digest(path, *_identity(path)))
  return digest.hexdigest()


def noted_checksum(data_dir: str | os.PathLike[str]) -> str:
  """Returns the checksum of the record files that the build noted.

  It is empty where an old dataset has no `build.json`.

  Raises:
    UserError: The report of the build is damaged or lost.
  """
  if not (folder(data_dir) / 'build.json').exists():
    if _info(data_dir).version not in schema.UNSEALED_VERSIONS:
      raise UserError(f'{data_dir} has lost its build.json: {_REMEDY}')
    return ''
  return _report(data_dir).checksum


def record_files(data_dir: str | os.PathLike[str]) -> list[pathlib.Path]:
  """Returns the files that hold the records of a dataset."""
  return sorted(folder(data_dir).glob('*.tfrecord*'))


def folder(data_dir: str | os.PathLike[str]) -> pathlib.Path:
  """Returns the folder of a dataset; of one in a bucket, its local copy."""
  return pathlib.Path(
    local.with_large_files_in_place(
      data_dir, is_large=_is_record_file, index='record_index.bin'
    )
  )


def _is_record_file(name: str) -> bool:
  return '.tfrecord' in name


def _info(data_dir: str | os.PathLike[str]) -> _Info:
  path = folder(data_dir) / 'dataset_info.json'
  if not path.is_file():
    raise UserError(
      f'no dataset at {data_dir}. Make one from radiographs with '
      f'`python -m data_prep.build --dicom_dir=... --rle_csv=... '
      f'--output_dir={data_dir}`, or synthetic radiographs to build from with '
      f'`python -m data_prep.phantom --output_dir=data/phantom`'
    )
  info = typed_json.load(path, _Info, remedy=_REMEDY)
  known = schema.READABLE_VERSIONS
  if info.name != schema.NAME or info.version not in known:
    raise UserError(
      f'{data_dir} holds the dataset {info.name} {info.version}, this program '
      f'reads {schema.NAME} {" and ".join(known)}: build it again'
    )
  return info


def _report(data_dir: str | os.PathLike[str]) -> _Report:
  info = _info(data_dir)
  path = folder(data_dir) / 'build.json'
  content = files.read_json(path, remedy=_REMEDY)
  try:
    report = typed_json.convert(content, _Report)
  except ValueError as error:
    raise UserError(f'{path} is damaged: {error}; {_REMEDY}') from None
  sealed = seal.is_sealed(content, os.fspath(path), remedy=_REMEDY)
  is_old = info.version in schema.UNSEALED_VERSIONS
  if not sealed and (report.folds_checksum or not is_old):
    raise UserError(f'{path} has lost its seal: {_REMEDY}')
  return report


def _check_files(data_dir: str | os.PathLike[str]) -> None:
  """Compares the record files with the checksum that the build noted."""
  if checksum(data_dir) != _report(data_dir).checksum:
    raise UserError(
      f'the record files in {data_dir} are not those whose checksum its '
      f'build.json holds: restore them, or {_REMEDY}'
    )


def _identity(path: pathlib.Path) -> tuple[int, ...]:
  status = path.stat()
  return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


@functools.lru_cache(maxsize=4096)
def _digest(path: pathlib.Path, *identity: int) -> bytes:
  """Returns a file's SHA-256; computed once while the file stays the same."""
  del identity
  return bytes.fromhex(files.checksum(path))
