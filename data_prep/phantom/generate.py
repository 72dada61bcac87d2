"""Which phantoms a request asks for, drawn by a pool and written."""

import functools
import json
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tqdm

from data_prep import staging
from data_prep.phantom import air, anatomy, film, header
from pnx_jax import pool
from pnx_jax.errors import UserError
from pnx_jax.formats import rle

_ABOUT = 'phantom.json'
_BATCH = 4


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
    # Most patients come once, few of them very often, but none makes up more
    # than a sixtieth of a small set.
    most = min(61, max(4, count // 60))
    studies = np.minimum(random.zipf(2.3, count), most)
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
  staging.settle(output_dir)
  if os.path.exists(output_dir) and not _ours(output_dir):
    raise UserError(
      f'{output_dir} exists and was not made by data_prep.phantom: '
      'choose another --output_dir'
    )
  with staging.folder(output_dir) as folder:
    staging.empty(folder)
    made = folder / 'made'
    made.mkdir()
    labels = {}
    with tqdm.tqdm(total=len(jobs), unit='image', disable=None) as progress:
      for batch in pool.run(
        functools.partial(_write_batch, request, made),
        pool.batches(enumerate(jobs), _BATCH),
        num_workers=num_workers,
        on_death=_died,
      ):
        labels.update(batch)
        progress.update(len(batch))
    _write_tables(made, jobs, labels)
    about = json.dumps(request._asdict(), indent=2)
    (made / _ABOUT).write_text(about + '\n')
    staging.publish(made, output_dir)


def draw(job: Job, request: Request):
  """Returns the radiograph, its annotations bool[S, S], patient and pose."""
  patient = anatomy.Patient.draw((request.seed, 1, job.patient))
  random = np.random.default_rng((request.seed, 2, job.number))
  pose = anatomy.Pose.draw(patient, request.image_size, random)
  lost = None
  if job.rank is not None:
    lost = air.draw(patient, pose, job.rank, random)
  image = film.render(patient, pose, lost, random)
  return image, lost.rows if lost else [], patient, pose


def _write_batch(
  request: Request, folder: pathlib.Path, batch: pool.Batch
) -> list:
  return [_write_image(job, request, folder) for _, job in batch]


def _write_image(job: Job, request: Request, folder: pathlib.Path):
  image, rows, patient, pose = draw(job, request)
  names = np.random.default_rng((request.seed, 3, job.number))
  dataset = header.dataset(image, patient, pose, names)
  path = (
    folder / job.folder / dataset.StudyInstanceUID / dataset.SeriesInstanceUID
  )
  path.mkdir(parents=True)
  dataset.save_as(
    path / f'{dataset.SOPInstanceUID}.dcm', enforce_file_format=True
  )
  return job.number, (dataset.SOPInstanceUID, [rle.encode(row) for row in rows])


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


def _died(number: int, job: Job, death: pool.Death):
  raise RuntimeError(
    f'the worker that drew {job}, number {number}, died ({death.cause})'
  )
