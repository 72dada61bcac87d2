"""Made-up tables of films, as runs of the study leave them."""

import numpy as np

from benchmarks.study import films
from pnx_jax.metrics.dice import THRESHOLDS


def made_up(*, seed=0, quality=1.0, count=300) -> films.Films:
  """Films whose truth is the same for every seed and quality."""
  truth = np.random.default_rng(99)
  random = np.random.default_rng(seed)
  label = truth.random(count) < 0.3
  truth_area = np.where(label, truth.integers(200, 40_000, count), 0)
  level = np.array(THRESHOLDS)
  logit = quality * (2.0 * label - 1) + random.normal(size=count)
  maximum = 1 / (1 + np.exp(-logit))
  shrunk = np.clip(1 - level / maximum[:, None], 0, 1)
  predicted = (shrunk * (truth_area + 3000)[:, None]).astype(int)
  share = np.clip(random.normal(0.4 * quality, 0.1, count), 0, 1)
  both = np.minimum(predicted * share[:, None], truth_area[:, None]).astype(int)
  return films.Films(
    image_id=np.array([f'film{number:04}' for number in range(count)]),
    patient=np.arange(count) // 2,
    fold=np.arange(count) // 2 % 3,
    view=np.array(['PA'] * count),
    probability=maximum,
    maximum=maximum,
    truth_area=truth_area,
    predicted_area=predicted,
    intersection=both,
  )
