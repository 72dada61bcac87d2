"""From the statistics of the network pass to rule, calibration and metrics."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pnx_jax.evaluation import attributes as attribute_tables
from pnx_jax.evaluation import rule_search, tables
from pnx_jax.evaluation.cross_validation import HeldOut
from pnx_jax.evaluation.rule_search import Search
from pnx_jax.evaluation.tables import Calibration, Metrics
from pnx_jax.formats.schema import Record
from pnx_jax.metrics import influence, rules, subgroups
from pnx_jax.metrics.subgroups import SubgroupDifference
from pnx_jax.metrics.summary import Images
from pnx_jax.prediction.postprocess import Postprocess


@dataclasses.dataclass(frozen=True)
class Films:
  """Labeled images; `HeldOut` has these attributes too.

  Attributes:
    records: N of them.
    fold: int[N].
  """

  records: Sequence[Record]
  fold: np.ndarray

  def chosen(self, rows: np.ndarray) -> 'Films':
    """Those that bool[N] chooses."""
    places = np.flatnonzero(rows)
    return Films([self.records[place] for place in places], self.fold[rows])


@dataclasses.dataclass(frozen=True)
class Results:
  """The results on the held-out images.

  Attributes:
    images: All images, each under the rule of its group.
    groups: int[N]; the rule of a group was chosen on the other groups.
    search: The rules that were found, or the saved one.
    calibration: Of the image probabilities, fitted or saved.
    overall: Metrics of all images.
    tables: Metrics of subgroups, by table and row.
    differences: Of subgroups from the rest; those of mask size are left out,
      as only positive images have one.
  """

  images: Images
  groups: np.ndarray
  search: Search
  calibration: Calibration
  overall: Metrics
  tables: dict[str, dict[str, Metrics]]
  differences: list[SubgroupDifference]

  def postprocess(
    self,
    group: int | None = None,
    *,
    min_component: int = 0,
    fill_holes: bool = False,
  ) -> Postprocess:
    """The post-processing for new images, or that of a group of images."""
    search = self.search
    return Postprocess(
      rule=search.rule if group is None else search.group_rules[group],
      temperature=self.calibration.temperature,
      operating_points=self.calibration.points,
      min_component=min_component,
      fill_holes=fill_holes,
    )

  def flat(self) -> dict[str, Any]:
    """metrics.json: scalars by name and `intervals`; undefined is None.

    `interval_methods` tells what kind of interval a metric has, overall and in
    every subgroup.
    """
    flat = self.overall.flat()
    for table, rows in self.tables.items():
      for row, metrics in rows.items():
        part = metrics.flat()
        names = part.pop('intervals')
        prefix = f'{table}={row}/'
        flat |= {prefix + name: value for name, value in part.items()}
        flat['intervals'] |= {prefix + name: names[name] for name in names}
    flat['interval_methods'] = self.overall.methods
    flat['intervals'] = flat.pop('intervals')  # Last: it is the longest.
    return flat


def compute(
  held_out: HeldOut | Films,
  statistics: Mapping[str, np.ndarray],
  groups: np.ndarray,
  *,
  replicates: int,
  saved: Postprocess | None = None,
  attributes: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> Results:
  """Chooses rule and calibration by cross-fitting and computes all metrics.

  Args:
    held_out: N images.
    statistics: Of the network pass over them, see `rules.predicted`.
    groups: int[N], for cross-fitting, counted from 0.
    replicates: Of the bootstrap.
    saved: Post-processing to apply unchanged; nothing is chosen then.
    attributes: Further subgroups bool[N], by table and row.
  """
  grid = (saved.rule,) if saved else rule_search.GRID
  search = rule_search.cross_fit(statistics, groups, grid=grid)
  images = tables.images_table(held_out.records, statistics, search.outcome)
  plain = rule_search.apply(statistics, rules.PLAIN).dice
  known = images.mask_known
  further = {'dice_at_0.5': influence.mean(plain, known)}
  if saved:
    calibration = Calibration(
      saved.temperature,
      saved.calibrated(images.probability),
      saved.operating_points,
    )
    further |= calibration.operating_point_influences(images)
  else:
    calibration = Calibration.fit(images.probability, images.label, groups)
    tuned = search.tuned.dice
    further['dice_tuned'] = influence.mean(tuned, known)
    further['optimism'] = influence.mean(tuned - images.dice, known)
  further |= calibration.influences(images)
  overall = tables.with_intervals(images, further=further)
  overall |= calibration.points_of_roc(images, replicates=replicates)
  overall.values.update(
    temperature=calibration.temperature,
    num_images=len(images),
    num_positive=int(images.label.sum()),
    num_patients=len(np.unique(images.patient)),
    num_folds=len(np.unique(held_out.fold)),
  )
  overall.values.update(_num_masks(images))
  by_subgroup: dict[str, dict[str, Metrics]] = {}
  strata = tables.strata(held_out.records, images) | (attributes or {})
  two_way = attribute_tables.two_way(images.label, attributes or {})
  for table, rows in (strata | two_way).items():
    by_subgroup[table] = {}
    for row, chosen in rows.items():
      part = tables.with_intervals(images[chosen], names=tables.TABLE_METRICS)
      part.values['num_images'] = int(chosen.sum())
      part.values.update(_num_masks(images[chosen]))
      by_subgroup[table][row] = part
  differences = subgroups.differences(
    images,
    {table: strata[table] for table in strata if table != 'size_quartile'},
    called=calibration.called(tables.CALLS_AT),
    replicates=replicates,
  )
  return Results(
    images, groups, search, calibration, overall, by_subgroup, differences
  )


def _num_masks(images: Images) -> dict[str, int]:
  """How many images the metrics of masks are over, where not over all."""
  if images.mask_known is None:
    return {}
  return {
    'num_masks': int(images.mask_known.sum()),
    'num_positive_masks': int(images.marked.sum()),
  }
