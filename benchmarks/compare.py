"""Coverage of the 95 % intervals, and false positives of the permutation test.

python -m benchmarks.compare --patients=30,130,800

simulates studies in which two networks predict the same new patients: films of
a patient share how hard they are, and both networks share how hard a film is.
The truth is known from 600,000 patients. Prints how often the interval of a
metric and that of the difference of two networks covers it, for different and
for equal networks, and how often the permutation test of two equal networks has
a p-value of at most 5 %, each with its Monte Carlo error.

Intervals are computed for many studies at a time; the first ten are compared
with those of `intervals` and `paired`.
"""

import dataclasses
import functools

import numpy as np
import scipy.stats

from pnx_jax.cli import Parser, one_line
from pnx_jax.metrics import influence, intervals, paired
from pnx_jax.metrics.summary import Images

METRICS = ('dice', 'dice_positive', 'auc', 'sensitivity', 'specificity')
# A patient with a pneumothorax has films with and without it.
_ILL, _POSITIVE_FILMS = 0.25, 0.7
_MOST_FILMS = 3
_TRUE_PATIENTS = 600_000
_CHECKED = 10
_GAIN = 0.4
_SEPARATION = 2.2


@dataclasses.dataclass(frozen=True)
class Predictions:
  """Of a network in S studies of P patients with up to F films: [S, P, F]."""

  score: np.ndarray
  predicted: np.ndarray
  dice: np.ndarray


@dataclasses.dataclass(frozen=True)
class Studies:
  """S studies; films that a patient does not have are not `there`."""

  there: np.ndarray
  label: np.ndarray
  truth_area: np.ndarray
  networks: tuple[Predictions, Predictions]


def simulate(
  studies: int,
  patients: int,
  *,
  gain: float,
  rng: np.random.Generator,
  separation: float = _SEPARATION,
) -> Studies:
  """Draws studies.

  Args:
    studies: How many.
    patients: Of a study.
    gain: By how much the second network is better.
    rng: Draws them.
    separation: By how much the first network scores positive films higher.
  """
  shape = studies, patients, _MOST_FILMS
  count = rng.integers(1, _MOST_FILMS + 1, shape[:2])
  there = np.arange(_MOST_FILMS) < count[..., None]
  ill = (rng.random(shape[:2]) < _ILL)[..., None]
  label = ill & (rng.random(shape) < _POSITIVE_FILMS) & there
  truth = np.where(label, np.exp(rng.normal(9, 1, shape)).astype(int), 0)
  hard = rng.normal(0, 0.6, (*shape[:2], 1)) + rng.normal(0, 0.5, shape)
  networks = []
  for number in range(2):
    score = (separation + gain * number) * label - hard
    score += rng.normal(0, 0.6, shape)
    predicted = score > 1.1
    overlap = 1 / (1 + np.exp(1.5 - score))
    area = np.where(predicted, np.maximum(truth, 3000), 0)
    both = (overlap * np.minimum(area, truth)).astype(int)
    dice = np.where(area + truth, 2 * both / np.maximum(area + truth, 1), 1.0)
    networks.append(Predictions(score, predicted, dice))
  return Studies(there, label, truth, tuple(networks))


