"""The report's charts: SVG drawn by matplotlib, each described in words."""

import base64
import dataclasses
import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from pnx_jax.evaluation.bedside import DecisionCurve
from pnx_jax.evaluation.lesions import Froc, SizeCurve
from pnx_jax.metrics.bootstrap import Interval
from pnx_jax.metrics.curves import Curve

if TYPE_CHECKING:  # Importing matplotlib takes half a second.
  from matplotlib.axes import Axes

# Distinguishable for color-blind readers (Okabe and Ito, 2008).
_COLORS = ('#0072b2', '#d55e00', '#009e73')
_MARKERS = 'x+^sdo'  # Of readers; more of them share one.
_DASHES = ('-', '--', ':')
_STYLE = {
  'axes.edgecolor': '#57606a',
  'axes.labelcolor': '#1f2328',
  'axes.spines.right': False,
  'axes.spines.top': False,
  'font.family': ['sans-serif'],
  'font.size': 10,
  'legend.frameon': False,
  'text.color': '#1f2328',
  # The same data give the same bytes; text stays text.
  'svg.fonttype': 'none',
  'svg.hashsalt': 'pnx_jax',
}
_SIZE = (4.4, 3.3)  # In inches.
_LARGEST_DOT = 300  # Square points.


@dataclasses.dataclass(frozen=True)
class Chart:
  """A chart.

  Attributes:
    svg: The picture.
    pdf: The same, for papers.
    text: What it shows, for those who do not see it.
  """

  svg: bytes
  pdf: bytes
  text: str

  @property
  def source(self) -> str:
    """The value of an HTML image's `src`."""
    data = base64.b64encode(self.svg).decode('ascii')
    return f'data:image/svg+xml;base64,{data}'


def chart(
  text: str, draw: Callable[['Axes'], None], *, x: str, y: str
) -> Chart:
  """A chart of two axes.

  Args:
    text: What it shows, in words.
    draw: Draws on the axes.
    x: Title of the horizontal axis.
    y: Title of the vertical axis.
  """
  import matplotlib.style
  from matplotlib.figure import Figure

  svg, pdf = io.BytesIO(), io.BytesIO()
  with matplotlib.style.context(_STYLE, after_reset=True):
    figure = Figure(figsize=_SIZE, layout='constrained')
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y)
    draw(axes)
    nothing = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
    figure.savefig(svg, format='svg', metadata=nothing)
    nothing = dict.fromkeys(('Creator', 'Producer', 'CreationDate'))
    figure.savefig(pdf, format='pdf', metadata=nothing)
  return Chart(svg.getvalue(), pdf.getvalue(), text)


def roc(
  curve: Curve, readers: Mapping[str, tuple[float, float]] | None = None
) -> Chart:
  """The ROC curve of the image probabilities.

  Args:
    curve: Of the network.
    readers: Specificity and sensitivity of each reader.
  """
  points = {
    name: pair
    for name, pair in (readers or {}).items()
    if np.isfinite(sum(pair))
  }
  few = len(points) <= len(_MARKERS)

  def draw(axes: 'Axes') -> None:
    _reference(axes, [0, 1], [0, 1], 'chance')
    axes.plot(
      np.append(0, 1 - curve.specificity),
      np.append(0, curve.sensitivity),
      color=_COLORS[0],
      label='network',
      clip_on=False,
    )
    for number, (name, (specificity, sensitivity)) in enumerate(points.items()):
      axes.plot(
        1 - specificity,
        sensitivity,
        _MARKERS[number] if few else 'x',
        color=_COLORS[1],
        label=name if few else 'readers' if not number else None,
      )
    _unit(axes)

  return chart(
    f'ROC curve of the image probability: area {_number(curve.auc)}, '
    f'sensitivity {_number(curve.sensitivity_at(0.9))} at specificity 0.9',
    draw,
    x='false positive rate (1 - specificity)',
    y='sensitivity',
  )


