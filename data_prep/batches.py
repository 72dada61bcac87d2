"""Prepares all files of a build: in processes or by Beam, anew or resumed."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterable, Sequence

import tqdm

from data_prep import prepare, sources, staging
from data_prep.request import Request
from pnx_jax import pool
from pnx_jax.errors import UserError
from pnx_jax.formats import refusals, schema

_FILES_PER_BATCH = 32


def run(
  request: Request, files: Sequence[sources.Source], folder: pathlib.Path
) -> list[prepare.Outcome]:
  """Returns the outcome of every file, prepared now or by an earlier run."""
  done = _left_over(request, files, folder)
  stop_at_bad_file(request, done.values())
  batches = pool.batches(
    (
      (number, file)
      for number, file in enumerate(files)
      if file.path not in done
    ),
    _FILES_PER_BATCH,
  )
  prepare_them = _on_cluster if request.beam_runner else _in_processes
  prepare_them(request, batches, folder)
  outcomes = prepare.finished(folder)
  return [outcomes[file.path] for file in files]


def _in_processes(
  request: Request, batches: Sequence[pool.Batch], folder: pathlib.Path
) -> None:
  def died(
    number: int, source: sources.Source, death: pool.Death
  ) -> sources.Rejection:
    outcome = sources.reject(source, *refusals.of_death(death))
    prepare.save([(number, source)], [outcome], folder)
    return outcome

  with tqdm.tqdm(
    total=sum(map(len, batches)), unit=' films', disable=None
  ) as progress:
    for done in pool.run(
      _function(request, folder),
      batches,
      num_workers=request.num_workers,
      on_death=died,
    ):
      progress.update(len(done))
      stop_at_bad_file(request, done)


def _on_cluster(
  request: Request, batches: Sequence[pool.Batch], folder: pathlib.Path
) -> None:
  try:
    from data_prep import beam
  except ImportError as error:
    raise UserError(
      f"--beam_runner needs Apache Beam: pip install -e '.[beam]' ({error})"
    ) from error
  beam.run(
    _function(request, folder),
    batches,
    runner=request.beam_runner,
    options=request.beam_options,
  )
  stop_at_bad_file(request, prepare.finished(folder).values())


def _function(request: Request, folder: pathlib.Path):
  return functools.partial(
    prepare.run_batch,
    options=request.options,
    folder=folder,
    salt=staging.salt(folder),
  )


def _left_over(
  request: Request, files: Sequence[sources.Source], folder: pathlib.Path
) -> dict[str, prepare.Outcome]:
  """Returns what an interrupted build of the same inputs had done."""
  inputs = [
    schema.VERSION,
    dataclasses.astuple(request.options),
    [(*dataclasses.astuple(file), *_stamp(file.path)) for file in files],
  ]
  unfinished = staging.is_begun(folder)
  if staging.matches(folder, inputs):
    for path in folder.glob(f'*{prepare.UNFINISHED}'):
      path.unlink()
    done = prepare.finished(folder)
    print(f'Going on with an interrupted build: {len(done)} files are done.')
    return done
  if unfinished:
    print('Removed what an interrupted build of other inputs had left.')
  return {}


def stop_at_bad_file(
  request: Request, outcomes: Iterable[prepare.Outcome]
) -> None:
  """Raises an error for the first rejection, where that is wanted."""
  if request.on_bad_file != 'fail':
    return
  for outcome in outcomes:
    if isinstance(outcome, sources.Rejection):
      raise UserError(f'{outcome.path}: {outcome.reason}: {outcome.detail}')


def _stamp(path: str) -> tuple[int, int]:
  try:
    status = os.stat(path)
  except OSError:  # Reading it will tell.
    return -1, -1
  return status.st_size, status.st_mtime_ns
