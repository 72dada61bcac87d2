"""DICOM radiographs and their annotations -> TFRecords in TFDS layout.

  python -m data_prep.build --dicom_dir=dicom-images-train \\
      --rle_csv=train-rle.csv --test_dicom_dir=dicom-images-test \\
      --patient_map=nih_id.csv --output_dir=data/siim --image_size=512

The output folder holds the records (splits fold0 ... and test), `build.json`
(what went in and out), `rejected.csv` (what was left out and why) and
`folds.csv`. It appears when it is complete and not before; a build that was
interrupted is taken up where it stopped by the same command.
"""

import contextlib
import dataclasses
import functools
import io
import os
import pathlib
import shutil
import sys
from collections.abc import Sequence

import tqdm
from absl import app, flags, logging

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
from pnx_jax.formats import dicom, greyscale, rle, schema

_FILES_PER_BATCH = 32
_SECONDS_PER_FILE = 60


class BuildError(Exception):
  """A mistake in what was asked for, in one line."""


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

  @property
  def options(self) -> prepare.Options:
    return prepare.Options(
      self.image_size, self.window, self.accept_modality, self.accept_body_part
    )


def build(request: Request) -> report.Report:
  """Builds a dataset; returns what `build.json` says.

  Raises:
    BuildError: The request cannot be met.
  """
  if os.path.exists(request.output_dir) and not request.overwrite:
    raise BuildError(
      f'{request.output_dir} exists: choose another --output_dir or add '
      '--overwrite'
    )
  try:
    annotations = rle.read_csv(request.rle_csv)
    patient_map = request.patient_map and folds.read_patient_map(
      request.patient_map
    )
  except (OSError, ValueError) as error:
    raise BuildError(error) from error
  found = _find(request, annotations)
  files, duplicates = sources.without_duplicates(found)
  try:
    with working.folder(request.output_dir) as folder:
      outcomes = duplicates + _prepare(request, files, folder)
      summary = _write(request, outcomes, annotations, patient_map, folder)
      shutil.rmtree(folder)
  except working.Busy as error:
    raise BuildError(error) from error
  except OSError as error:
    raise BuildError(
      f'{error}; the same command goes on from where it stopped'
    ) from error
  return summary


def _find(request: Request, annotations) -> list[sources.Source]:
  found = []
  for folder, part in (
    (request.dicom_dir, sources.TRAIN),
    (request.test_dicom_dir, sources.TEST),
  ):
    if folder is None:
      continue
    files = sources.find(folder, part, annotations)
    if not files:
      raise BuildError(f'no DICOM file in {folder}')
    found += files
  return found


def _prepare(
  request: Request, files: Sequence[sources.Source], folder: pathlib.Path
) -> list[prepare.Outcome]:
  """Returns the outcome of every file, prepared now or by an earlier run."""
  inputs = [
    schema.VERSION,
    dataclasses.astuple(request.options),
    [(*dataclasses.astuple(file), *_stamp(file.path)) for file in files],
  ]
  unfinished = len(list(folder.iterdir())) > 1
  if working.matches(folder, inputs):
    done = prepare.finished(folder)
    print(f'Going on with an interrupted build: {len(done)} files are done.')
  else:
    done = []
    if unfinished:
      print('Removed what an interrupted build of other inputs had left.')
  outcomes = {_path(outcome): outcome for outcome in done}
  left = [
    (number, file)
    for number, file in enumerate(files)
    if file.path not in outcomes
  ]
  batches = [
    (
      left[start][0],
      [file for _, file in left[start : start + _FILES_PER_BATCH]],
    )
    for start in range(0, len(left), _FILES_PER_BATCH)
  ]
  run_batch = functools.partial(
    prepare.run_batch,
    options=request.options,
    folder=folder,
    seconds_per_file=_SECONDS_PER_FILE,
  )
  with tqdm.tqdm(
    total=len(files), initial=len(outcomes), unit=' films', disable=None
  ) as progress:
    for batch in pool.run(
      run_batch,
      batches,
      num_workers=request.num_workers,
      on_crash=_crashed,
    ):
      outcomes.update((_path(outcome), outcome) for outcome in batch)
      progress.update(len(batch))
      _stop_at_bad_file(request, batch)
  return [outcomes[file.path] for file in files]


