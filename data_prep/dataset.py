"""Builds a dataset: find, prepare, group, split, write, publish."""

import collections
import contextlib
import errno
import functools
import io
import os
import pathlib
import shutil
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

from data_prep import (
  batches,
  copies,
  entries,
  folds,
  grouping,
  manifest_reader,
  prepare,
  report,
  staging,
)
from data_prep.entries import Entry, Rejection
from data_prep.request import Request
from pnx_jax.errors import UserError
from pnx_jax.formats import files, record_index, rle, schema

Splits = dict[str, list[prepare.Prepared]]


def build(request: Request) -> report.Report:
  """Builds a dataset; returns what `build.json` says.

  Raises:
    UserError: The request cannot be met.
  """
  files.check_name(request.output_dir)
  try:
    staging.finish(request.output_dir)
    staging.check_output(
      request.output_dir, request.inputs, overwrite=request.overwrite
    )
    found, patient_map, annotated, unused = _entries(request)
  except (OSError, ValueError) as error:
    raise UserError(error) from error
  films, duplicates = entries.without_duplicates(found)
  batches.stop_at_bad_film(request, duplicates)
  try:
    with staging.folder(
      request.output_dir, shared=bool(request.beam_runner)
    ) as folder:
      outcomes = duplicates + batches.run(request, films, folder)
      alike = copies.groups(outcomes)
      of_test = copies.of_test(outcomes, alike)
      if not request.keep_test_copies:
        outcomes = copies.left_out(outcomes, of_test)
      splits, patients = _split(request, outcomes, patient_map, alike)
      built = _write(request, splits, patients, patient_map, folder)
      index = record_index.scan(built)
      summary = report.summarize(
        found=found,
        outcomes=outcomes,
        annotated=annotated,
        patients=patients,
        splits=splits,
        alike=alike,
        kept_test_copies=of_test if request.keep_test_copies else (),
        options=request.options,
        seed=request.seed,
        built=built,
        index=index,
        retry=request.retry,
        unused_columns=unused,
      )
      summary = report.write(built, summary, outcomes, splits, index)
      if request.keep_columns:
        report.write_kept(built, request.keep_columns, found, splits)
      staging.publish(built, request.output_dir)
  except OSError as error:
    if error.errno in (errno.ENOSPC, errno.EIO):
      raise UserError(f'{error}; run the same command to resume') from error
    raise UserError(error) from error
  return summary


def _entries(
  request: Request,
) -> tuple[
  list[Entry], Mapping[str, str] | None, Collection[str], Sequence[str]
]:
  """Returns what the tables say of the films.

  That is the films to read, their patients, the ids of a csv of masks, and the
  columns of a manifest that are not used.

  Raises:
    UserError: The flags do not belong together, or a table is malformed.
  """
  patient_map = (
    folds.read_patient_map(request.patient_map) if request.patient_map else None
  )
  if request.manifest:
    if request.dicom_dir or request.rle_csv or request.test_dicom_dir:
      raise UserError(
        '--manifest names the films: leave out --dicom_dir, --rle_csv and '
        '--test_dicom_dir'
      )
    found, unused = manifest_reader.read(request.manifest, request.keep_columns)
    patient_map = patient_map or manifest_reader.patients(found)
    return found, patient_map, (), unused
  if request.keep_columns:
    raise UserError('--keep_columns has no effect without --manifest')
  if not request.dicom_dir or not request.rle_csv:
    raise UserError('give --dicom_dir and --rle_csv, or --manifest')
  annotations = rle.read_csv(request.rle_csv)
  found = _find(request, annotations, patient_map)
  return found, patient_map, annotations, ()


def _find(
  request: Request,
  annotations: Mapping[str, Sequence[str]],
  patient_map: Mapping[str, str] | None,
) -> list[Entry]:
  found: list[Entry] = []
  for folder, part in (
    (request.dicom_dir, entries.TRAIN),
    (request.test_dicom_dir, entries.TEST),
  ):
    if folder is None:
      continue
    films = entries.find(folder, part, annotations)
    if not films:
      raise UserError(f'no DICOM file in {folder}')
    if part == entries.TRAIN:
      entries.check_named(films, annotations, request.rle_csv or '')
      if request.patient_map and patient_map:
        entries.check_named(films, patient_map, request.patient_map)
    found += films
  return found


def _split(
  request: Request,
  outcomes: Sequence[prepare.Outcome],
  patient_map: Mapping[str, str] | None,
  alike: Sequence[Sequence[str]],
) -> tuple[Splits, grouping.Patients]:
  """Returns the images of every split, and the patients."""
  images = [
    outcome
    for outcome in outcomes
    if isinstance(outcome, prepare.Prepared) and outcome.is_written
  ]
  train = [
    image
    for image in images
    if image.part == entries.TRAIN and image.truth != schema.NONE
  ]
  if not train:
    raise UserError(_why_nothing(request, outcomes))
  patients = grouping.patients(images, patient_map)
  groups = grouping.merged(patients.number, alike)
  given = _given_folds(train, groups)
  fold = given or folds.assign(
    [
      folds.Image(i.image_id, groups[i.image_id], i.area, (i.source, i.truth))
      for i in train
    ],
    request.num_folds,
    seed=request.seed,
  )
  number = len({*given.values()}) or request.num_folds
  splits: Splits = {schema.fold_split(k): [] for k in range(number)}
  for image in train:
    splits[schema.fold_split(fold[image.image_id])].append(image)
  test = [image for image in images if image.part == entries.TEST]
  unlabeled = [
    image
    for image in images
    if image.part == entries.TRAIN and image.truth == schema.NONE
  ]
  if test:
    splits[schema.TEST_SPLIT] = test
  if unlabeled:
    splits[schema.UNLABELED_SPLIT] = unlabeled
  return splits, patients


