"""Synthetic radiographs in the layout of the SIIM-ACR challenge.

  python -m data_prep.phantom --output_dir=data/phantom --num_images=600 \\
      --num_test_images=12 --prevalence=0.22 --seed=0

writes `dicom-images-train`, `dicom-images-test`, `train-rle.csv`,
`nih_id.csv` (image and patient) and `phantom.json` (how it was made). The same
seed gives the same bytes. They are for demonstrations and tests: nothing
learnt from them holds for patients.
"""

import functools
import json
import os
import pathlib
import sys
import uuid
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import pydicom
import tqdm
from absl import app, flags
from pydicom import dataelem, encaps, uid

from data_prep import phantom_air, phantom_anatomy, pool, working
from pnx_jax.errors import UserError
from pnx_jax.formats import rle

_ABOUT = 'phantom.json'
_JPEG_QUALITY = 92
_BATCH = 4
_FILM_MM = 146  # width of a film whose pixels are 0.143 mm at 1024


class Request(NamedTuple):
  """What to make; with the same values come the same bytes."""

  num_images: int
  num_test_images: int
  prevalence: float
  seed: int
  image_size: int


class Job(NamedTuple):
  """One image: `rank` of its mask's area among the positives, or None."""

  folder: str
  number: int
  patient: int
  study: int
  rank: float | None


def plan(request: Request) -> list[Job]:
  """Which patients have which images, and which of these are positive."""
  if not 0 <= request.prevalence <= 1:
    raise UserError(f'--prevalence={request.prevalence} is not in 0 to 1')
  if request.image_size < 64 or request.image_size % 8:
    raise UserError(
      f'--image_size={request.image_size}: take a multiple of 8 from 64 on'
    )
  random = np.random.default_rng(request.seed)
  jobs = []
  for folder, count in (
    ('dicom-images-train', request.num_images),
    ('dicom-images-test', request.num_test_images),
  ):
    # Most patients come once, few of them very often.
    studies = np.minimum(random.zipf(2.3, count), 61)
    first = jobs[-1].patient + 1 if jobs else 1
    patient = np.repeat(np.arange(count), studies)[:count]
    study = np.concatenate([np.arange(0), *map(np.arange, studies)])[:count]
    # The positives come from few patients, most of whom come often.
    key = random.random(count)[patient] ** studies[patient] ** 0.3
    key += 0.1 * random.random(count)
    positives = round(count * request.prevalence)
    ranks = np.full(count, np.nan)
    ranks[np.argsort(key)[:positives]] = (
      random.permutation(positives) + 0.5
    ) / max(positives, 1)
    jobs += [
      Job(
        folder,
        len(jobs) + index,
        first + int(patient[index]),
        int(study[index]),
        None if np.isnan(ranks[index]) else float(ranks[index]),
      )
      for index in range(count)
    ]
  return jobs


def write(
  request: Request, output_dir: str | os.PathLike, num_workers: int
) -> None:
  """Makes the images in a hidden folder, then moves them to `output_dir`."""
  jobs = plan(request)
  if os.path.exists(output_dir) and not _ours(output_dir):
    raise UserError(
      f'{output_dir} exists and was not made by data_prep.phantom: '
      'choose another --output_dir'
    )
  with working.folder(output_dir) as folder:
    working.empty(folder)
    made = folder / 'made'
    made.mkdir()
    batches = [(n, jobs[n : n + _BATCH]) for n in range(0, len(jobs), _BATCH)]
    labels = {}
    with tqdm.tqdm(total=len(jobs), unit='image', disable=None) as progress:
      for batch in pool.run(
        functools.partial(_write_batch, request, made),
        batches,
        num_workers=num_workers,
        on_crash=_crashed,
      ):
        labels.update(batch)
        progress.update(len(batch))
    _write_tables(made, jobs, labels)
    about = json.dumps(request._asdict(), indent=2)
    (made / _ABOUT).write_text(about + '\n')
    working.publish(made, output_dir)


def draw(job: Job, request: Request):
  """Returns the radiograph, its annotations bool[S, S], patient and pose."""
  patient = phantom_anatomy.Patient.draw((request.seed, 1, job.patient))
  random = np.random.default_rng((request.seed, 2, job.number))
  pose = phantom_anatomy.Pose.draw(patient, request.image_size, random)
  air = None
  if job.rank is not None:
    air = phantom_air.draw(patient, pose, job.rank, random)
  image = phantom_anatomy.render(patient, pose, air, random)
  return image, air.rows if air else [], patient, pose


def _write_batch(request: Request, folder: pathlib.Path, batch) -> list:
  return [_write_image(job, request, folder) for job in batch[1]]


