"""When does the threshold with a bound on sensitivity keep its sensitivity?

python -m benchmarks.guarantee

simulates studies of patients with a pneumothorax who have one to three films.
A threshold is chosen so that sensitivity over new patients is at least 90 %
with 95 % confidence (`decisions.sensitivity_bound`), and the ensemble of all
folds then predicts new patients. Prints the share of studies in which their
sensitivity is at least 90 %: a bound keeps that in 95 % or more.

external: the ensemble predicted the films that the threshold is chosen on.
out of fold: each film was predicted by the network of its fold alone; networks
differ by a shift of their scores, and each is the best of some checkpoints on
the very films that are scored.
"""

import numpy as np

from pnx_jax.cli import Parser, one_line
from pnx_jax.metrics import decisions

_FOLDS, _CHECKPOINTS = 5, 3
_NEW_PATIENTS = 100_000
_PATIENT, _FILM, _NETWORK = 1.0, 0.5, 0.5  # Standard deviations of scores.


def lowest_scores(
  rng: np.random.Generator, patient_mean: np.ndarray, noise: float
) -> np.ndarray:
  """The lowest score of each patient's one to three films."""
  size = (3, len(patient_mean))
  films = rng.normal(0, np.hypot(_FILM, noise), size) + patient_mean
  films[np.arange(3)[:, None] >= rng.integers(1, 4, len(patient_mean))] = np.inf
  return films.min(axis=0)


def kept(
  num_patients: int, *, studies: int, shift: float, out_of_fold: bool
) -> float:
  """Share of studies whose new patients are found in at least 90 %.

  Args:
    num_patients: With a pneumothorax, that the threshold is chosen on.
    studies: How many.
    shift: Standard deviation between networks of the mean of their scores.
    out_of_fold: See the module.
  """
  rng = np.random.default_rng(0)
  of_ensemble = _NETWORK / np.sqrt(_FOLDS)
  new = np.sort(
    lowest_scores(rng, rng.normal(0, _PATIENT, _NEW_PATIENTS), of_ensemble)
  )
  patient, label = np.arange(num_patients), np.ones(num_patients, bool)
  right = 0
  for _ in range(studies):
    shifts = rng.normal(0, shift, (_FOLDS, _CHECKPOINTS))
    mean = rng.normal(0, _PATIENT, num_patients)
    fold = patient % _FOLDS
    if out_of_fold:
      candidates = np.stack(
        [
          lowest_scores(rng, mean, _NETWORK) + shifts[fold, number]
          for number in range(_CHECKPOINTS)
        ]
      )
      of_fold = np.stack(
        [candidates[:, fold == f].mean(1) for f in range(_FOLDS)]
      )
      best = of_fold.argmax(axis=1)
      score = candidates[best[fold], patient]
      deployed = shifts[np.arange(_FOLDS), best].mean()
    else:
      deployed = shifts[:, 0].mean()
      score = lowest_scores(rng, mean, of_ensemble) + deployed
    bound = decisions.sensitivity_bound(score, label, patient)
    if bound.threshold is None:
      return float('nan')
    missed = np.searchsorted(new, bound.threshold - deployed) / len(new)
    right += missed <= 0.1
  return right / studies


def main(arguments: list[str] | None = None) -> None:
  """Prints a table."""
  parser = Parser('benchmarks.guarantee', __doc__)
  parser.add_argument('--studies', type=int, default=2000, help='how many')
  with one_line():
    flags = parser.parse(arguments)
  error = np.sqrt(0.95 * 0.05 / flags.studies)
  print(f'{flags.studies} studies each; Monte Carlo error {error:.2%}')
  print('| predictions | shift of folds | 30 | 130 | 800 positive patients |')
  print('|---|---|---|---|---|')
  for out_of_fold in (False, True):
    for shift in (0.0, 0.3):
      cells = [
        kept(n, studies=flags.studies, shift=shift, out_of_fold=out_of_fold)
        for n in (30, 130, 800)
      ]
      name = 'out of fold' if out_of_fold else 'external'
      print(
        f'| {name} | {shift:g} |', ' | '.join(f'{x:.1%}' for x in cells), '|'
      )


if __name__ == '__main__':
  main()
