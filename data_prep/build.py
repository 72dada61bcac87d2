"""DICOM radiographs and their annotations -> TFRecords in TFDS layout.

  python -m data_prep.build --dicom_dir=dicom-images-train \\
      --rle_csv=train-rle.csv --test_dicom_dir=dicom-images-test \\
      --patient_map=nih_id.csv --output_dir=data/siim --image_size=512

The output folder holds the records (splits fold0 ... and test), `build.json`
(what went in and out), `rejected.csv` (what was left out and why) and
`folds.csv`. It appears when it is complete and not before. Run the same command
again to resume a build that was interrupted.
"""

import dataclasses
import functools
from collections.abc import Sequence

from absl import app, flags, logging

from data_prep import dataset, report
from data_prep.request import Request
from pnx_jax import film_flags, pool
from pnx_jax.cli import one_line, parse_flags
from pnx_jax.errors import UserError
from pnx_jax.formats import dicom, grayscale
from pnx_jax.storage import local
from pnx_jax.storage.addresses import is_address

_INPUTS = ('dicom_dir', 'rle_csv', 'manifest', 'test_dicom_dir', 'patient_map')


def main(argv: Sequence[str]) -> None:
  del argv
  logging.set_verbosity(logging.WARNING)
  values = {
    field.name: flags.FLAGS[field.name].value
    for field in dataclasses.fields(Request)
  }
  for name in ('accept_modality', 'accept_body_part'):
    values[name] = tuple(word.upper() for word in values[name] if word)
  values['keep_columns'] = tuple(map(str.lower, values['keep_columns']))
  request = Request(**values)
  with one_line():
    summary = build(request)
  print(report.text(summary, request.output_dir))


def build(request: Request) -> report.Report:
  """Builds a dataset from files, and into a folder, that may be in buckets.

  Raises:
    UserError: The request cannot be met, or a bucket cannot be used.
  """
  if request.beam_runner:
    _check_shared(request)
  if is_address(request.output_dir) and not request.patient_key:
    raise UserError(
      f'--output_dir={request.output_dir} needs --patient_key: a file on this '
      'machine, made where it is missing; keep it, and share it with nobody'
    )
  inputs = {
    name: local.fetched(path)
    for name in _INPUTS
    if (path := getattr(request, name))
  }
  with local.working_copy(
    request.output_dir, lock='build', wanted=_is_small, replaces=True
  ) as copy:
    output_dir = str(copy.path)
    return dataset.build(
      dataclasses.replace(request, **inputs, output_dir=output_dir)
    )


def _check_shared(request: Request) -> None:
  """Raises UserError where workers on other machines would miss a copy."""
  for name in (*_INPUTS, 'output_dir'):
    path = getattr(request, name)
    if path and is_address(path):
      raise UserError(
        f'--{name}={path}: --beam_runner takes only files on a disk that all '
        'workers share; copy them there, or mount the bucket'
      )


def _is_small(name: str) -> bool:
  return '.tfrecord' not in name


def _define_flags() -> None:
  flags.DEFINE_string('dicom_dir', None, 'Folder of the training DICOM files.')
  flags.DEFINE_string(
    'rle_csv', None, 'Csv of the training masks: ImageId,EncodedPixels.'
  )
  flags.DEFINE_string(
    'manifest',
    None,
    'Csv of DICOM, PNG and JPEG films with their annotations, instead of '
    '--dicom_dir, --rle_csv and --test_dicom_dir; see docs/data.md.',
  )
  flags.DEFINE_list(
    'keep_columns',
    [],
    'Further columns of the manifest, kept in kept_columns.csv.',
  )
  flags.DEFINE_string('output_dir', None, 'Folder of the dataset.')
  flags.DEFINE_string(
    'test_dicom_dir', None, 'Folder of the DICOM files of the split test.'
  )
  flags.DEFINE_string(
    'patient_map',
    None,
    'Csv of image id and patient, such as nih_id.csv; the films of a patient '
    'are put into one fold. By default patients are those of PatientID.',
  )
  flags.DEFINE_string(
    'patient_key',
    None,
    'File of the secret key for the digests of patients; created if missing. '
    'The default is .patient_key beside --output_dir, unless that is in a '
    'bucket.',
  )
  flags.DEFINE_integer(
    'image_size', 1024, 'Side of the stored images in pixels.', lower_bound=1
  )
  flags.DEFINE_enum(
    'window', 'auto', grayscale.WINDOWS, 'How pixel values become gray levels.'
  )
  flags.DEFINE_list(
    'accept_modality',
    list(dicom.RADIOGRAPHY),
    'Accepted modalities; empty for all.',
  )
  flags.DEFINE_list(
    'accept_body_part',
    list(dicom.CHEST),
    'BodyPartExamined, if present, must contain one of these words; empty for '
    'all.',
  )
  flags.DEFINE_bool(
    'keep_test_copies',
    False,
    'Keep training films of which a copy is in the split test.',
  )
  flags.DEFINE_integer('num_folds', 5, 'Number of folds.', lower_bound=2)
  flags.DEFINE_integer('seed', 0, 'Seed of the assignment to folds.')
  flags.DEFINE_enum(
    'on_bad_file',
    'reject',
    ['reject', 'fail'],
    'reject: list bad films in rejected.csv and continue. fail: stop at the '
    'first one.',
  )
  flags.DEFINE_bool('overwrite', False, 'Replace an existing dataset.')
  flags.DEFINE_integer(
    'num_workers', pool.num_cores(), 'Worker processes.', lower_bound=1
  )
  film_flags.define_limits()
  flags.adopt_module_key_flags(film_flags)
  flags.DEFINE_string(
    'beam_runner', None, 'Apache Beam runner, instead of worker processes.'
  )
  flags.DEFINE_string(
    'beam_options', '', 'Options of the Beam pipeline: name=value,...'
  )
  flags.mark_flag_as_required('output_dir')


if __name__ == '__main__':
  _define_flags()
  app.run(
    main,
    flags_parser=functools.partial(
      parse_flags, buckets=(*_INPUTS, 'output_dir')
    ),
  )
