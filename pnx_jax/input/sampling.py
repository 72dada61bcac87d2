"""The sampling schedule: the order of the training images.

The competition's winners began with many positives and ended near the true
prevalence. An epoch has every positive once and as many negatives as its share
of positives requires; negatives are drawn without replacement across epochs.
The image at a position of the endless sequence is a pure function of (seed,
position), so a run resumes in constant time, and a longer run begins with the
same images.
"""

import functools
import threading
from collections.abc import Sequence

import numpy as np

from pnx_jax.errors import UserError

_EPOCH_STREAM, _NEGATIVE_STREAM = 0, 1


class Schedule:
  """The training sequence over records with label 0 or 1.

  Args:
    labels: i64[N], 1 where the record shows a pneumothorax.
    positive_share: ((epoch, share), ...) with ascending epochs and shares in
      (0, 1], linear in between and constant outside; () shows every record
      once per epoch.
    seed: Seeds the order.

  Raises:
    UserError: A share is out of range, epochs do not ascend, or there is no
      positive record for a share.
  """

  def __init__(
    self,
    labels: np.ndarray,
    *,
    positive_share: Sequence[tuple[float, float]] = (),
    seed: int = 0,
  ):
    labels = np.asarray(labels)
    self._positives = np.flatnonzero(labels == 1)
    self._negatives = np.flatnonzero(labels == 0)
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
        size = len(self._positives) + self._num_negatives(last)
        self._starts.append(self._starts[-1] + size)
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

  def _epoch_order(self, epoch: int) -> np.ndarray:
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