def _given_folds(
  train: Sequence[prepare.Prepared], groups: Mapping[str, Hashable]
) -> dict[str, int]:
  """Returns the folds that a manifest assigns, empty if it assigns none.

  Raises:
    UserError: It assigns folds to some films only, leaves out numbers, or
      divides films that belong to one group.
  """
  given = {i.image_id: i.fold for i in train if i.fold is not None}
  if given and len(given) < len(train):
    other = next(i.image_id for i in train if i.fold is None)
    raise UserError(
      f'the manifest gives {len(given)} of {len(train)} films a fold, and '
      f'{other} none: give all of them one, or none'
    )
  used = sorted({*given.values()})
  if given and (len(used) < 2 or used != [*range(len(used))]):
    raise UserError(
      'the films of the manifest are in the folds '
      f'{", ".join(map(str, used[:20]))}: number two or more from 0 on, and '
      'leave none empty'
    )
  first: dict[Hashable, str] = {}
  for name, fold in given.items():
    other = first.setdefault(groups[name], name)
    if given[other] != fold:
      raise UserError(
        f'the manifest puts {other} in fold {given[other]} and {name} in fold '
        f'{fold}, but they are of one patient or copies: put them in one fold'
      )
  return given


def _why_nothing(request: Request, outcomes: Sequence[prepare.Outcome]) -> str:
  where = request.manifest or request.dicom_dir
  outcomes = [o for o in outcomes if o.part == entries.TRAIN]
  if not outcomes:
    return f'every film of {where} is in the split test: none is left to train'
  rejected = [o for o in outcomes if isinstance(o, Rejection)]
  if 2 * len(rejected) < len(outcomes):
    if request.manifest:
      return f'no usable film of {where} has a label, mask or box'
    image_id = next(
      o.image_id for o in outcomes if isinstance(o, prepare.Prepared)
    )
    return (
      f'no usable file in {request.dicom_dir} has a row in {request.rle_csv}: '
      f'the ids of the files look like {image_id}'
    )
  counts = collections.Counter(o.reason for o in rejected)
  [(reason, count)] = counts.most_common(1)
  first = next(o for o in rejected if o.reason == reason)
  return (
    f'{len(rejected)} of {len(outcomes)} files in {where} were '
    f'rejected, {count} as {reason}, for example {first.path}: {first.detail}; '
    f'see that {request.manifest or request.rle_csv} is about these films'
  )


def _write(
  request: Request,
  splits: Splits,
  patients: grouping.Patients,
  patient_map: Mapping[str, str] | None,
  folder: pathlib.Path,
) -> pathlib.Path:
  # Late, as it imports TensorFlow, which the workers need not do.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')  # else it says so twice
  from data_prep import siim

  key = staging.secret(request.key_file)

  def digest(image: prepare.Prepared) -> str:
    if patient_map is None:
      return image.patient
    return prepare.patient_digest(patient_map.get(image.image_id, ''), key)

  root = folder / 'tfds'
  shutil.rmtree(root, ignore_errors=True)
  films = {
    name: [
      (image, patients.number[image.image_id], digest(image))
      for image in images
    ]
    for name, images in splits.items()
  }
  try:
    builder = siim.Siim(
      splits=films,
      folder=folder,
      image_size=request.image_size,
      written=_written(request, films, folder) if request.beam_runner else '',
      data_dir=root,
    )
    with contextlib.redirect_stdout(io.StringIO()):  # it speaks of downloads
      builder.download_and_prepare()
  except Exception as error:
    if os.strerror(errno.ENOSPC) in str(error):  # one of TensorFlow's own
      raise OSError(
        errno.ENOSPC, os.strerror(errno.ENOSPC), str(root)
      ) from error
    raise
  return pathlib.Path(builder.data_path)


def _written(
  request: Request,
  films: Mapping[str, Sequence[Any]],
  folder: pathlib.Path,
) -> pathlib.Path:
  """Returns a folder in which the workers of a cluster wrote all shards.

  TFDS' own pipelines would write all of a split on one worker of Dask.
  """
  from data_prep import beam, siim

  path = folder / 'shards'
  shutil.rmtree(path, ignore_errors=True)
  path.mkdir()
  write = functools.partial(
    siim.write_shard, folder=folder, image_size=request.image_size, to=path
  )
  beam.run(
    write,
    siim.shards(films),
    runner=request.beam_runner or '',
    options=request.beam_options,
  )
  return path
