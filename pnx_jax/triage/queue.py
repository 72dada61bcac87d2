"""A queue of films and its readers: how long each film waits.

Reading times do not depend on the film. The moments at which a reader takes the
next film are therefore the same for all reading orders; the order only decides
which film is taken at which moment.
"""

import dataclasses

import numpy as np

from pnx_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clinic:
  """How films arrive and are read.

  Attributes:
    films_per_hour: Rate of arrivals, which are a Poisson process.
    minutes_per_film: Mean reading time; times are gamma distributed.
    spread: Standard deviation of the reading time over its mean: 0 for equal
      times, 1 for exponential ones.
    readers: Number of readers who share one queue.

  Raises:
    UserError: A number is out of range, or films arrive faster than they can
      be read.
  """

  films_per_hour: float
  minutes_per_film: float
  spread: float
  readers: int

  def __post_init__(self) -> None:
    numbers = dataclasses.asdict(self)
    spread = numbers.pop('spread')
    for name, value in numbers.items():
      if not 0 < value < np.inf:
        raise UserError(f'--{name}={value:g} must be above 0')
    if not 0 <= spread <= 10:
      raise UserError(f'--spread={spread:g} must lie between 0 and 10')
    if self.utilization >= 1:
      raise UserError(
        f'{self}: the queue would grow forever; lower --films_per_hour or '
        'raise --readers'
      )

  def __str__(self) -> str:
    return (
      f'{self.films_per_hour:g} films per hour, {self.minutes_per_film:g} '
      f'minutes each, readers: {self.readers}, utilization '
      f'{self.utilization:.0%}'
    )

  @property
  def utilization(self) -> float:
    """The share of time that a reader spends reading."""
    return self.films_per_hour * self.minutes_per_film / 60 / self.readers

  def films(
    self, rng: np.random.Generator, shape: tuple[int, int]
  ) -> tuple[np.ndarray, np.ndarray]:
    """Draws when films arrive and when readers take one, in minutes.

    Args:
      rng: Random generator.
      shape: R replications of N films.

    Returns:
      The arrivals f64[R, N], and the moments f64[R, N] at which a reader takes
      a film, whichever it is. Both are sorted along N.
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
  """The moments at which a reader takes a film: f64[R, N].

  The recursion of Kiefer and Wolfowitz 1955, On the theory of queues with many
  servers; with one reader it is that of Lindley 1952.

  Args:
    arrival: f64[R, N], ascending.
    minutes: f64[R, N], reading times in the order in which films are read.
    readers: Number of readers.
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
  """The wait of each film if the most urgent film is always next: f64[R, N].

  By descending priority, each film gets the first moment after its arrival that
  no more urgent film has. Moments that are taken are skipped by the union-find
  of Tarjan and van Leeuwen 1984 (path halving).

  Args:
    arrival: f64[R, N], ascending.
    begin: f64[R, N], ascending, the moments at which a film is taken.
    priority: f64[R, N]; of films with equal priority the earliest is next.
  """
  num_rows, num_films = arrival.shape
  rows = np.arange(num_rows)
  order = np.argsort(-priority, axis=1, kind='stable')
  first = np.stack(
    [np.searchsorted(b, a) for a, b in zip(arrival, begin, strict=True)]
  )
  # For each moment, a moment from which on to look for the next free one.
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
