"""The report of an evaluation: one self-contained HTML page."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pnx_jax import draw, pages
from pnx_jax.evaluation import (
  annotations,
  localization,
  outlines,
  rule_search,
  tables,
)
from pnx_jax.evaluation.bedside import Bedside
from pnx_jax.evaluation.lesions import LesionReport
from pnx_jax.evaluation.readers import ReaderReport
from pnx_jax.evaluation.report import charts
from pnx_jax.evaluation.report.charts import Chart
from pnx_jax.evaluation.report.gallery import Example
from pnx_jax.evaluation.results import Results
from pnx_jax.evaluation.tables import Metrics
from pnx_jax.evaluation.uncertainty import Uncertainty
from pnx_jax.formats.schema import Record
from pnx_jax.metrics import calibration, rules, subgroups, summary
from pnx_jax.metrics.curves import curve
from pnx_jax.metrics.summary import Images
from pnx_jax.training import run_files

IMAGE_LEVEL = {
  'roc': 'ROC curve.',
  'precision': 'Precision and recall.',
  'reliability': (
    'Reliability diagram. The larger a dot, the more images; bars are 95 % '
    'intervals that treat images as independent.'
  ),
}

GALLERY_TITLES = {
  'worst': 'Worst radiographs',
  'best': 'Best positive radiographs',
  'false_on_negative_film': 'False positives on negative radiographs',
  'false_on_same_side': 'False positives on the side of a pneumothorax',
  'false_on_other_side': 'False positives on the side without a pneumothorax',
}
_TITLES = summary.SHORT_TITLES | {
  'dice_positive': 'Dice on positives',
  'sensitivity': 'sensitivity of the masks',
  'specificity': 'specificity of the masks',
  'sensitivity_of_calls': 'sensitivity of the probability',
  'specificity_of_calls': 'specificity of the probability',
}


def render(
  *,
  title: str,
  config: str,
  records: Sequence[Record],
  statistics: Mapping[str, np.ndarray],
  results: Results,
  pictures: Mapping[Example, np.ndarray],
  lesion_report: LesionReport,
  reader_report: ReaderReport | None = None,
  spread: Uncertainty | None = None,
  outline_metrics: Metrics,
  at_bedside: Bedside,
  metrics: Mapping[str, Any],
  foreign: bool = False,
) -> tuple[str, dict[str, Chart]]:
  """Renders the page as HTML; returns its charts by name, too.

  Args:
    title: Name of the run.
    config: Every field, as text.
    records: Of the held-out images.
    statistics: Of the network pass over them.
    results: On them.
    pictures: Of some of them.
    lesion_report: Of `lesions.summarize`.
    reader_report: Of `readers.summarize`, if there are readers.
    spread: Of `uncertainty.summarize`, if several networks were averaged.
    outline_metrics: Of `outlines.summarize`.
    at_bedside: Of `bedside.summarize`.
    metrics: The content of metrics.json.
    foreign: Whether another program predicted.
  """
  diagrams = _reliability(results)
  figures = {
    **_curves(results.images, reader_report),
    'reliability': charts.reliability(diagrams),
    'rules': _rule_chart(statistics, results.search.rule),
    'sizes': _size_chart(results.images),
    'froc': charts.froc(lesion_report.froc),
    **{
      f'lesions_by_{curve.unit}': charts.sensitivity_by_size(curve)
      for curve in lesion_report.sizes
    },
    **{
      f'net_benefit_{curve.prevalence:g}': charts.decision_curve(curve)
      for curve in at_bedside.curves
    },
  }
  html = pages.render(
    'report.html',
    title=title,
    config=config,
    commit=run_files.commit(),
    metrics=metrics,
    foreign=foreign,
    calls_at=tables.CALLS_AT,
    headline=summary.TITLES.items(),
    box_titles=localization.TITLES.items(),
    image_level=IMAGE_LEVEL.items(),
    table_columns=summary.SHORT_TITLES.items(),
    table_titles=_TITLES,
    tables={
      table: {row: part.flat() for row, part in rows.items()}
      for table, rows in results.tables.items()
    },
    outlines=outline_metrics.flat(),
    outline_titles=outlines.TITLES.items(),
    bedside=at_bedside,
    differences=results.differences,
    worst={
      metric: subgroups.worst(results.differences, metric)
      for metric in dict.fromkeys(each.metric for each in results.differences)
    },
    rule=str(results.search.rule),
    num_rules=len(rule_search.GRID),
    num_groups=len(results.search.group_rules),
    points=results.calibration.points,
    reliability=diagrams,
    charts=figures,
    gallery_titles=GALLERY_TITLES,
    readers=reader_report,
    annotations=annotations.summarize(records, results.images.patient),
    spread=spread,
    lesions=lesion_report,
    lesion_metrics=lesion_report.metrics.flat(),
    gallery=_gallery(pictures, records, results.images),
  )
  return html, figures


def _curves(
  images: Images, reader_report: ReaderReport | None
) -> dict[str, Chart]:
  """Those that are defined: both need positives, ROC also negatives."""
  found, label = curve(images.probability, images.label), images.label
  curves = {}
  if label.any():
    share = float(label.mean())
    curves['precision'] = charts.precision_recall(found, share)
    if not label.all():
      points = {}
      if reader_report:
        points = {
          name: (result.specificity.value, result.sensitivity.value)
          for name, result in reader_report.study.readers.items()
        }
      curves['roc'] = charts.roc(found, points)
  return curves


def _reliability(results: Results) -> dict[str, dict[str, np.ndarray]]:
  """The filled bins of `calibration.reliability`, by name."""
  diagrams = {}
  for name, values in (
    ('as predicted', results.images.probability),
    ('calibrated', results.calibration.scaled),
  ):
    bins = calibration.reliability(values, results.images.label)
    filled = bins['count'] > 0
    diagrams[name] = {key: column[filled] for key, column in bins.items()}
  return diagrams


def _rule_chart(
  statistics: Mapping[str, np.ndarray], best: rules.Rule
) -> Chart:
  """Mean Dice over top and area, at the best rule's bottom and gate."""
  tops = [top for top in rule_search.TOPS if top >= best.bottom]
  areas = rule_search.AREAS
  grid = [
    rules.Rule(top, area, best.bottom, best.gate)
    for area in areas
    for top in tops
  ]
  one_group = np.zeros(len(statistics['truth_area']), int)
  statistics, one_group = rule_search.scored(statistics, one_group)
  dice = rules.group_scores(statistics, grid, one_group) / len(one_group)
  return charts.rule_grid(
    dice.reshape(len(areas), len(tops)),
    tops=[f'{top:g}'.removeprefix('0') for top in tops],
    areas=[f'{area:,}' for area in areas],
  )


def _size_chart(images: Images) -> Chart:
  shown = images.label & (images.truth_area > 0)
  return charts.dice_by_area(images.truth_area[shown], images.dice[shown])


def _gallery(
  pictures: Mapping[Example, np.ndarray],
  records: Sequence[Record],
  images: Images,
) -> dict[str, list[dict[str, Any]]]:
  shown: dict[str, list[dict[str, Any]]] = {kind: [] for kind in GALLERY_TITLES}
  for example, picture in sorted(
    pictures.items(), key=lambda item: item[0].rank
  ):
    if example.kind in shown:
      data = draw.encoded(picture, '.jpg')
      truth = 'pneumothorax' if images.label[example.index] else 'none'
      shown[example.kind].append(
        {
          'picture': base64.b64encode(data).decode('ascii'),
          'text': (
            f'{records[example.index].image_id}: truth {truth}, '
            f'Dice {images.dice[example.index]:.3f}'
          ),
        }
      )
  return {kind: examples for kind, examples in shown.items() if examples}
