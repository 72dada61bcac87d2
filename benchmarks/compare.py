"""Do intervals and tests of `pnx_jax.evaluation.compare` hold what they say?

python -m benchmarks.compare --patients=30 --studies=2000

simulates studies in which two networks predict the same new patients: films of
a patient share how hard they are, and both networks share how hard a film is.
The truth is known from 200,000 patients. Prints how often the 95 % interval of
each difference covers it, with its Monte Carlo error, and how often the
permutation test of two equal networks is below 5 %.
"""

import argparse

import numpy as np

from pnx_jax.cli import Parser, one_line
from pnx_jax.metrics import paired, summary
from pnx_jax.metrics.dice import dice
from pnx_jax.metrics.summary import Images

METRICS = ('dice', 'dice_positive', 'auc', 'sensitivity')
# A patient with a pneumothorax has films with and without it.
_POSITIVE_PATIENTS, _POSITIVE_FILMS = 0.25, 0.7


def study(num_patients, *, gain, rng):
  """Two networks on the films of so many patients."""
  films = rng.integers(1, 4, num_patients)
  patient = np.repeat(np.arange(num_patients), films)
  size = len(patient)
  ill = rng.random(num_patients)[patient] < _POSITIVE_PATIENTS
  label = ill & (rng.random(size) < _POSITIVE_FILMS)
  truth = np.where(label, np.exp(rng.normal(9, 1, size)).astype(int), 0)
  hard = rng.normal(0, 0.6, num_patients)[patient] + rng.normal(0, 0.5, size)
  networks = []
  for number in range(2):
    score = 2.2 * label - hard + gain * number * label
    score = score + rng.normal(0, 0.6, size)
    predicted = score > 1.1
    overlap = 1 / (1 + np.exp(-(score - 1.5)))
    area = np.where(predicted, np.maximum(truth, 3000), 0)
    both = (overlap * np.minimum(area, truth)).astype(int)
    networks.append(
      Images(
        label=label,
        probability=1 / (1 + np.exp(1.1 - score)),
        dice=dice(both, area, truth),
        predicted=predicted,
        truth_area=truth,
        predicted_area=area,
        intersection=both,
        patient=patient,
      )
    )
  return networks


def coverage(num_patients, *, studies, replicates, gain, seed=0):
  """Shares of studies whose interval covers the truth, and of p below 5 %."""
  rng = np.random.default_rng(seed)
  large = [summary.compute(x) for x in study(200_000, gain=gain, rng=rng)]
  truth = {name: large[1][name][0] - large[0][name][0] for name in METRICS}
  covered, rejected = (dict.fromkeys(METRICS, 0) for _ in range(2))
  defined = dict.fromkeys(METRICS, 0)
  for number in range(studies):
    first, second = study(num_patients, gain=gain, rng=rng)
    found = paired.compare(
      [first], [second], replicates=replicates, seed=number
    )
    for name in METRICS:
      if found[name].interval:
        low, high = found[name].interval
        defined[name] += 1
        covered[name] += low <= truth[name] <= high
        rejected[name] += found[name].p_value < 0.05
  return {
    name: (covered[name] / defined[name], rejected[name] / defined[name])
    for name in METRICS
  }


def main(arguments=None):
  parser = Parser('benchmarks.compare', __doc__)
  for name, default, words in (
    ('patients', 30, 'positive patients of a study'),
    ('studies', 2000, 'number of studies'),
    ('replicates', 400, 'of the bootstrap and of the test'),
  ):
    parser.add_argument(f'--{name}', type=int, default=default, help=words)
  with one_line():
    flags = parser.parse_args(arguments)
  _report(flags)


def _report(flags: argparse.Namespace) -> None:
  patients = round(flags.patients / _POSITIVE_PATIENTS)
  options = {'studies': flags.studies, 'replicates': flags.replicates}
  different = coverage(patients, gain=0.4, **options)
  equal = coverage(patients, gain=0.0, seed=1, **options)
  print(f'{flags.studies} studies of about {flags.patients} positive patients')
  error = np.sqrt(0.95 * 0.05 / flags.studies)
  for name in METRICS:
    print(
      f'{name:<14} covered {different[name][0]:.3f} (equal networks '
      f'{equal[name][0]:.3f}) +- {error:.3f}, false positives '
      f'{equal[name][1]:.3f}'
    )


if __name__ == '__main__':
  main()
