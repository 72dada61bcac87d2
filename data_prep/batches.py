"""Prepares all films of a build, in processes or by Beam; resumes a build."""

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence

import tqdm

from data_prep import prepare, staging
from data_prep.entries import Entry, Rejection, reject
from data_prep.request import Request
from pnx_jax import pool
from pnx_jax.errors import UserError
from pnx_jax.formats import refusals, schema

_FILMS_PER_BATCH = 32

_Function = Callable[[pool.Batch[Entry]], list[prepare.Outcome]]


def run(
  request: Request, entries: Sequence[Entry], folder: pathlib.Path
) -> list[prepare.Outcome]:
  """Returns the outcome of every entry, prepared now or by an earlier run."""
  done = _left_over(request, entries, folder)
  check = _Check(request)
  check(done.values())
  batches = pool.batches(
    (
      (number, entry)
      for number, entry in enumerate(entries)
      if entry.path not in done
    ),
    _FILMS_PER_BATCH,
  )
  prepare_them = _on_cluster if request.beam_runner else _in_processes
  prepare_them(request, batches, folder, check)
  outcomes = prepare.finished(folder)
  return [outcomes[entry.path] for entry in entries]


def stop_at_bad_film(
  request: Request, outcomes: Iterable[prepare.Outcome]
) -> None:
  """Raises UserError for the first rejection, with --on_bad_file=fail."""
  if request.on_bad_file != 'fail':
    return
  for outcome in outcomes:
    if isinstance(outcome, Rejection):
      raise UserError(f'{outcome.path}: {outcome.reason}: {outcome.detail}')


class _Check:
  """Ends a build whose films are rejected, if that is wanted or too odd."""

  def __init__(self, request: Request):
    self._request = request
    self._defects = refusals.Defects()

  def __call__(self, outcomes: Iterable[prepare.Outcome]) -> None:
    outcomes = list(outcomes)
    stop_at_bad_film(self._request, outcomes)
    for outcome in outcomes:
      if isinstance(outcome, Rejection):
        self._defects.check(refusals.Refusal(outcome.reason, outcome.detail))


def _in_processes(
  request: Request,
  batches: Sequence[pool.Batch[Entry]],
  folder: pathlib.Path,
  check: _Check,
) -> None:
  def died(number: int, entry: Entry, death: pool.Death) -> prepare.Outcome:
    outcome = reject(entry, *refusals.of_death(death))
    prepare.save([(number, entry)], [outcome], folder)
    return outcome

  with tqdm.tqdm(
    total=sum(map(len, batches)), unit=' films', disable=None
  ) as progress:
    for done in pool.run(
      _function(request, folder),
      batches,
      num_workers=request.num_workers,
      on_death=died,
      limits=request.limits,
    ):
      progress.update(len(done))
      check(done)


def _on_cluster(
  request: Request,
  batches: Sequence[pool.Batch[Entry]],
  folder: pathlib.Path,
  check: _Check,
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
    runner=request.beam_runner or '',
    options=request.beam_options,
  )
  check(prepare.finished(folder).values())


def _function(request: Request, folder: pathlib.Path) -> _Function:
  return functools.partial(
    prepare.run_batch,
    options=request.options,
    folder=folder,
    salt=staging.secret(request.key_file),
  )


def _left_over(
  request: Request, entries: Sequence[Entry], folder: pathlib.Path
) -> dict[str, prepare.Outcome]:
  """Returns what an interrupted build of the same inputs had prepared."""
  inputs = [
    schema.VERSION,
    hashlib.sha256(staging.secret(request.key_file)).hexdigest(),
    dataclasses.astuple(request.options),
    [(*dataclasses.astuple(entry), *_identity(entry)) for entry in entries],
  ]
  unfinished = staging.is_begun(folder)
  if staging.matches(folder, inputs):
    prepare.remove_partial(folder)
    done = {
      path: outcome
      for path, outcome in prepare.finished(folder).items()
      if not prepare.may_pass(outcome)
    }
    print(f'Resuming an interrupted build: {len(done)} films are done.')
    return done
  if unfinished:
    print('Removed what an interrupted build of other inputs had left.')
  return {}


def _identity(entry: Entry) -> tuple[int, ...]:
  """Returns what changes whenever the content of an entry's files does."""
  found: list[int] = []
  for path in (entry.path, *entry.masks):
    try:
      status = os.stat(path)
    except OSError:  # Reading it will tell.
      continue
    found += [status.st_size, status.st_mtime_ns]
    found += [status.st_ctime_ns, status.st_ino]
  return tuple(found)
