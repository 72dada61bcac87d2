"""Which phantoms a set holds; draws them in processes and writes them."""

import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tqdm

from data_prep import staging
from data_prep.phantom import air, anatomy, devices, film, header
from pnx_jax import pool
from pnx_jax.errors import UserError
from pnx_jax.formats import files, rle

_ABOUT = 'phantom.json'
_BATCH = 4


class PhantomSet(NamedTuple):
  """What to make; equal values give equal bytes.

  Attributes:
    num_images: Labeled images.
    num_test_images: Unlabeled images.
    prevalence: Share of images with a pneumothorax.
    seed: Of everything random.
    image_size: Side in pixels.
    drain_with_air: Share with a chest drain of images with a pneumothorax.
    drain_without_air: Share with a chest drain of the others.
  """

  num_images: int
  num_test_images: int
  prevalence: float
  seed: int
  image_size: int
  drain_with_air: float = devices.DRAIN_WITH_AIR
  drain_without_air: float = devices.DRAIN_WITHOUT_AIR


class Job(NamedTuple):
  """One image to draw.

  Attributes:
    folder: Where it goes.
    number: Its number in the set.
    patient: Whose chest it shows.
    study: Number of the patient's film.
    rank: The rank of its mask's area among the positives, from 0 to 1; None
      for a negative.
  """

  folder: str
  number: int
  patient: int
  study: int
  rank: float | None


def plan(request: PhantomSet) -> list[Job]:
  """Returns which patients have which images, and which are positive.

  Raises:
    UserError: A value cannot be used.
  """
  for name in ('prevalence', 'drain_with_air', 'drain_without_air'):
    if not 0 <= getattr(request, name) <= 1:
      raise UserError(
        f'--{name}={getattr(request, name)} must be between 0 and 1'
      )
  if request.image_size < 64 or request.image_size % 8:
    raise UserError(
      f'--image_size={request.image_size} must be a multiple of 8, at least 64'
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
  request: PhantomSet, output_dir: str | os.PathLike[str], num_workers: int
) -> None:
  """Makes the images in a hidden folder, then moves them to `output_dir`.

  Raises:
    UserError: The set cannot be made, or `output_dir` holds something else.
  """
  jobs = plan(request)
  staging.finish(output_dir)
  if os.path.exists(output_dir) and not _is_phantom_set(output_dir):
    raise UserError(
      f'{output_dir} exists and was not made by data_prep.phantom: '
      'choose another --output_dir'
    )
  with staging.folder(output_dir) as folder:
    staging.empty(folder)
    made = folder / 'made'
    made.mkdir()
    labels: dict[int, tuple[str, list[str]]] = {}
    with tqdm.tqdm(total=len(jobs), unit='image', disable=None) as progress:
      for batch in pool.run(
        functools.partial(_write_batch, request, made),
        pool.batches(enumerate(jobs), _BATCH),
        num_workers=num_workers,
        on_death=_died,
      ):
        labels.update(batch)
        progress.update(len(batch))
    _write_tables(made, request, jobs, labels)
    _write_drains(made / 'drains.csv', request, jobs, labels)
    files.write_json(made / _ABOUT, request._asdict())
    staging.publish(made, output_dir)


# A job's number, its image id and its annotations.
_Drawn = tuple[int, tuple[str, list[str]]]


def draw(
  job: Job, request: PhantomSet
) -> tuple[np.ndarray, list[np.ndarray], anatomy.Patient, anatomy.Pose]:
  """Returns a radiograph, its annotations bool[S, S], its patient and pose."""
  patient = anatomy.Patient.draw((request.seed, 1, job.patient))
  random = np.random.default_rng((request.seed, 2, job.number))
  pose = anatomy.Pose.draw(patient, request.image_size, random)
  lost = None
  if job.rank is not None:
    lost = air.draw(patient, pose, job.rank, random)
  drained = has_drain(job, request)
  image = film.render(patient, pose, lost, random, drained=drained)
  return image, lost.rows if lost else [], patient, pose


def has_drain(job: Job, request: PhantomSet) -> bool:
  """Whether the image shows a chest drain.

  Images of two sets that differ in the shares alone have the same order of
  chances, so the smaller share has a part of the larger one's drains.
  """
  share = request.drain_with_air
  if job.rank is None:
    share = request.drain_without_air
  # The generator that `film.render` draws devices with, and its first number.
  film_random = np.random.default_rng((request.seed, 2, job.number))
  _, clutter, _ = film_random.spawn(3)
  return bool(clutter.random() < share)


def _write_batch(
  request: PhantomSet, folder: pathlib.Path, batch: pool.Batch[Job]
) -> list[_Drawn]:
  return [_write_image(job, request, folder) for _, job in batch]


def _write_image(job: Job, request: PhantomSet, folder: pathlib.Path) -> _Drawn:
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


def _patient_number(patient: int, seed: int) -> int:
  """Returns a number of eight digits that no other set's patient has.

  The patients of ChestX-ray14, and so of the challenge, end at 30,805.
  """
  return 10_000_000 + seed % 900 * 100_000 + patient


def _write_tables(
  folder: pathlib.Path,
  request: PhantomSet,
  jobs: Sequence[Job],
  labels: Mapping[int, tuple[str, list[str]]],
) -> None:
  """Annotations as in the challenge's first stage, and the true patients."""
  train = [job for job in jobs if job.folder == 'dicom-images-train']
  train.sort(key=lambda job: labels[job.number][0])
  annotations, patients = ['ImageId, EncodedPixels'], ['Kaggle_ID,NIH_ID']
  for job in train:
    image_id, rows = labels[job.number]
    annotations += [f'{image_id}, {row}' for row in rows or [rle.EMPTY]]
    patient = _patient_number(job.patient, request.seed)
    patients.append(f'{image_id},{patient:08d}_{job.study:03d}.png')
  files.write(folder / 'train-rle.csv', '\n'.join(annotations) + '\n')
  files.write(folder / 'nih_id.csv', '\n'.join(patients) + '\n')


def _write_drains(
  path: pathlib.Path,
  request: PhantomSet,
  jobs: Sequence[Job],
  labels: Mapping[int, tuple[str, list[str]]],
) -> None:
  """Which images show a drain, as a table for `eval.groups`."""
  rows = sorted(
    (labels[job.number][0], 'yes' if has_drain(job, request) else 'no')
    for job in jobs
  )
  files.write_csv(path, ('image_id', 'drain'), rows)


def _is_phantom_set(folder: str | os.PathLike[str]) -> bool:
  return not os.listdir(folder) or (pathlib.Path(folder) / _ABOUT).exists()


def _died(number: int, job: Job, death: pool.Death) -> _Drawn:
  raise RuntimeError(
    f'the worker that drew {job}, number {number}, died ({death.cause})'
  )
