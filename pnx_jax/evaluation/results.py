"""From the statistics of a pass to everything that is concluded from them."""

import dataclasses

import numpy as np

from pnx_jax.evaluation import rule_search, tables
from pnx_jax.evaluation.rule_search import Search
from pnx_jax.evaluation.tables import Calibration, Scores
from pnx_jax.metrics import rules
from pnx_jax.metrics.summary import Images
from pnx_jax.prediction.postprocess import Postprocess


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What the held-out images say.

  Attributes:
    images: what is known of each, under the rule of its group.
    groups: int[N]; the rule of a group was chosen by the others.
    search: of the rule; where it was given, that one alone.
    calibration: of the image probabilities; as given, or fitted.
    headline: all figures of all images.
    tables: figures of groups of images, by table and row.
  """

  images: Images
  groups: np.ndarray
  search: Search
  calibration: Calibration
  headline: Scores
  tables: dict[str, dict[str, Scores]]

  def postprocess(self, group: int | None = None, **cleaning) -> Postprocess:
    """What to do with new images, or what was done with those of a group."""
    return Postprocess(
      rule=(
        self.search.rule if group is None else self.search.group_rules[group]
      ),
      temperature=self.calibration.temperature,
      operating_points=self.calibration.points,
      **cleaning,
    )

  def flat(self) -> dict:
    """metrics.json: scalars by name and `intervals`, undefined is None."""
    flat = self.headline.flat()
    for table, rows in self.tables.items():
      for row, scored in rows.items():
        part = scored.flat()
        names = part.pop('intervals')
        prefix = f'{table}={row}/'
        flat |= {prefix + name: value for name, value in part.items()}
        flat['intervals'] |= {prefix + name: names[name] for name in names}
    flat['intervals'] = flat.pop('intervals')  # Last: it is the longest.
    return flat


def judge(
  held_out,
  statistics,
  groups,
  *,
  replicates: int,
  settled: Postprocess | None = None,
) -> Verdict:
  """Searches the rule, calibrates and scores.

  Args:
    held_out: the images.
    statistics: of the pass over them.
    groups: int[N], for cross-fitting.
    replicates: of the bootstrap.
    settled: put this to the test instead.
  """
  grid = (settled.rule,) if settled else rule_search.GRID
  found = rule_search.cross_fit(statistics, groups, grid=grid)
  images = tables.images_table(held_out.records, statistics, found.outcome)
  columns = {'dice_at_0.5': rule_search.apply(statistics, rules.PLAIN).dice}
  if settled:
    calibration = Calibration(
      settled.temperature,
      settled.calibrated(images.probability),
      settled.operating_points,
    )
  else:
    calibration = Calibration.fit(images.probability, images.label, groups)
    columns['dice_tuned'] = found.tuned.dice
    columns['optimism'] = found.tuned.dice - images.dice

  def more(weights):
    values = tables.means(columns, weights)
    values |= calibration.figures(images, weights)
    return values | (calibration.reached(images, weights) if settled else {})

  headline = tables.with_intervals(images, replicates=replicates, more=more)
  headline.values.update(
    temperature=calibration.temperature,
    num_images=len(images),
    num_positive=int(images.label.sum()),
    num_patients=len(np.unique(images.patient)),
    num_folds=len(np.unique(held_out.fold)),
  )
  by_group = {}
  for table, rows in tables.strata(held_out.records, images).items():
    by_group[table] = {}
    for row, chosen in rows.items():
      part = tables.with_intervals(
        images[chosen], replicates=replicates, names=tables.TABLE_FIGURES
      )
      part.values['num_images'] = int(chosen.sum())
      by_group[table][row] = part
  return Verdict(images, groups, found, calibration, headline, by_group)
