"""The mean over several networks, in memory that does not grow with them.

Images are taken in chunks; the members answer one after another, and only
the sum of their answers is kept.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pnx_jax.errors import UserError
from pnx_jax.input import pipeline
from pnx_jax.metrics.dice import threshold_areas
from pnx_jax.prediction.network import SIZE, Member, Network, compiled_predict
from pnx_jax.training import run_files, sharding

# Images whose sums of probabilities are held at a time: 4 MiB each.
_CHUNK = 128


@dataclasses.dataclass(frozen=True)
class Subset:
  """Some images of a dataset, as a dataset."""

  dataset: pipeline.Dataset
  indices: Sequence[int]

  def __len__(self):
    return len(self.indices)

  @property
  def records(self):
    return [self.dataset.records[index] for index in self.indices]

  def image(self, index, size):
    return self.dataset.image(self.indices[index], size)

  def label(self, index, size):
    return self.dataset.label(self.indices[index], size)


def members(
  runs: Sequence[str], *, folds: Sequence[int], checkpoints: int = 1
) -> list[Member]:
  """All members from some runs and folds.

  Args:
    runs: workdirs.
    folds: that every run must have.
    checkpoints: more than 1 takes that many best ones of each as members
      instead of one, the mean of their weights.

  Raises:
    UserError: a run was not trained on a fold.
  """
  for run in runs:
    missing = sorted(set(folds) - set(run_files.trained_folds(run)))
    if missing:
      raise UserError(
        f'{run} has no checkpoint of fold {missing[0]}: train it with '
        f'`python launch.py --config=... --workdir={run} '
        f'--config.fold={missing[0]}`'
      )
  places = range(checkpoints) if checkpoints > 1 else (None,)
  return [
    Member(str(run), fold, place)
    for run, fold, place in itertools.product(runs, folds, places)
  ]


def check_alike(runs: Sequence[str]) -> None:
  """Raises UserError where the `probability` of two runs means two things."""
  heads = {run: run_files.load(run).losses.presence > 0 for run in runs}
  if len(set(heads.values())) > 1:
    trained, untrained = (
      next(run for run, head in heads.items() if head == wanted)
      for wanted in (True, False)
    )
    raise UserError(
      f'{trained} and {untrained} cannot answer together: the presence head of '
      'the one says how probable a pneumothorax is, that of the other was not '
      'trained (losses.presence=0), so its surest pixel says it'
    )


class Ensemble:
  """Networks that answer together.

  Args:
    members: which networks; at least one.
    mesh: of all devices.
    reading: batch size and threads.
    flip: average over the mirrored image, too.
    scales: average over these sizes of the image.

  Attributes:
    members: as given.
    steps: of the members that have answered, see `Network`.
  """

  def __init__(self, members, *, mesh, reading, flip=True, scales=(1.0,)):
    self.steps = {}
    self.members = tuple(members)
    self._reading = reading
    self._mesh = mesh
    self._predict = functools.partial(
      compiled_predict(), flip=flip, scales=scales
    )
    replicated = sharding.replicated(mesh)
    self._add = jax.jit(_add, donate_argnums=0)
    self._finish = jax.jit(_finish, out_shardings=replicated)
    self._finish_areas = jax.jit(_finish_areas, out_shardings=replicated)
    self._load = functools.lru_cache(maxsize=1)(
      functools.partial(Network.load, mesh=mesh)
    )

  def statistics(self, dataset) -> dict[str, np.ndarray]:
    """Of every image, in order: its areas over all thresholds (see
    `metrics.dice`) and its `probability`, arrays of N rows."""
    parts = [
      jax.device_get(self._finish_areas(total, batch, len(self.members)))
      for batch, total in self._totals(dataset, truth_size=SIZE)
    ]
    valid = np.concatenate([part.pop('valid') for part in parts])
    return {
      name: np.concatenate([part[name] for part in parts])[valid]
      for name in parts[0]
    }

  def probabilities(self, dataset) -> Iterator[tuple[np.ndarray, float]]:
    """Of every image, in order: `probs` f32[SIZE, SIZE], `probability`."""
    for batch, total in self._totals(dataset):
      mean = jax.device_get(self._finish(total, batch, len(self.members)))
      for probs, probability, valid in zip(*mean, strict=True):
        if valid:
          yield probs, float(probability)

  def _totals(self, dataset, truth_size=None):
    """Batches on the devices, and the sums of their members' answers."""
    chunk = _CHUNK if len(self.members) > 1 else len(dataset)
    for first in range(0, len(dataset), chunk):
      last = min(first + chunk, len(dataset))
      part = Subset(dataset, range(first, last))
      totals = itertools.repeat(None)
      for member in self.members[:-1]:
        totals = [total for _, total in self._run(member, part, totals)]
      # The last one streams: with one member nothing is kept.
      yield from self._run(self.members[-1], part, totals, truth_size)

  def _run(self, member, dataset, totals, truth_size=None):
    network = self._load(member)
    self.steps[member] = network.steps
    batches = pipeline.evaluation_batches(
      dataset,
      image_size=network.image_size,
      loader=self._reading,
      truth_size=truth_size,
    )
    batches = sharding.prefetch(batches, self._mesh)
    for batch, total in zip(batches, totals, strict=False):
      answer = self._predict(
        network.variables,
        batch['image'],
        model=network.model,
        presence=network.presence,
      )
      yield batch, answer if total is None else self._add(total, answer)


def _add(total, answer):
  return jax.tree.map(jnp.add, total, answer)


def _finish(total, batch, count):
  return total['probs'] / count, total['probability'] / count, batch['valid']


def _finish_areas(total, batch, count):
  probs, probability, valid = _finish(total, batch, count)
  areas = threshold_areas(probs * _inside(batch['place']), batch['truth'])
  return {**areas, 'probability': probability, 'valid': valid}


def _inside(place):
  """Where films lie, bool[B, SIZE, SIZE]; `place` is i32[B, 4]."""
  at = jnp.arange(SIZE)[None]
  top, left, height, width = jnp.split(place, 4, axis=1)
  rows = (at >= top) & (at < top + height)
  columns = (at >= left) & (at < left + width)
  return rows[:, :, None] & columns[:, None, :]
