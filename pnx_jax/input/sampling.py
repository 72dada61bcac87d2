"""The sampling schedule: the order of the training images.

The competition's winners began with many positives and ended near the true
prevalence. An epoch has every positive once and as many negatives as its share
of positives requires; negatives are drawn without replacement across epochs.
The image at a position of the endless sequence is a pure function of (seed,
position), so a run resumes in constant time, and a longer run begins with the
same images.

With weights of sources, an epoch still has as many positives and negatives.
Both are divided among the sources by weight: those that have such images, so a
source without positives leaves its part of them to the others. Every cell, the
images of one source and label, is then drawn without replacement across epochs.
"""

import functools
import threading
from collections.abc import Mapping, Sequence

import numpy as np

from pnx_jax.errors import UserError

_EPOCH_STREAM, _NEGATIVE_STREAM, _PART_STREAM, _CELL_STREAM = 0, 1, 2, 3
UNNAMED = 'unnamed'


class Schedule:
  """The training sequence over records with label 0 or 1.

  Args:
    labels: i64[N], 1 where the record shows a pneumothorax.
    positive_share: ((epoch, share), ...) with ascending epochs and shares in
      (0, 1], linear in between and constant outside; () shows every record
      once per epoch.
    seed: Seeds the order.
    sources: N names of sources, where they have weights.
    source_weights: By name of every source, how much of an epoch is from it;
      sources of weight 0 are left out. {} takes every record alike.

  Raises:
    UserError: A share is out of range, epochs do not ascend, there is no
      positive record for a share, or the weights do not fit the sources.
  """

  def __init__(
    self,
    labels: np.ndarray,
    *,
    positive_share: Sequence[tuple[float, float]] = (),
    seed: int = 0,
    sources: Sequence[str] = (),
    source_weights: Mapping[str, float] | None = None,
  ):
    labels = np.asarray(labels)
    wanted, weights = np.ones(len(labels), bool), {}
    if source_weights:
      names = np.array([source or UNNAMED for source in sources])
      weights = _checked_weights(source_weights, names)
      wanted = np.isin(names, list(weights))
    self._positives = np.flatnonzero((labels == 1) & wanted)
    self._negatives = np.flatnonzero((labels == 0) & wanted)
    # Of each label: its cells, their cumulative shares, the counts so far.
    self._cells: list[list[np.ndarray]] = []
    self._cumulative: list[np.ndarray] = []
    self._counts: list[list[np.ndarray]] = []
    for records in (self._positives, self._negatives) if weights else ():
      cells = {name: records[names[records] == name] for name in weights}
      shares = [weights[name] for name, cell in cells.items() if len(cell)]
      self._cells.append([cell for cell in cells.values() if len(cell)])
      self._cumulative.append(np.cumsum(shares) / max(sum(shares), 1e-12))
      self._counts.append([np.zeros(len(shares), np.int64)])
    try:
      self._knots = np.asarray(positive_share, np.float64).reshape(-1, 2)
    except ValueError:
      raise UserError(
        f'positive_share={positive_share} is not ((epoch, share), ...)'
      ) from None
    self._seed = seed
    self._starts = [0]
    self._lock = threading.Lock()
    self._epoch_order = functools.lru_cache(maxsize=4)(self._epoch_order)
    self._negative_order = functools.lru_cache(maxsize=4)(self._negative_order)
    self._cell_order = functools.lru_cache(maxsize=64)(self._cell_order)
    if not len(labels):
      raise UserError('there is no annotated image to train on')
    if len(self._knots):
      epochs, shares = self._knots.T
      if (np.diff(epochs) <= 0).any() or not (
        (shares > 0) & (shares <= 1)
      ).all():
        raise UserError(
          f'positive_share={positive_share}: epochs must ascend and shares '
          'lie above 0 and at most at 1'
        )
      if not len(self._positives):
        raise UserError(
          'positive_share asks for positives but no training image shows a '
          'pneumothorax; set positive_share=() to train on what there is'
        )

  def share(self, epoch: float) -> float:
    """Returns the share of positives in `epoch`."""
    if not len(self._knots):
      return len(self._positives) / (
        len(self._positives) + len(self._negatives)
      )
    return float(np.interp(epoch, *self._knots.T))

  def start(self, epoch: int) -> int:
    """Returns the position of the first image of `epoch`."""
    with self._lock:
      while len(self._starts) <= epoch:
        last = len(self._starts) - 1
        sizes = len(self._positives), self._num_negatives(last)
        for label in range(len(self._cells)):
          self._divide(label, sizes[label], last)
        self._starts.append(self._starts[-1] + sum(sizes))
    return self._starts[epoch]

  def position(self, epoch: float) -> int:
    """Returns the position that is `epoch` epochs from the start."""
    whole = int(epoch)
    start = self.start(whole)
    if epoch == whole:
      return start
    return start + round((epoch - whole) * (self.start(whole + 1) - start))

  def epoch(self, position: int) -> float:
    """Returns the epoch of a position, with a fraction."""
    whole = self._whole_epoch(position)
    start = self.start(whole)
    return whole + (position - start) / (self.start(whole + 1) - start)

  def record(self, position: int) -> int:
    """Returns the index of the record at `position`."""
    epoch = self._whole_epoch(position)
    return int(self._epoch_order(epoch)[position - self.start(epoch)])

  def _whole_epoch(self, position: int) -> int:
    while self._starts[-1] <= position:
      self.start(len(self._starts))
    return int(np.searchsorted(self._starts, position, side='right')) - 1

  def _num_negatives(self, epoch: int) -> int:
    if not len(self._negatives):
      return 0
    if not len(self._knots):
      return len(self._negatives)
    share = self.share(epoch)
    return round(len(self._positives) * (1 - share) / share)

  def _divide(self, label: int, size: int, epoch: int) -> None:
    """Adds the counts of the cells of a label up to the end of `epoch`.

    Systematic sampling: each cell has its share of `size`, rounded so that it
    has exactly its share in the long run.
    """
    random = np.random.default_rng((self._seed, _PART_STREAM, label, epoch))
    offset = random.random()
    edges = np.floor(self._cumulative[label] * size + offset).astype(np.int64)
    if len(edges):
      edges[-1] = size
    counts = np.diff(edges, prepend=0)
    self._counts[label].append(self._counts[label][-1] + counts)

  def _weighted_epoch(self, epoch: int) -> np.ndarray:
    """Returns the records of an epoch, cell by cell."""
    self.start(epoch + 1)
    found = [np.zeros(0, np.int64)]
    for label, cells in enumerate(self._cells):
      edges = zip(*self._counts[label][epoch : epoch + 2], strict=True)
      for number, (first, last) in enumerate(edges):
        wanted = np.arange(first, last)
        passes, places = np.divmod(wanted, len(cells[number]))
        for i in np.unique(passes):
          order = self._cell_order(label, number, int(i))
          found.append(order[places[passes == i]])
    return np.concatenate(found)

  def _cell_order(self, label: int, number: int, index: int) -> np.ndarray:
    key = self._seed, _CELL_STREAM, label, number, index
    return np.random.default_rng(key).permutation(self._cells[label][number])

  def _epoch_order(self, epoch: int) -> np.ndarray:
    if self._cells:
      random = np.random.default_rng((self._seed, _EPOCH_STREAM, epoch))
      return random.permutation(self._weighted_epoch(epoch))
    first = self.start(epoch) - epoch * len(self._positives)
    wanted = np.arange(first, first + self._num_negatives(epoch))
    passes, places = np.divmod(wanted, max(len(self._negatives), 1))
    negatives = np.empty(len(wanted), np.int64)
    for i in np.unique(passes):
      negatives[passes == i] = self._negative_order(i)[places[passes == i]]
    random = np.random.default_rng((self._seed, _EPOCH_STREAM, epoch))
    return random.permutation(np.concatenate([self._positives, negatives]))

  def _negative_order(self, index: int) -> np.ndarray:
    random = np.random.default_rng((self._seed, _NEGATIVE_STREAM, int(index)))
    return random.permutation(self._negatives)


