"""What the probabilities mean where they are used: at other prevalences."""

import dataclasses

import numpy as np

from pnx_jax.errors import UserError
from pnx_jax.evaluation.results import Results
from pnx_jax.metrics import decisions
from pnx_jax.metrics.decisions import AbstainBand, SensitivityBound
from pnx_jax.metrics.summary import rates

_NUM_THRESHOLDS = 100


@dataclasses.dataclass(frozen=True)
class DecisionCurve:
  """Net benefit at a prevalence.

  Attributes:
    prevalence: Share of images with a pneumothorax.
    thresholds: f64[T], probabilities from which on one would act.
    network: f64[T], net benefit of acting on the network's probability.
    everyone: f64[T], of acting on every image.
  """

  prevalence: float
  thresholds: np.ndarray
  network: np.ndarray
  everyone: np.ndarray


@dataclasses.dataclass(frozen=True)
class PredictiveValues:
  """An operating point at one prevalence; NaN if undefined.

  Attributes:
    name: Of the operating point.
    prevalence: Share of images with a pneumothorax.
    positive: Positive predictive value.
    negative: Negative predictive value.
  """

  name: str
  prevalence: float
  positive: float
  negative: float


@dataclasses.dataclass(frozen=True)
class Bedside:
  """What holds where the probabilities are used.

  Attributes:
    bound: Threshold that keeps a sensitivity of 90 % with 95 % confidence.
    bound_specificity: Specificity there; NaN without a threshold.
    band: Of indeterminate probabilities; None with too few
      patients.
    values: Predictive values of each operating point and prevalence.
    curves: A decision curve of each prevalence; none if a class is missing.
  """

  bound: SensitivityBound
  bound_specificity: float
  band: AbstainBand | None
  values: list[PredictiveValues]
  curves: list[DecisionCurve]


def parse_prevalences(text: str) -> tuple[float, ...]:
  """Reads prevalences such as '0.01,0.05,0.2'.

  Raises:
    UserError: They are not numbers between 0 and 1.
  """
  try:
    found = tuple(float(part) for part in text.split(',') if part.strip())
  except ValueError:
    found = (0.0,)
  if not all(0 < prevalence < 1 for prevalence in found):
    raise UserError(
      f"eval.prevalences={text!r}: expected numbers such as '0.01,0.05,0.2', "
      'above 0 and below 1'
    )
  return found


def summarize(results: Results, prevalences: tuple[float, ...]) -> Bedside:
  """Applies the results to every prevalence.

  Args:
    results: Of the evaluation.
    prevalences: Shares of images with a pneumothorax.
  """
  images, scaled = results.images, results.calibration.scaled
  label = images.label
  bound = decisions.sensitivity_bound(scaled, label, images.patient)
  once = np.ones((1, len(label)))
  specificity = np.nan
  if bound.threshold is not None:
    called = scaled >= bound.threshold
    specificity = float(rates(called, label, once)['specificity'][0])
  values = []
  for point in results.calibration.points:
    found = rates(scaled >= point.threshold, label, once)
    for prevalence in prevalences:
      positive, negative = decisions.predictive_values(
        found['sensitivity'], found['specificity'], prevalence=prevalence
      )
      values.append(
        PredictiveValues(
          point.name, prevalence, float(positive[0]), float(negative[0])
        )
      )
  curves = []
  if label.any() and not label.all():
    for prevalence in prevalences:
      thresholds = np.linspace(0, min(0.9, 5 * prevalence), _NUM_THRESHOLDS)
      moved = decisions.at_prevalence(
        scaled, was=float(label.mean()), prevalence=prevalence
      )
      curves.append(
        DecisionCurve(
          prevalence,
          thresholds,
          decisions.net_benefit(
            moved, label, thresholds, prevalence=prevalence
          ),
          decisions.net_benefit_of_all(thresholds, prevalence=prevalence),
        )
      )
  band = decisions.abstain_band(scaled, label, images.patient)
  return Bedside(bound, specificity, band, values, curves)
