"""Prepares all files of a build: in processes or by Beam, anew or resumed."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterable, Sequence

import tqdm

from data_prep import prepare, sources, working
from data_prep.request import Request
from pnx_jax import pool
from pnx_jax.errors import UserError
from pnx_jax.formats import schema

_FILES_PER_BATCH = 32
_SECONDS_PER_FILE = 60


def run(
  request: Request, files: Sequence[sources.Source], folder: pathlib.Path
) -> list[prepare.Outcome]:
  """Returns the outcome of every file, prepared now or by an earlier run."""
  outcomes = {
    outcome.path: outcome for outcome in _left_over(request, files, folder)
  }
  stop_at_bad_file(request, outcomes.values())
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
    stop_at_bad_file(request, done)
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
      stop_at_bad_file(request, done)
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


def stop_at_bad_file(
  request: Request, outcomes: Iterable[prepare.Outcome]
) -> None:
  """Raises an error for the first rejection, where that is wanted."""
  if request.on_bad_file != 'fail':
    return
  for outcome in outcomes:
    if isinstance(outcome, sources.Rejection):
      raise UserError(f'{outcome.path}: {outcome.reason}: {outcome.detail}')


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


def _crashed(source: sources.Source) -> sources.Rejection:
  return sources.reject(
    source, 'undecodable', 'the decoder crashed or took too long'
  )


def _stamp(path: str) -> tuple[int, int]:
  status = os.stat(path)
  return status.st_size, status.st_mtime_ns