def parse_weights(text: str) -> dict[str, float]:
  """Returns weights by source from text such as 'siim=2,nih=1'.

  Raises:
    UserError: The text is of another form.
  """
  weights: dict[str, float] = {}
  for part in filter(None, map(str.strip, text.split(','))):
    name, equals, number = map(str.strip, part.rpartition('='))
    try:
      value = float(number)
    except ValueError:
      value = -1.0
    if not name or not equals or name in weights or not 0 <= value < np.inf:
      raise UserError(
        f'source_weights={text!r}: expected every source once with a number, '
        f"such as 'siim=2,nih=1', got {part!r}"
      )
    weights[name] = value
  return weights


def _checked_weights(
  weights: Mapping[str, float], names: np.ndarray
) -> dict[str, float]:
  """Returns the weights above 0, in the order of the names.

  Raises:
    UserError: They are not of the sources that there are.
  """
  there = set(names.tolist())
  if there != set(weights):
    raise UserError(
      f'source_weights names {", ".join(sorted(weights))}, the training images '
      f'are from {", ".join(sorted(there))}: give each of these a weight, 0 to '
      'leave it out'
    )
  if not any(weights.values()):
    raise UserError('source_weights: every weight is 0: nothing to train on')
  return {name: weights[name] for name in sorted(weights) if weights[name]}
