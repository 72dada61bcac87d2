"""The geometry of charts; pages/templates/chart.svg draws them."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

# Radius, in the picture's own coordinates.
_LARGEST_DOT = 13


@dataclasses.dataclass(frozen=True)
class Axis:
  """From `low` to `high`, with `ticks` as (value, label)."""

  title: str
  low: float
  high: float
  ticks: tuple[tuple[float, str], ...]
  log: bool = False

  @classmethod
  def linear(cls, title: str, low: float = 0.0, high: float = 1.0) -> 'Axis':
    values = np.linspace(low, high, 6)
    return cls(title, low, high, tuple((v, f'{v:.3g}') for v in values))

  @classmethod
  def logarithmic(cls, title: str, low: float, high: float) -> 'Axis':
    """Ticks at the powers of ten, from the one below to the one above."""
    first = math.floor(math.log10(low))
    last = max(math.ceil(math.log10(high)), first + 1)
    powers = [10**power for power in range(first, last + 1)]
    ticks = tuple((power, f'{power:,}') for power in powers)
    return cls(title, powers[0], powers[-1], ticks, log=True)

  @classmethod
  def categories(cls, title: str, names: Sequence[str]) -> 'Axis':
    """One cell per name; a value of n + 0.5 is the middle of cell n."""
    ticks = tuple((n + 0.5, name) for n, name in enumerate(names))
    return cls(title, 0, len(names), ticks)

  def share(self, value):
    """Where values lie on the axis, 0 to 1."""
    low, high, value = self.low, self.high, np.asarray(value, float)
    if self.log:
      low, high, value = np.log(low), np.log(high), np.log(value)
    return (value - low) / (high - low)


class Chart:
  """Lines, points and cells over two axes.

  Args:
    title: says what is seen, also to those who do not see it.
    x: horizontal axis.
    y: vertical axis.
  """

  # The area between the axes, in the picture's own coordinates.
  left, top, right, bottom = 62, 12, 394, 272

  def __init__(self, title: str, *, x: Axis, y: Axis):
    self.title, self.x, self.y = title, x, y
    self.lines: list[dict] = []
    self.dots: list[dict] = []
    self.cells: list[dict] = []

  def line(self, x, y, name: str = '', *, reference: bool = False) -> None:
    """A line through points f64[K]; a reference is drawn faint."""
    points = ' '.join(f'{a},{b}' for a, b in self._places(x, y))
    self.lines.append({'points': points, 'name': name, 'reference': reference})

  def points(self, x, y) -> None:
    for place in self._places(x, y):
      self.dots.append({'place': place, 'radius': 3})

  def shares(self, x, y, name: str, *, low, high, sizes, texts) -> None:
    """A line through points f64[K] that are more or less certain.

    Args:
      x: of the points.
      y: of the points.
      name: of the line.
      low: where each point's interval begins.
      high: where it ends.
      sizes: area of each point, 1 for the largest there can be.
      texts: shown where the pointer rests on a point.
    """
    for place, bottom, top, size, text in zip(
      self._places(x, y), low, high, sizes, texts, strict=True
    ):
      self.dots.append(
        {
          'place': place,
          'radius': round(max(2.0, _LARGEST_DOT * float(size) ** 0.5), 1),
          'interval': (self._up(bottom), self._up(top)),
          'line': len(self.lines),
          'text': text,
        }
      )
    self.line(x, y, name)

  def table(self, values) -> None:
    """Shaded numbers f64[rows, columns] on axes of categories, upwards."""
    low, high = np.nanmin(values), np.nanmax(values)
    for (row, column), value in np.ndenumerate(values):
      if not np.isnan(value):
        ((left, top),) = self._places([column], [row + 1])
        ((right, bottom),) = self._places([column + 1], [row])
        self.cells.append(
          {
            'left': left,
            'top': top,
            'width': right - left,
            'height': bottom - top,
            'text': f'{value:.3f}'.removeprefix('0'),
            'share': (value - low) / (high - low) if high > low else 1.0,
          }
        )

  @property
  def x_ticks(self) -> list[tuple[float, str]]:
    return [(self._across(value), label) for value, label in self.x.ticks]

  @property
  def y_ticks(self) -> list[tuple[float, str]]:
    return [(self._up(value), label) for value, label in self.y.ticks]

  def _places(self, x, y) -> list[tuple[float, float]]:
    return [(self._across(a), self._up(b)) for a, b in zip(x, y, strict=True)]

  def _across(self, value) -> float:
    width = self.right - self.left
    return round(self.left + float(self.x.share(value)) * width, 1)

  def _up(self, value) -> float:
    height = self.bottom - self.top
    return round(self.bottom - float(self.y.share(value)) * height, 1)
