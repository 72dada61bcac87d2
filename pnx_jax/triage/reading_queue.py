"""A queue of films before its readers: who waits how long.

Reading times do not depend on the film, so the moments at which a reader is
free for the next film are the same in whatever order films are read; an order
only says which film is taken at which moment.
"""

import dataclasses

import numpy as np

from pnx_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clinic:
  """How films come and are read.

  Attributes:
    films_per_hour: arrive, at random times (a Poisson process).
    minutes_per_film: mean reading time.
    spread: its standard deviation over its mean (gamma distributed): 0 for
      equal times, 1 for exponential ones.
    readers: read at the same time, from one queue.
  """

  films_per_hour: float
  minutes_per_film: float
  spread: float
  readers: int

  def __post_init__(self):
    numbers = dataclasses.asdict(self)
    spread = numbers.pop('spread')
    for name, value in numbers.items():
      if not 0 < value < np.inf:
        raise UserError(f'--{name}={value:g} must be above 0')
    if not 0 <= spread <= 10:
      raise UserError(f'--spread={spread:g} must lie between 0 and 10')
    if self.utilisation >= 1:
      raise UserError(
        f'{self}: the queue would grow for ever; lower --films_per_hour or '
        'raise --readers'
      )

  def __str__(self):
    return (
      f'{self.films_per_hour:g} films an hour, {self.minutes_per_film:g} '
      f'minutes each, readers: {self.readers}, busy {self.utilisation:.0%} of '
      'the time'
    )

  @property
  def utilisation(self) -> float:
    """The share of time for which a reader reads."""
    return self.films_per_hour * self.minutes_per_film / 60 / self.readers

  def films(
    self, rng: np.random.Generator, shape: tuple[int, int]
  ) -> tuple[np.ndarray, np.ndarray]:
    """When films arrive and are begun, in minutes.

    Returns:
      f64[R, N], twice; both rise along N. The second says when the reader takes
      one, not which.
    """
    gaps = rng.exponential(60 / self.films_per_hour, shape)
    minutes = np.full(shape, float(self.minutes_per_film))
    if self.spread:
      minutes *= rng.gamma(self.spread**-2, self.spread**2, shape)
    arrival = gaps.cumsum(axis=1)
    return arrival, begins(arrival, minutes, self.readers)


def begins(
  arrival: np.ndarray, minutes: np.ndarray, readers: int
) -> np.ndarray:
  """When each next film is begun: f64[R, N].

  Kiefer and Wolfowitz 1955, On the theory of queues with many servers; with one
  reader it is the recursion of Lindley 1952.

  Args:
    arrival: f64[R, N], rising.
    minutes: f64[R, N], for which the n-th film to be begun is read.
    readers: how many read at the same time.
  """
  free = np.zeros((len(arrival), readers))
  rows = np.arange(len(arrival))
  begin = np.empty_like(arrival)
  for film in range(arrival.shape[1]):
    reader = free.argmin(axis=1)
    begin[:, film] = np.maximum(arrival[:, film], free[rows, reader])
    free[rows, reader] = begin[:, film] + minutes[:, film]
  return begin


def waits(
  arrival: np.ndarray, begin: np.ndarray, priority: np.ndarray
) -> np.ndarray:
  """How long each film waits when the most urgent one is taken next: f64[R, N].

  By falling priority, each film takes the first moment after its arrival that
  no more urgent one has taken. Moments taken are skipped as in the union-find
  of Tarjan and van Leeuwen 1984 (path halving).

  Args:
    arrival: f64[R, N], rising.
    begin: f64[R, N], rising, when films are begun.
    priority: f64[R, N]; of equal ones the first to arrive is first.
  """
  num_rows, num_films = arrival.shape
  rows = np.arange(num_rows)
  order = np.argsort(-priority, axis=1, kind='stable')
  first = np.stack(
    [np.searchsorted(b, a) for a, b in zip(arrival, begin, strict=True)]
  )
  # Moments up to the next free one, as far as known; one more than there are.
  later = np.tile(np.arange(num_films + 1), (num_rows, 1))
  taken = np.empty(arrival.shape, np.int64)
  for film in order.T:
    place = first[rows, film]
    while True:
      after = later[rows, place]
      if (after == place).all():
        break
      after = later[rows, after]
      later[rows, place] = after
      place = after
    taken[rows, film] = place
    later[rows, place] = place + 1
  return np.take_along_axis(begin, taken, axis=1) - arrival