def moved(
  studies: Studies, network: Predictions
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """Value f64[S], influence f64[S, P, F] and carriers bool[S, P, F]."""
  there, label = studies.there, studies.label
  negative = there & ~label
  return {
    'dice': _mean(network.dice, there),
    'dice_positive': _mean(network.dice, label),
    'auc': _auc(network.score, label, negative),
    'sensitivity': _mean(network.predicted, label),
    'specificity': _mean(~network.predicted, negative),
  }


def _mean(values, chosen):
  count = chosen.sum((1, 2), keepdims=True)
  mean = (values * chosen).sum((1, 2), keepdims=True) / count
  return mean[:, 0, 0], chosen * (values - mean) / count, chosen


def _auc(score, label, negative):
  flat = [x.reshape(len(score), -1) for x in (score, label, negative)]
  order = np.argsort(flat[0], axis=1)
  positives, negatives = (
    np.take_along_axis(x, order, axis=1) for x in flat[1:]
  )
  num_positive, num_negative = (
    x.sum(1, keepdims=True) for x in (positives, negatives)
  )
  below = np.cumsum(negatives, 1) / num_negative
  above = 1 - np.cumsum(positives, 1) / num_positive
  auc = (below * positives).sum(1, keepdims=True) / num_positive
  parts = positives * (below - auc) / num_positive
  parts += negatives * (above - auc) / num_negative
  of_image = np.empty_like(parts)
  np.put_along_axis(of_image, order, parts, axis=1)
  return auc[:, 0], of_image.reshape(score.shape), label


def _error(of_image, carriers):
  """Standard error f64[S] and quantile of t f64[S]."""
  count = carriers.any(2).sum(1)
  sums = of_image.sum(2)
  error = np.sqrt((sums**2).sum(1) * count / (count - 1))
  return error, scipy.stats.t.ppf(0.975, count - 1), count


def wilson(value, of_image, carriers):
  """Ends f64[S] of the interval of a metric."""
  error, t, size = _error(of_image, carriers)
  spread = value * (1 - value)
  some = (error > 0) & (spread > 0)
  size = np.where(some, spread / np.where(some, error, 1) ** 2, size)
  middle = (value + t**2 / (2 * size)) / (1 + t**2 / size)
  half = np.sqrt(spread / size + (t / (2 * size)) ** 2) * t / (1 + t**2 / size)
  return middle - half, middle + half


def difference(name, first, second):
  """Ends f64[S] of the interval of a difference."""
  center, carriers = second[0] - first[0], first[2]
  error, t, _ = _error(second[1] - first[1], carriers)
  if name in ('sensitivity', 'specificity'):
    size = carriers.sum((1, 2))
    center = center * size / (size + 2)
    error = np.sqrt((error * size) ** 2 + 1) / (size + 2)
  return center - t * error, center + t * error


def _images(studies, number, network):
  """A study as `metrics` take it."""
  there = studies.there[number]
  patient = np.nonzero(there)[0]
  predicted = network.predicted[number][there]
  truth = studies.truth_area[number][there]
  area = np.where(predicted, np.maximum(truth, 3000), 0)
  dice = network.dice[number][there]
  return Images(
    label=studies.label[number][there],
    probability=1 / (1 + np.exp(1.1 - network.score[number][there])),
    dice=dice,
    predicted=predicted,
    truth_area=truth,
    predicted_area=area,
    intersection=np.rint(dice * (area + truth) / 2).astype(int),
    patient=patient,
  )


def _check(studies, ends):
  """Compares the first studies with what an evaluation computes."""
  for number in range(_CHECKED):
    first, second = (_images(studies, number, x) for x in studies.networks)
    found = paired.compare([first], [second], replicates=1)
    computed = influence.of_metrics(first)
    for name in METRICS:
      one = intervals.wilson(computed[name](), first.patient)
      for expected, pair in zip(
        (one, found[name].interval), ends[name], strict=True
      ):
        if expected:
          mine = np.clip([x[number] for x in pair], -1, 1)
          np.testing.assert_allclose(mine, np.clip(expected, -1, 1), atol=1e-9)


def coverage(
  patients: int,
  *,
  studies: int,
  gain: float,
  seed: int,
  separation: float = _SEPARATION,
) -> dict[str, list[float]]:
  """Shares of studies by metric: that the interval of the first network's
  value covers the truth, and that of the difference.

  Args:
    patients: Of a study, with and without a pneumothorax.
    studies: How many.
    gain: By how much the second network is better.
    seed: Of the studies.
    separation: See `simulate`.
  """
  rng = np.random.default_rng(seed)
  draw = functools.partial(simulate, gain=gain, rng=rng, separation=separation)
  large = draw(1, _TRUE_PATIENTS)
  truth = [
    {name: x[0][0] for name, x in moved(large, network).items()}
    for network in large.networks
  ]
  covered = {name: [] for name in METRICS}
  rows = max(_CHECKED, 200_000 // patients)
  for start in range(0, studies, rows):
    made = draw(min(rows, studies - start), patients)
    first, second = (moved(made, network) for network in made.networks)
    ends = {
      name: (wilson(*first[name]), difference(name, first[name], second[name]))
      for name in METRICS
    }
    if not start:
      _check(made, ends)
    for name, (one, both) in ends.items():
      gained = truth[1][name] - truth[0][name] if gain else 0.0
      covered[name].append(
        [
          (low <= value) & (value <= high)
          for (low, high), value in ((one, truth[0][name]), (both, gained))
        ]
      )
  return {
    name: np.concatenate(parts, axis=1).mean(axis=1).tolist()
    for name, parts in covered.items()
  }


def false_positives(
  patients: int, *, studies: int, replicates: int
) -> dict[str, float]:
  """Shares of studies of equal networks with a p-value of at most 5 %."""
  rng = np.random.default_rng(2)
  found = []
  for number in range(studies):
    made = simulate(1, patients, gain=0.0, rng=rng)
    sides = [[_images(made, 0, network)] for network in made.networks]
    found.append(
      paired.permutation_test(*sides, replicates=replicates, seed=number)
    )
  return {
    name: float(np.mean([p_values[name] <= 0.05 for p_values in found]))
    for name in METRICS
  }


def main(arguments: list[str] | None = None) -> None:
  """Prints a table."""
  parser = Parser('benchmarks.compare', __doc__)
  parser.add_argument(
    '--patients', default='30,130,800', help='positive patients of a study'
  )
  for name, default, words in (
    ('studies', 2000, 'for intervals; 0 for none'),
    ('permuted_studies', 2000, 'for the permutation test; 0 for none'),
    ('replicates', 99, 'of the permutation test'),
  ):
    parser.add_argument(f'--{name}', type=int, default=default, help=words)
  parser.add_argument(
    '--separation',
    type=float,
    default=_SEPARATION,
    help='of positive and negative films by the first network, for intervals',
  )
  with one_line():
    flags = parser.parse(arguments)
  columns = ['positive patients', 'metric']
  if flags.studies:
    columns += ['interval', 'difference', 'of equal networks']
  if flags.permuted_studies:
    columns.append('p at most 5 %')
  print(f'| {" | ".join(columns)} |\n|{"---|" * len(columns)}')
  for positive in map(int, flags.patients.split(',')):
    patients = round(positive / _ILL)
    shares = {name: [] for name in METRICS}
    if flags.studies:
      options = {'studies': flags.studies, 'separation': flags.separation}
      different = coverage(patients, gain=_GAIN, seed=0, **options)
      equal = coverage(patients, gain=0.0, seed=1, **options)
      for name, cells in shares.items():
        both = (*different[name], equal[name][1])
        cells += [_cell(share, flags.studies) for share in both]
    if flags.permuted_studies:
      rejected = false_positives(
        patients, studies=flags.permuted_studies, replicates=flags.replicates
      )
      for name, cells in shares.items():
        cells.append(_cell(rejected[name], flags.permuted_studies))
    for name, cells in shares.items():
      print(f'| {positive} | {name} | {" | ".join(cells)} |', flush=True)


def _cell(share: float, studies: int) -> str:
  """A share of studies and its Monte Carlo standard error."""
  error = np.sqrt(share * (1 - share) / studies)
  return f'{100 * share:.1f} ± {100 * error:.1f} %'


if __name__ == '__main__':
  main()