def precision_recall(curve: Curve, prevalence: float) -> Chart:
  """Precision against recall of the image probabilities."""

  def draw(axes: 'Axes') -> None:
    _reference(axes, [0, 1], [prevalence] * 2, 'chance')
    axes.plot(
      curve.sensitivity,
      curve.precision,
      color=_COLORS[0],
      label='network',
      clip_on=False,
    )
    _unit(axes)

  return chart(
    'Precision against recall of the image probability: average precision '
    f'{_number(curve.average_precision)}, by chance {_number(prevalence)}',
    draw,
    x='recall',
    y='precision',
  )


def reliability(diagrams: Mapping[str, Mapping[str, np.ndarray]]) -> Chart:
  """Share of positives against predicted probability.

  Args:
    diagrams: By name, the filled bins of `calibration.reliability`.
  """

  def draw(axes: 'Axes') -> None:
    _reference(axes, [0, 1], [0, 1], 'ideal')
    for name, bins, color, dash in zip(
      diagrams, diagrams.values(), _COLORS, _DASHES, strict=False
    ):
      x, share = bins['probability'], bins['share']
      axes.plot(x, share, dash, color=color, label=name, clip_on=False)
      axes.vlines(x, bins['low'], bins['high'], color=color, linewidth=1)
      sizes = _LARGEST_DOT * bins['count'] / bins['count'].sum()
      axes.scatter(
        x, share, sizes, color=color, alpha=0.45, linewidths=0, clip_on=False
      )
    _unit(axes)

  return chart(
    'Share of positives against predicted probability, '
    f'{" and ".join(diagrams)}; the bins are listed in the table below',
    draw,
    x='predicted probability',
    y='share with pneumothorax',
  )


def rule_grid(dice: np.ndarray, *, tops: list[str], areas: list[str]) -> Chart:
  """Mean Dice f64[areas, tops] of rules that differ in top and area."""
  best = np.unravel_index(np.argmax(dice), dice.shape)

  def draw(axes: 'Axes') -> None:
    low, high = dice.min(), dice.max()
    spread = max(high - low, 1e-9)
    # The darkest cell leaves black text readable.
    axes.pcolormesh(
      dice, cmap='Blues', vmin=low - spread / 9, vmax=high + spread
    )
    for (row, column), value in np.ndenumerate(dice):
      axes.text(
        column + 0.5,
        row + 0.5,
        f'{value:.3f}'.removeprefix('0'),
        ha='center',
        va='center',
        fontsize=7,
        fontweight='bold' if (row, column) == best else 'normal',
      )
    axes.set_xticks(np.arange(len(tops)) + 0.5, tops)
    axes.set_yticks(np.arange(len(areas)) + 0.5, areas)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)

  return chart(
    f'Mean Dice of {dice.size} rules from {dice.min():.3f} to '
    f'{dice.max():.3f}; the best keeps a mask if more than {areas[best[0]]} '
    f'pixels exceed {tops[best[1]]}',
    draw,
    x='top: pixels above',
    y='area: more than, px',
  )


def dice_by_area(area: np.ndarray, dice: np.ndarray) -> Chart:
  """Dice f64[N] of positive images against the area int[N] of their masks."""

  def draw(axes: 'Axes') -> None:
    axes.scatter(
      area, dice, 14, color=_COLORS[0], alpha=0.45, linewidths=0, clip_on=False
    )
    axes.set_xscale('log')
    if not len(area):
      axes.set_xlim(100, 100_000)
    axes.set_ylim(0, 1)

  text = f'Dice of {len(area)} positive radiographs against mask area'
  if len(area):
    small = area <= np.median(area)
    text += f'; median {np.median(dice[small]):.3f} in the smaller half'
    if not small.all():
      text += f', {np.median(dice[~small]):.3f} in the larger half'
  return chart(text, draw, x='mask area, px at 1024 x 1024', y='Dice')


