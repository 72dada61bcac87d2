"""The report: what an evaluation found, on one self-contained page."""

import base64

import numpy as np

from pnx_jax import draw, pages
from pnx_jax.evaluation import rule_search
from pnx_jax.evaluation.report import gallery
from pnx_jax.evaluation.report.charts import Axis, Chart
from pnx_jax.evaluation.results import Verdict
from pnx_jax.metrics import calibration, rules, summary
from pnx_jax.metrics.curves import curve
from pnx_jax.training import run_files

IMAGE_LEVEL = {
  'roc': 'ROC curve.',
  'precision': 'Precision and recall.',
  'reliability': (
    'How often the network is right when it says how sure it is. The larger '
    'a dot, the more images; bars are 95 % intervals as if images were '
    'independent.'
  ),
}


def render(
  *,
  title: str,
  config: str,
  records,
  statistics: dict[str, np.ndarray],
  verdict: Verdict,
  findings: gallery.Findings,
  metrics: dict,
) -> str:
  """The page as HTML.

  Args:
    title: of the run.
    config: every field, as text.
    records: of the held-out images.
    statistics: of the pass over them.
    verdict: on them.
    findings: of the second look.
    metrics: what metrics.json holds.
  """
  return pages.render(
    'report.html',
    title=title,
    config=config,
    commit=run_files.commit(),
    metrics=metrics,
    headline=summary.TITLES.items(),
    image_level=IMAGE_LEVEL.items(),
    table_columns=summary.SHORT_TITLES.items(),
    tables={
      table: {row: scored.flat() for row, scored in rows.items()}
      for table, rows in verdict.tables.items()
    },
    rule=str(verdict.search.rule),
    num_rules=len(rule_search.GRID),
    num_groups=len(verdict.search.group_rules),
    points=verdict.calibration.points,
    reliability=_reliability(verdict),
    charts={
      **_image_level_charts(verdict),
      'rules': _rule_chart(statistics, verdict.search.rule),
      'sizes': _size_chart(verdict.images),
    },
    gallery=_gallery(findings.pictures, records, verdict.images),
  )


def _image_level_charts(verdict) -> dict[str, Chart]:
  label, probability = verdict.images.label, verdict.images.probability
  found = curve(probability, label)
  roc = Chart(
    'ROC curve of the image probability',
    x=Axis.linear('false alarms (1 - specificity)'),
    y=Axis.linear('sensitivity'),
  )
  precision = Chart(
    'Precision against recall of the image probability',
    x=Axis.linear('recall'),
    y=Axis.linear('precision'),
  )
  if label.any():
    share = label.mean()
    precision.line(found.sensitivity, found.precision, 'network')
    precision.line([0, 1], [share, share], 'chance', reference=True)
    if not label.all():
      false_alarms = 1 - found.specificity
      roc.line(
        np.append(0, false_alarms), np.append(0, found.sensitivity), 'network'
      )
      roc.line([0, 1], [0, 1], 'chance', reference=True)
  reliable = Chart(
    'Share of positives against the probability given',
    x=Axis.linear('probability'),
    y=Axis.linear('share with pneumothorax'),
  )
  for name, bins in _reliability(verdict).items():
    reliable.shares(
      bins['probability'],
      bins['share'],
      name,
      low=bins['low'],
      high=bins['high'],
      sizes=bins['count'] / len(label),
      texts=[
        f'{name}: of {count:,.0f} images around {probability:.2f}, '
        f'{share:.0%} positive ({low:.0%} to {high:.0%})'
        for count, probability, share, low, high in zip(
          *bins.values(), strict=True
        )
      ],
    )
  reliable.line([0, 1], [0, 1], 'ideal', reference=True)
  return {'roc': roc, 'precision': precision, 'reliability': reliable}


def _reliability(verdict) -> dict[str, dict[str, np.ndarray]]:
  """Bins that hold images, see `calibration.reliability`, by name."""
  found = {}
  for name, values in (
    ('as given', verdict.images.probability),
    ('calibrated', verdict.calibration.scaled),
  ):
    bins = calibration.reliability(values, verdict.images.label)
    filled = bins['count'] > 0
    found[name] = {key: column[filled] for key, column in bins.items()}
  return found


def _rule_chart(statistics, best: rules.Rule) -> Chart:
  """Mean Dice over top and area, at the best rule's bottom and gate."""
  tops = [top for top in rule_search.TOPS if top >= best.bottom]
  areas = rule_search.AREAS
  grid = [
    rules.Rule(top, area, best.bottom, best.gate)
    for area in areas
    for top in tops
  ]
  everyone = np.zeros(len(statistics['truth_area']), int)
  scores = rules.group_scores(statistics, grid, everyone) / len(everyone)
  chart = Chart(
    f'Dice over rules with mask above {best.bottom:g}',
    x=Axis.categories(
      'top: pixels above', [f'{top:g}'.removeprefix('0') for top in tops]
    ),
    y=Axis.categories('area: more than, px', [f'{area:,}' for area in areas]),
  )
  chart.table(scores.reshape(len(areas), len(tops)))
  return chart


def _size_chart(images) -> Chart:
  areas = images.truth_area[images.label]
  shown = areas > 0
  areas, dice = areas[shown], images.dice[images.label][shown]
  low, high = (areas.min(), areas.max()) if len(areas) else (100, 100_000)
  chart = Chart(
    'Dice of positives against mask area',
    x=Axis.logarithmic('mask area, px at 1024²', low, high),
    y=Axis.linear('Dice'),
  )
  chart.points(areas, dice)
  return chart


def _gallery(pictures, records, images) -> dict[str, list[dict]]:
  shown = {'worst': [], 'best': []}
  for case, picture in pictures.items():
    if case.kind in shown:
      data = draw.encoded(picture, '.jpg')
      truth = 'pneumothorax' if images.label[case.index] else 'none'
      shown[case.kind].append(
        {
          'picture': base64.b64encode(data).decode('ascii'),
          'rank': case.rank,
          'text': (
            f'{records[case.index].image_id}: truth {truth}, '
            f'Dice {images.dice[case.index]:.3f}'
          ),
        }
      )
  for cases in shown.values():
    cases.sort(key=lambda case: case['rank'])
  return {kind: cases for kind, cases in shown.items() if cases}
