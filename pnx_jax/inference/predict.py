"""--mode=predict: films in, a prioritized worklist and marked pictures out."""

import collections
import logging
import os
import pathlib
import time
from collections.abc import Callable, Collection, Sequence

import cv2

from pnx_jax import pool
from pnx_jax.formats import dicom, dicom_seg
from pnx_jax.inference import discovery, output_folder, page, worklist
from pnx_jax.inference.assessment import Assessment
from pnx_jax.inference.discovery import Source
from pnx_jax.inference.journal import Journal
from pnx_jax.inference.outputs import PICTURE_SIZE, RESEARCH_ONLY, Outputs
from pnx_jax.inference.readings import Reading
from pnx_jax.inference.shards import Shard
from pnx_jax.prediction import decoding, evaluation_seal, predictor
from pnx_jax.storage import local
from pnx_jax.training import preemption, run_files
from pnx_jax.training.progress import Progress

_SECONDS_BETWEEN_REPORTS = 10

_logger = logging.getLogger(__name__)


def predict(
  inputs: Sequence[str],
  output_dir: str | os.PathLike[str],
  *,
  model: str | os.PathLike[str],
  accept_modality: Collection[str] = dicom.RADIOGRAPHY,
  with_dicom_seg: bool = False,
  limits: pool.Limits = pool.Limits(),  # noqa: B008 (frozen)
  verify: bool = False,
  accept_edited: bool = False,
  shard: Shard | None = None,
) -> list[Reading]:
  """Predicts all films among `inputs` that `output_dir` does not hold yet.

  Writes page, tables, masks and pictures of all films in `output_dir`,
  whatever run predicted them. A signal ends a run early; the same command
  resumes it.

  Args:
    inputs: files and folders.
    output_dir: made where it is missing.
    model: an evaluated run, or an export.
    accept_modality: see `dicom.read`.
    with_dicom_seg: write masks as DICOM SEG, too.
    limits: of time and memory for reading one film.
    verify: read known films again even where they seem unchanged; those with
      other bytes are predicted again.
    accept_edited: use a model whose files were edited after they were sealed;
      every output names them.
    shard: predict its films only. Several shards may run at once; each one
      that ends writes page and tables of all films that are done by then.

  Returns:
    The readings, the most urgent first.

  Raises:
    UserError: an input or the model is missing, `output_dir` belongs to another
      model, holds foreign files in our places or cannot be written.
  """
  cv2.setNumThreads(1)
  if with_dicom_seg:
    dicom_seg.check_installed()
  sources = discovery.find(inputs, leave_out=output_dir)
  options = predictor.read_options(model, accept_edited=accept_edited)._replace(
    accept_modality=tuple(name.upper() for name in accept_modality),
    picture_size=PICTURE_SIZE,
    dicom_seg=with_dicom_seg,
  )
  outputs = Outputs(pathlib.Path(output_dir), with_dicom_seg)
  output_folder.claim(output_dir)
  own = [one for one in sources if shard is None or shard.takes(one)]
  with preemption.watch() as stop:
    with Journal(output_dir, shard) as journal:
      known = {source.name: _known(journal, outputs, source) for source in own}
      left = [
        source
        for source in own
        if verify
        or (reading := known[source.name]) is None
        or reading.stamp != source.stamp
      ]
      _logger.info('%d films, %d of them to be read.', len(own), len(left))
      digests = [
        reading.digest if (reading := known[source.name]) else ''
        for source in left
      ]
      with decoding.read(
        [source.path for source in left],
        options,
        num_workers=max(1, pool.num_cores() // 2),  # The rest is the network's.
        limits=limits,
        digests=digests,
      ) as films:
        loaded = predictor.load(model, accept_edited=accept_edited)
        ensemble = loaded.ensemble
        versions = {
          'model': ensemble.version,
          'rules': ensemble.rules_version,
          'seal': ensemble.seal,
        }
        journal.check_model(versions['model'], versions['rules'])
        assess = Assessment(
          sources=left,
          outputs=outputs,
          versions=versions,
          earlier=journal.with_masks(
            {
              source.name
              for source, digest in zip(left, digests, strict=True)
              if digest
            }
          ),
        )
        report, done = _reports(len(left)), 0
        for done, reading in enumerate(loaded.run(films, assess), 1):
          journal.append(reading)
          report(done)
          if stop(done):
            break
    with Journal(output_dir, wait=True) as journal:
      journal.check_model(versions['model'], versions['rules'])
      readings = worklist.in_order(journal.readings())
      missing = sum(source.name not in journal.known for source in sources)
      worklist.write(outputs.folder, readings)
      page.write(
        outputs.folder / 'worklist.html',
        readings,
        outputs.pictures,
        about=versions | {'code': run_files.commit()},
        points=ensemble.postprocess.operating_points,
        data=ensemble.data,
      )
  _summarize(outputs.folder, readings)
  if ensemble.seal != evaluation_seal.SEALED:
    print(f'The model: {ensemble.seal}.')
  if shard and missing:
    print(f'{missing} films have no prediction yet.')
  if done < len(left):
    print(f'{len(left) - done} films are left: run the same command to resume.')
  return readings


def _known(
  journal: Journal, outputs: Outputs, source: Source
) -> Reading | None:
  """The reading of a film that was assessed and has its files.

  A film that was not assessed is read again: that costs little, and a repaired
  file or another `accept_modality` changes the result.
  """
  known = journal.known.get(source.name)
  if known is None or not known.assessed:
    return None
  return known if all(p.exists() for p in outputs.expected(known)) else None


def _reports(total: int) -> Callable[[int], None]:
  """A function that takes how many films are done and logs it at times."""
  rate = Progress(first_step=0, total_steps=total, batch_size=1)
  logged = time.monotonic()

  def report(done: int) -> None:
    nonlocal logged
    if time.monotonic() - logged < _SECONDS_BETWEEN_REPORTS:
      return
    logged = time.monotonic()
    speed = rate.report(done)['images_per_second']
    _logger.info(
      '%d of %d films, %.1f a second, %s left.',
      done,
      total,
      speed,
      rate.remaining,
    )

  return report


def _summarize(folder: pathlib.Path, readings: Sequence[Reading]) -> None:
  positive = sum(reading.area > 0 for reading in readings)
  reasons = collections.Counter(r.reason for r in readings if not r.assessed)
  refused = ', '.join(f'{n} {why}' for why, n in reasons.most_common())
  print(f'{len(readings) - reasons.total()} films assessed, {positive} marked')
  print(f'{reasons.total()} not assessed{refused and ": " + refused}')
  written = map(str, output_folder.written(folder))
  print('Wrote', ', '.join(map(local.origin, written)))
  print(f'For {RESEARCH_ONLY}.')