def _write_image(job: Job, request: Request, folder: pathlib.Path):
  image, rows, patient, pose = draw(job, request)
  names = np.random.default_rng((request.seed, 3, job.number))
  study, series, image_id, person = (
    uuid.UUID(bytes=names.bytes(16), version=4) for _ in range(4)
  )
  dataset = _dataset(image, patient, pose)
  dataset.PatientName = dataset.PatientID = str(person)
  dataset.StudyInstanceUID = f'2.25.{study.int}'
  dataset.SeriesInstanceUID = f'2.25.{series.int}'
  dataset.SOPInstanceUID = f'2.25.{image_id.int}'
  meta = pydicom.dataset.FileMetaDataset()
  meta.MediaStorageSOPClassUID = dataset.SOPClassUID
  meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
  meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
  dataset.file_meta = meta
  path = (
    folder / job.folder / dataset.StudyInstanceUID / dataset.SeriesInstanceUID
  )
  path.mkdir(parents=True)
  dataset.save_as(
    path / f'{dataset.SOPInstanceUID}.dcm', enforce_file_format=True
  )
  return job.number, (dataset.SOPInstanceUID, [rle.encode(row) for row in rows])


def _dataset(image: np.ndarray, patient, pose) -> pydicom.Dataset:
  """A header with the attributes, and the oddities, of the challenge's."""
  dataset = pydicom.Dataset()
  dataset.SpecificCharacterSet = 'ISO_IR 100'
  dataset.SOPClassUID = uid.SecondaryCaptureImageStorage
  dataset.StudyDate = '19010101'
  dataset.StudyTime = '000000.00'
  dataset.AccessionNumber = ''
  dataset.Modality = 'CR'
  dataset.ConversionType = 'WSD'
  dataset.ReferringPhysicianName = ''
  view = 'AP' if pose.portable else 'PA'
  dataset.SeriesDescription = f'view: {view}'
  dataset.PatientBirthDate = ''
  dataset.PatientSex = 'F' if patient.female else 'M'
  # The challenge writes a bare number where DICOM asks for `069Y`.
  dataset[0x00101010] = dataelem.DataElement(
    0x00101010,
    'AS',
    str(patient.age),
    validation_mode=pydicom.config.IGNORE,
  )
  dataset.BodyPartExamined = 'CHEST'
  dataset.ViewPosition = view
  dataset.StudyID = ''
  dataset.SeriesNumber = '1'
  dataset.InstanceNumber = '1'
  dataset.PatientOrientation = ''
  dataset.SamplesPerPixel = 1
  dataset.PhotometricInterpretation = 'MONOCHROME2'
  dataset.Rows, dataset.Columns = image.shape
  spacing = f'{_FILM_MM / image.shape[0]:.4g}'
  dataset.PixelSpacing = [spacing, spacing]
  dataset.BitsAllocated = dataset.BitsStored = 8
  dataset.HighBit = 7
  dataset.PixelRepresentation = 0
  dataset.LossyImageCompression = '01'
  dataset.LossyImageCompressionMethod = 'ISO_10918_1'
  _, data = cv2.imencode(
    '.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
  )
  dataset.PixelData = encaps.encapsulate([data.tobytes()])
  return dataset


def _write_tables(folder: pathlib.Path, jobs: Sequence[Job], labels) -> None:
  """Annotations as in the challenge's first stage, and the true patients."""
  train = [job for job in jobs if job.folder == 'dicom-images-train']
  train.sort(key=lambda job: labels[job.number][0])
  annotations, patients = ['ImageId, EncodedPixels'], ['Kaggle_ID,NIH_ID']
  for job in train:
    image_id, rows = labels[job.number]
    annotations += [f'{image_id}, {row}' for row in rows or [rle.EMPTY]]
    patients.append(f'{image_id},{job.patient:08d}_{job.study:03d}.png')
  (folder / 'train-rle.csv').write_text('\n'.join(annotations) + '\n')
  (folder / 'nih_id.csv').write_text('\n'.join(patients) + '\n')


def _ours(folder: str | os.PathLike) -> bool:
  return not os.listdir(folder) or (pathlib.Path(folder) / _ABOUT).exists()


def _crashed(job: Job):
  raise RuntimeError(f'the worker that drew {job} died')


def main(argv: Sequence[str]) -> None:
  del argv
  values = flags.FLAGS
  request = Request(*(values[name].value for name in Request._fields))
  try:
    write(request, values.output_dir, values.num_workers)
  except (UserError, working.Busy) as error:
    sys.exit(f'data_prep.phantom: {error}')
  print(
    f'{values.output_dir}: {request.num_images} labelled and '
    f'{request.num_test_images} unlabelled synthetic radiographs'
  )


def _define_flags() -> None:
  flags.DEFINE_string('output_dir', None, 'The folder to make.')
  flags.DEFINE_integer('num_images', 600, 'Labelled images.', lower_bound=1)
  flags.DEFINE_integer('num_test_images', 12, 'Others.', lower_bound=0)
  flags.DEFINE_float('prevalence', 0.22, 'Share with a pneumothorax.')
  flags.DEFINE_integer('seed', 0, 'Same seed, same bytes.', lower_bound=0)
  flags.DEFINE_integer('image_size', 1024, 'Side in pixels.')
  flags.DEFINE_integer(
    'num_workers', len(os.sched_getaffinity(0)), 'Processes.', lower_bound=1
  )
  flags.mark_flag_as_required('output_dir')


if __name__ == '__main__':
  _define_flags()
  app.run(main)
