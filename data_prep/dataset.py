"""Builds a dataset: find, prepare, group, split, write, publish."""

import contextlib
import dataclasses
import errno
import functools
import io
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence

import tqdm

from data_prep import (
  folds,
  grouping,
  likeness,
  pool,
  prepare,
  report,
  sources,
  working,
)
from pnx_jax.errors import UserError
from pnx_jax.formats import dicom, rle, schema

_FILES_PER_BATCH = 32
_SECONDS_PER_FILE = 60

Splits = dict[str, list[prepare.Prepared]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """What to build from what; the flags of the same names explain it."""

  dicom_dir: str
  rle_csv: str
  output_dir: str
  test_dicom_dir: str | None = None
  patient_map: str | None = None
  image_size: int = 1024
  window: str = 'auto'
  accept_modality: tuple[str, ...] = dicom.RADIOGRAPHY
  accept_body_part: tuple[str, ...] = dicom.CHEST
  num_folds: int = 5
  seed: int = 0
  on_bad_file: str = 'reject'
  overwrite: bool = False
  num_workers: int = 1
  beam_runner: str | None = None
  beam_options: str = ''

  @property
  def options(self) -> prepare.Options:
    return prepare.Options(
      self.image_size, self.window, self.accept_modality, self.accept_body_part
    )


def build(request: Request) -> report.Report:
  """Builds a dataset; returns what `build.json` says.

  Raises:
    UserError: The request cannot be met.
  """
  if os.path.exists(request.output_dir) and not request.overwrite:
    raise UserError(
      f'{request.output_dir} exists: choose another --output_dir or add '
      '--overwrite'
    )
  try:
    annotations = rle.read_csv(request.rle_csv)
    patient_map = request.patient_map and folds.read_patient_map(
      request.patient_map
    )
  except (OSError, ValueError) as error:
    raise UserError(error) from error
  files, duplicates = sources.without_duplicates(_find(request, annotations))
  _stop_at_bad_file(request, duplicates)
  try:
    with working.folder(request.output_dir) as folder:
      outcomes = duplicates + _prepare(request, files, folder)
      splits, patients, alike = _split(request, outcomes, patient_map)
      built = _write(request, splits, patients, folder)
      summary = report.summarise(
        outcomes=outcomes,
        annotations=annotations,
        patients=patients,
        splits=splits,
        alike=alike,
        options=request.options,
        seed=request.seed,
        built=built,
      )
      report.write(built, summary, outcomes, splits)
      working.publish(built, request.output_dir)
      shutil.rmtree(folder)
  except OSError as error:
    raise UserError(
      f'{error}; the same command goes on from where it stopped'
    ) from error
  return summary


def _find(
  request: Request, annotations: Mapping[str, Sequence[str]]
) -> list[sources.Source]:
  found = []
  for folder, part in (
    (request.dicom_dir, sources.TRAIN),
    (request.test_dicom_dir, sources.TEST),
  ):
    if folder is None:
      continue
    files = sources.find(folder, part, annotations)
    if not files:
      raise UserError(f'no DICOM file in {folder}')
    found += files
  return found


def _prepare(
  request: Request, files: Sequence[sources.Source], folder: pathlib.Path
) -> list[prepare.Outcome]:
  """Returns the outcome of every file, prepared now or by an earlier run."""
  outcomes = {
    outcome.path: outcome for outcome in _left_over(request, files, folder)
  }
  _stop_at_bad_file(request, outcomes.values())
  left = [
    (number, file)
    for number, file in enumerate(files)
    if file.path not in outcomes
  ]
  batches = [
    (batch[0][0], [file for _, file in batch])
    for batch in (
      left[start : start + _FILES_PER_BATCH]
      for start in range(0, len(left), _FILES_PER_BATCH)
    )
  ]
  run_batch = functools.partial(
    prepare.run_batch, options=request.options, folder=folder
  )
  if request.beam_runner:
    _on_cluster(request, run_batch, batches)
    done = prepare.finished(folder)
    _stop_at_bad_file(request, done)
    outcomes = {outcome.path: outcome for outcome in done}
    return [outcomes[file.path] for file in files]
  results = pool.run(
    functools.partial(run_batch, seconds_per_file=_SECONDS_PER_FILE),
    batches,
    num_workers=request.num_workers,
    on_crash=_crashed,
  )
  with tqdm.tqdm(
    total=len(files), initial=len(outcomes), unit=' films', disable=None
  ) as progress:
    for done in results:
      outcomes.update((outcome.path, outcome) for outcome in done)
      progress.update(len(done))
      _stop_at_bad_file(request, done)
  return [outcomes[file.path] for file in files]


def _left_over(
  request: Request, files: Sequence[sources.Source], folder: pathlib.Path
) -> list[prepare.Outcome]:
  """Returns what an interrupted build of the same inputs had done."""
  inputs = [
    schema.VERSION,
    dataclasses.astuple(request.options),
    [(*dataclasses.astuple(file), *_stamp(file.path)) for file in files],
  ]
  unfinished = working.is_begun(folder)
  if working.matches(folder, inputs):
    done = prepare.finished(folder)
    print(f'Going on with an interrupted build: {len(done)} files are done.')
    return done
  if unfinished:
    print('Removed what an interrupted build of other inputs had left.')
  return []


def _split(
  request: Request,
  outcomes: Sequence[prepare.Outcome],
  patient_map: Mapping[str, str] | None,
) -> tuple[Splits, grouping.Patients, list[list[str]]]:
  """Returns the images of every split, the patients and near-duplicates."""
  images = [
    outcome
    for outcome in outcomes
    if isinstance(outcome, prepare.Prepared) and outcome.is_written
  ]
  train = [image for image in images if image.part == sources.TRAIN]
  if not train:
    raise UserError(
      f'no usable file in {request.dicom_dir} has a row in {request.rle_csv}: '
      f'the ids of the files look like {outcomes[0].image_id}'
    )
  patients = grouping.patients(images, patient_map)
  alike = likeness.near_duplicates(
    {image.image_id: image.fingerprint for image in images}
  )
  groups = grouping.merged(patients.number, alike)
  fold = folds.assign(
    [folds.Image(i.image_id, groups[i.image_id], i.area) for i in train],
    request.num_folds,
    seed=request.seed,
  )
  splits: Splits = {schema.fold_split(k): [] for k in range(request.num_folds)}
  for image in train:
    splits[schema.fold_split(fold[image.image_id])].append(image)
  if len(images) > len(train):
    splits[schema.TEST_SPLIT] = [
      image for image in images if image.part == sources.TEST
    ]
  return splits, patients, alike


def _write(
  request: Request,
  splits: Splits,
  patients: grouping.Patients,
  folder: pathlib.Path,
) -> pathlib.Path:
  # Late, as it imports TensorFlow, which the workers need not do.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')  # else it says so twice
  import tensorflow_datasets as tfds

  from data_prep import siim

  download = tfds.download.DownloadConfig()
  if request.beam_runner:
    from data_prep import cluster

    download.beam_runner = request.beam_runner
    download.beam_options = cluster.parse(request.beam_options)
  root = folder / 'tfds'
  shutil.rmtree(root, ignore_errors=True)
  builder = siim.Siim(
    splits={
      name: [(image, patients.number[image.image_id]) for image in images]
      for name, images in splits.items()
    },
    folder=folder,
    image_size=request.image_size,
    data_dir=root,
  )
  try:
    with contextlib.redirect_stdout(io.StringIO()):  # it speaks of downloads
      builder.download_and_prepare(download_config=download)
  except Exception as error:
    if os.strerror(errno.ENOSPC) in str(error):  # one of TensorFlow's own
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), root) from error
    raise
  return pathlib.Path(builder.data_path)


def _on_cluster(request: Request, run_batch, batches) -> None:
  try:
    from data_prep import cluster
  except ImportError as error:
    raise UserError(
      f"--beam_runner needs Apache Beam: pip install -e '.[beam]' ({error})"
    ) from error
  cluster.run(
    run_batch,
    batches,
    runner=request.beam_runner,
    options=request.beam_options,
  )


def _stop_at_bad_file(request: Request, outcomes) -> None:
  if request.on_bad_file != 'fail':
    return
  for outcome in outcomes:
    if isinstance(outcome, sources.Rejection):
      raise UserError(f'{outcome.path}: {outcome.reason}: {outcome.detail}')


def _crashed(source: sources.Source) -> sources.Rejection:
  return sources.reject(
    source, 'undecodable', 'the decoder crashed or took too long'
  )


def _stamp(path: str) -> tuple[int, int]:
  status = os.stat(path)
  return status.st_size, status.st_mtime_ns