def decision_curve(found: DecisionCurve) -> Chart:
  """Net benefit against the threshold probability at one prevalence."""

  def draw(axes: 'Axes') -> None:
    _reference(axes, [0, found.thresholds[-1]], [0, 0], 'act on none')
    axes.plot(
      found.thresholds,
      found.everyone,
      '--',
      color=_COLORS[1],
      label='act on all',
    )
    axes.plot(
      found.thresholds, found.network, color=_COLORS[0], label='network'
    )
    axes.set_xlim(0, found.thresholds[-1])
    axes.set_ylim(-0.25 * found.prevalence, 1.1 * found.prevalence)
    axes.legend(loc='upper right')

  better = found.network > np.maximum(found.everyone, 0) + 1e-12
  share = f'{better.mean():.0%} of thresholds up to {found.thresholds[-1]:.2g}'
  return chart(
    f'Net benefit at a prevalence of {found.prevalence:.3g}: the network is '
    f'better than acting on all or on none at {share}',
    draw,
    x='probability from which on one acts',
    y='net benefit',
  )


def froc(curves: Mapping[str, Froc]) -> Chart:
  """Free-response ROC curves by their criterion of a hit."""

  def draw(axes: 'Axes') -> None:
    for (name, curve), color, dash in zip(
      curves.items(), _COLORS, _DASHES, strict=False
    ):
      x = curve.false_positives
      axes.plot(x, curve.sensitivity, dash, color=color, label=name)
      _band(axes, x, curve.intervals, color)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1)
    axes.legend(loc='lower right')

  ends = [
    f'{_number(curve.sensitivity[-1])} at '
    f'{_number(curve.false_positives[-1])} false positives a film by {name}'
    for name, curve in curves.items()
    if len(curve.thresholds)
  ]
  return chart(
    'Free-response ROC curve over lesions: sensitivity up to '
    f'{", ".join(ends) or "undefined: no finding, 0 lesions"}',
    draw,
    x='false positives per radiograph',
    y='sensitivity over lesions',
  )


def sensitivity_by_size(curve: SizeCurve) -> Chart:
  """Sensitivity over lesions against their area, smoothed."""

  def draw(axes: 'Axes') -> None:
    axes.plot(curve.areas, curve.sensitivity, color=_COLORS[0])
    _band(axes, curve.areas, curve.intervals, _COLORS[0])
    axes.set_xscale('log')
    axes.xaxis.set_minor_formatter(lambda *_: '')
    axes.set_ylim(0, 1)

  return chart(
    f'Sensitivity over {curve.num_lesions} lesions by their area: '
    f'{_number(curve.sensitivity[0])} at {curve.areas[0]:,.0f} {curve.unit}, '
    f'{_number(curve.sensitivity[-1])} at {curve.areas[-1]:,.0f} {curve.unit}',
    draw,
    x=f'area of the lesion, {curve.unit.replace("mm2", "mm²")}',
    y='sensitivity',
  )


def paired_dice(
  first: np.ndarray, second: np.ndarray, *, names: tuple[str, str]
) -> Chart:
  """Dice f64[N] of positive images by one run against that by another."""

  def draw(axes: 'Axes') -> None:
    _reference(axes, [0, 1], [0, 1], 'equal')
    axes.scatter(
      first,
      second,
      14,
      color=_COLORS[0],
      alpha=0.45,
      linewidths=0,
      clip_on=False,
    )
    _unit(axes)
    axes.set_aspect('equal')

  return chart(
    f'Dice of {len(first)} positive radiographs: higher by {names[1]} on '
    f'{np.sum(second > first)}, lower on {np.sum(second < first)}',
    draw,
    x=f'Dice by {names[0]}',
    y=f'Dice by {names[1]}',
  )


def _band(
  axes: 'Axes', x: np.ndarray, intervals: list[Interval], color: str
) -> None:
  """Shades intervals at f64[K]; undefined ones have none."""
  nothing = (np.nan, np.nan)
  bounds = np.array([pair or nothing for pair in intervals]).reshape(-1, 2)
  axes.fill_between(x, *bounds.T, color=color, alpha=0.15, linewidth=0)


def _unit(axes: 'Axes') -> None:
  """Limits both axes to 0 to 1 and adds the legend."""
  axes.set(xlim=(0, 1), ylim=(0, 1))
  axes.legend(loc='best')


def _reference(axes: 'Axes', x: list[float], y: list[float], name: str) -> None:
  axes.plot(x, y, ':', color='#8c959f', linewidth=1, label=name)


def _number(value: float | np.ndarray) -> str:
  return 'undefined' if np.isnan(value) else f'{float(value):.3f}'
