"""New films in, a prioritised list and marked pictures out."""

import collections
import logging
import os
import pathlib
import time
from collections.abc import Callable, Collection, Sequence

import cv2

import pnx_jax
from pnx_jax import pool
from pnx_jax.formats import dicom, dicom_seg
from pnx_jax.inference import decoding, discovery, page, worklist
from pnx_jax.inference.assessment import Reader
from pnx_jax.inference.decoding import Looks
from pnx_jax.inference.discovery import Source
from pnx_jax.inference.journal import Journal
from pnx_jax.inference.outputs import RESEARCH_ONLY, Outputs
from pnx_jax.inference.readings import Reading
from pnx_jax.prediction import exported
from pnx_jax.prediction.deployment import Deployment
from pnx_jax.training import preemption, run_files, sharding
from pnx_jax.training.progress import Progress

_SECONDS_BETWEEN_REPORTS = 10

_logger = logging.getLogger(__name__)


def predict(
  inputs: Sequence[str],
  output_dir: str | os.PathLike,
  *,
  model: str | os.PathLike,
  accept_modality: Collection[str] = dicom.RADIOGRAPHY,
  with_dicom_seg: bool = False,
) -> list[Reading]:
  """Reads all films among `inputs` that `output_dir` does not know yet.

  Leaves there page, tables, masks and pictures of all films it knows then,
  whatever run has read them. A signal ends a run early; the next one goes on.

  Args:
    inputs: files and folders.
    output_dir: where to; made where it is missing.
    model: an evaluated run, or an export.
    accept_modality: see `dicom.read`.
    with_dicom_seg: write masks as DICOM SEG, too.

  Returns:
    The readings, the most urgent first.

  Raises:
    UserError: an input or the model is missing, `output_dir` belongs to another
      model or cannot be written.
  """
  cv2.setNumThreads(1)
  if with_dicom_seg:
    dicom_seg.check_installed()
  sources = discovery.find(inputs, leave_out=output_dir)
  is_export = pathlib.Path(model, exported.SETTINGS).exists()
  seen = _seen_by_export(model) if is_export else _seen_by_run(model)
  looks = Looks(*seen, tuple(name.upper() for name in accept_modality))
  outputs = Outputs(pathlib.Path(output_dir), with_dicom_seg)
  with preemption.watch() as stop, Journal(output_dir) as journal:
    left = [one for one in sources if not _is_done(journal, outputs, one)]
    _logger.info('%d films, %d of them to be read.', len(sources), len(left))
    workers = max(1, pool.num_cores() // 2)  # The rest is for what follows.
    with decoding.read(left, looks, num_workers=workers) as found:
      loaded = pnx_jax.load(model)
      # Exported programs are written for one device.
      mesh = None if is_export else sharding.mesh()
      reader = Reader(loaded, outputs, mesh=mesh)
      journal.check_model(**reader.versions)
      report, done = _reports(len(left)), 0
      for done, reading in enumerate(reader.readings(found), 1):
        journal.append(reading)
        report(done)
        if stop(done):
          break
    readings = worklist.in_order(journal.readings())
    worklist.write(outputs.folder, readings)
    page.write(
      outputs.folder / 'worklist.html',
      readings,
      outputs.pictures,
      about=reader.versions | {'code': run_files.commit()},
      points=loaded.postprocess.operating_points,
      data=loaded.data,
    )
  _summarise(outputs.folder, readings)
  if done < len(left):
    print(f'{len(left) - done} films are left: the same command goes on.')
  return readings


def _seen_by_run(path) -> tuple[int, str]:
  """A model's image size and window, known long before it is loaded."""
  deployment = Deployment.load(path)
  members = deployment.members(path)
  sizes = (run_files.load(member.workdir).image_size for member in members)
  return max(sizes), deployment.window


def _seen_by_export(path) -> tuple[int, str]:
  settings = exported.read_settings(pathlib.Path(path))
  return settings['image_size'], settings['window']


def _is_done(journal: Journal, outputs: Outputs, source: Source) -> bool:
  """Whether a film was assessed, did not change since, and has its files.

  What was not assessed is looked at again: it costs little, and a mended file
  or another `accept_modality` changes it.
  """
  known = journal.known.get(source.name)
  if known is None or not known.assessed or known.stamp != source.stamp:
    return False
  return all(path.exists() for path in outputs.expected(known))


def _reports(total: int) -> Callable[[int], None]:
  """A function that takes how many films are done, and says so at times."""
  rate = Progress(first_step=0, total_steps=total, batch_size=1)
  said = time.monotonic()

  def report(done: int) -> None:
    nonlocal said
    if time.monotonic() - said < _SECONDS_BETWEEN_REPORTS:
      return
    said = time.monotonic()
    speed = rate.report(done)['images_per_second']
    _logger.info(
      '%d of %d films, %.1f a second, %s left.',
      done,
      total,
      speed,
      rate.remaining,
    )

  return report


def _summarise(folder: pathlib.Path, readings: Sequence[Reading]) -> None:
  positive = sum(reading.area > 0 for reading in readings)
  reasons = collections.Counter(r.reason for r in readings if not r.assessed)
  refused = ', '.join(f'{n} {why}' for why, n in reasons.most_common())
  print(f'{len(readings) - reasons.total()} films assessed, {positive} marked')
  print(f'{reasons.total()} not assessed{refused and ": " + refused}')
  print('Wrote', ', '.join(sorted(str(path) for path in folder.iterdir())))
  print(f'For {RESEARCH_ONLY}.')