def _write(
  request: Request,
  outcomes: Sequence[prepare.Outcome],
  annotations,
  patient_map,
  folder: pathlib.Path,
) -> report.Report:
  images = [o for o in outcomes if isinstance(o, prepare.Prepared)]
  train = [
    image
    for image in images
    if image.source.part == sources.TRAIN and image.label >= 0
  ]
  test = [image for image in images if image.source.part == sources.TEST]
  if not train:
    raise BuildError(
      f'no usable file in {request.dicom_dir} has a row in {request.rle_csv}; '
      f'ids there look like {next(iter(annotations), "(none)")}'
    )
  patients = grouping.patients(train + test, patient_map)
  alike = likeness.near_duplicates(
    {image.source.image_id: image.fingerprint for image in train + test}
  )
  groups = grouping.merged(patients.number, alike)
  try:
    fold = folds.assign(
      [
        folds.Image(i.source.image_id, groups[i.source.image_id], i.area)
        for i in train
      ],
      request.num_folds,
      seed=request.seed,
    )
  except ValueError as error:
    raise BuildError(error) from error
  splits = {schema.fold_split(k): [] for k in range(request.num_folds)}
  for image in train:
    splits[schema.fold_split(fold[image.source.image_id])].append(image)
  if test:
    splits[schema.TEST_SPLIT] = test
  built = _write_records(request, splits, patients, folder)
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
  report.write(built, summary, outcomes, fold)
  working.publish(built, request.output_dir)
  return summary


def _write_records(request, splits, patients, folder) -> pathlib.Path:
  # Late, as it imports TensorFlow, which the workers need not do.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')  # else it says so twice
  from data_prep import siim

  root = folder / 'tfds'
  shutil.rmtree(root, ignore_errors=True)
  builder = siim.Siim(
    splits={
      name: [(i, patients.number[i.source.image_id]) for i in images]
      for name, images in splits.items()
    },
    folder=folder,
    image_size=request.image_size,
    data_dir=root,
  )
  with contextlib.redirect_stdout(io.StringIO()):  # it speaks of downloads
    builder.download_and_prepare()
  return pathlib.Path(builder.data_path)


def _stop_at_bad_file(
  request: Request, outcomes: Sequence[prepare.Outcome]
) -> None:
  if request.on_bad_file != 'fail':
    return
  for outcome in outcomes:
    if isinstance(outcome, sources.Rejection):
      raise BuildError(f'{outcome.path}: {outcome.reason}: {outcome.detail}')


def _crashed(source: sources.Source) -> sources.Rejection:
  return sources.reject(
    source, 'undecodable', 'the decoder crashed or took too long'
  )


def _path(outcome: prepare.Outcome) -> str:
  if isinstance(outcome, sources.Rejection):
    return outcome.path
  return outcome.source.path


def _stamp(path: str) -> tuple[int, int]:
  status = os.stat(path)
  return status.st_size, status.st_mtime_ns


def main(argv: Sequence[str]) -> None:
  del argv
  logging.set_verbosity(logging.WARNING)
  values = {
    field.name: flags.FLAGS[field.name].value
    for field in dataclasses.fields(Request)
  }
  for name in ('accept_modality', 'accept_body_part'):
    values[name] = tuple(word.upper() for word in values[name])
  try:
    summary = build(Request(**values))
  except BuildError as error:
    sys.exit(f'data_prep.build: {error}')
  print(report.text(summary, values['output_dir']))


def _define_flags() -> None:
  flags.DEFINE_string('dicom_dir', None, 'Radiographs, in folders or flat.')
  flags.DEFINE_string('rle_csv', None, 'Their masks: ImageId,EncodedPixels.')
  flags.DEFINE_string('output_dir', None, 'The dataset to make.')
  flags.DEFINE_string('test_dicom_dir', None, 'Unlabelled radiographs.')
  flags.DEFINE_string(
    'patient_map', None, 'Image id and true patient, e.g. nih_id.csv.'
  )
  flags.DEFINE_integer(
    'image_size', 1024, 'Side of the records in pixels.', lower_bound=1
  )
  flags.DEFINE_enum(
    'window', 'auto', greyscale.WINDOWS, 'How to map values to grey levels.'
  )
  flags.DEFINE_list(
    'accept_modality', list(dicom.RADIOGRAPHY), 'Modalities; empty for all.'
  )
  flags.DEFINE_list(
    'accept_body_part',
    list(dicom.CHEST),
    'Words one of which BodyPartExamined holds, if it is there; empty for all.',
  )
  flags.DEFINE_integer('num_folds', 5, 'Folds.', lower_bound=2)
  flags.DEFINE_integer('seed', 0, 'Of the folds.')
  flags.DEFINE_enum(
    'on_bad_file', 'reject', ['reject', 'fail'], 'Go on, or stop at the first.'
  )
  flags.DEFINE_bool('overwrite', False, 'Replace an existing dataset.')
  flags.DEFINE_integer(
    'num_workers', len(os.sched_getaffinity(0)), 'Processes.', lower_bound=1
  )
  flags.mark_flags_as_required(['dicom_dir', 'rle_csv', 'output_dir'])


if __name__ == '__main__':
  _define_flags()
  app.run(main)
