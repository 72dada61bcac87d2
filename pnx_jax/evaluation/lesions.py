"""Free-response evaluation: lesions found, by size and place, and false ones.

A lesion is a region of the annotated mask at 1024 x 1024, see
`metrics.lesions`. Curves over all scores are of the candidate masks, that is
without the rule's decision which films keep a mask; everything else is of the
final masks.
"""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from pnx_jax.evaluation import outlines, tables
from pnx_jax.evaluation.tables import Metrics
from pnx_jax.formats import files, letterbox
from pnx_jax.formats.schema import Record
from pnx_jax.metrics import averages, influence, intervals, lesions
from pnx_jax.metrics.bootstrap import Interval
from pnx_jax.metrics.dice import THRESHOLDS
from pnx_jax.metrics.influence import Influence
from pnx_jax.metrics.lesions import FalsePositive, Lesion, Region
from pnx_jax.prediction.network import SIZE

KINDS = ('negative film', 'same side', 'other side', 'side unknown')
THIRDS = ('upper', 'middle', 'lower')
_BANDWIDTH = 0.2  # Of areas, in powers of 10.
_NUM_SIZES = 25
LESIONS = (
  *('image_id', 'x', 'y', 'area', 'area_mm2', 'third', 'side'),
  *('score', 'score_iou', 'found', 'found_iou'),
)
FALSE_POSITIVES = ('image_id', 'x', 'y', 'area', 'score', 'kind')


@dataclasses.dataclass(frozen=True)
class FilmFindings:
  """What was found on one film.

  Attributes:
    lesions: By the candidate mask.
    false: Findings of the candidate mask that overlap no lesion.
    final_lesions: The same lesions by the final mask.
    final_false: Findings of the final mask that overlap no lesion.
  """

  lesions: list[Lesion]
  false: list[FalsePositive]
  final_lesions: list[Lesion]
  final_false: list[FalsePositive]


def find(
  truth: np.ndarray,
  candidates: np.ndarray,
  final: np.ndarray,
  levels: np.ndarray,
) -> FilmFindings:
  """Matches the regions of a film.

  Args:
    truth: bool[S, S], annotated.
    candidates: bool[S, S], before the decision whether the film keeps a mask.
    final: bool[S, S], the rule's mask.
    levels: uint8[S, S], see `kept_masks`.
  """
  found = lesions.match(truth, candidates, levels)
  if np.array_equal(candidates, final):
    return FilmFindings(*found, *found)
  return FilmFindings(*found, *lesions.match(truth, final, levels))


@dataclasses.dataclass(frozen=True)
class Froc:
  """Free-response ROC curve: K thresholds, descending.

  Attributes:
    thresholds: f64[K], that a finding's largest probability exceeds.
    false_positives: f64[K], per film.
    sensitivity: f64[K], over lesions.
    intervals: Of the sensitivity.
    false_intervals: Of the false positives per film.
  """

  thresholds: np.ndarray
  false_positives: np.ndarray
  sensitivity: np.ndarray
  intervals: list[Interval]
  false_intervals: list[Interval]


@dataclasses.dataclass(frozen=True)
class SizeCurve:
  """Sensitivity as a smooth function of the area of a lesion.

  Attributes:
    unit: `px`, or `mm2`.
    num_lesions: That it comes from.
    areas: f64[K].
    sensitivity: f64[K], NaN where there are no lesions near.
    intervals: Of the sensitivity.
  """

  unit: str
  num_lesions: int
  areas: np.ndarray
  sensitivity: np.ndarray
  intervals: list[Interval]


@dataclasses.dataclass(frozen=True)
class LesionReport:
  """All of it.

  Attributes:
    metrics: Of final masks: `sensitivity`, `sensitivity_iou`,
      `false_positives` per film, and by kind, quartile of area and zone, each
      with `<name>/count` of lesions or findings.
    froc: By any overlap, and by IoU.
    sizes: In px, and in mm2 if five lesions have a plausible spacing.
    lesions: Rows of lesions.csv.
    false_positives: Rows of false_positives.csv, the highest score first.
    false_images: The image of each of these rows and its kind.
  """

  metrics: Metrics
  froc: dict[str, Froc]
  sizes: list[SizeCurve]
  lesions: list[tuple[object, ...]]
  false_positives: list[tuple[object, ...]]
  false_images: list[tuple[int, str]]


def summarize(
  films: dict[int, FilmFindings],
  records: Sequence[Record],
  patient: np.ndarray,
  *,
  known: np.ndarray | None = None,
) -> LesionReport:
  """Counts over all films.

  Args:
    films: By index; films that are not there have neither lesion nor finding.
    records: N records.
    patient: int[N].
    known: bool[N], whether the mask is known; None if every mask is.
  """
  rows = [
    (index, before, after)
    for index, film in sorted(films.items())
    for before, after in zip(film.lesions, film.final_lesions, strict=True)
  ]
  image = np.array([index for index, *_ in rows], int)
  area = np.array([lesion.region.area for _, lesion, _ in rows], float)
  hit = np.array([after.score > 0 for *_, after in rows], bool)
  hit_iou = np.array([after.score_iou > 0 for *_, after in rows], bool)
  places = [_place(records[i], x.region) for i, x, _ in rows]
  area_mm2 = np.array(
    [_square_mm(records[i], x.region.area) for i, x, _ in rows], float
  )
  false = sorted(
    (
      (index, finding, _kind(records[index], finding.region, film.lesions))
      for index, film in films.items()
      for finding in film.final_false
    ),
    key=lambda row: (-row[1].score, -row[1].region.area, row[0]),
  )
  size = len(records)

  def sensitivity(found: np.ndarray, chosen: np.ndarray) -> Influence:
    counts = np.bincount(image[chosen], minlength=size)
    return influence.ratio(
      np.bincount(image[chosen], found[chosen], size), counts, counts > 0
    )

  def per_film(indices: list[int]) -> Influence:
    return influence.mean(np.bincount(indices, minlength=size), known)

  every = np.ones(len(rows), bool)
  quartile = averages.quartiles(area, every)
  strata = {
    f'area_quartile={number}': quartile == number
    for number in range(1, averages.NUM_QUARTILES + 1)
  } | {
    f'zone={third} {side}'.strip(): np.array(
      [place == (third, side) for place in places], bool
    )
    for third in THIRDS
    for side in ('right', 'left', '')
  }
  found = {
    'sensitivity': sensitivity(hit, every),
    'sensitivity_iou': sensitivity(hit_iou, every),
  }
  counts = {'sensitivity': len(rows), 'false_positives': len(false)}
  for name, chosen in strata.items():
    if chosen.any():
      found[name] = sensitivity(hit, chosen)
      counts[name] = int(chosen.sum())
  rates = {'false_positives': per_film([index for index, *_ in false])}
  for kind in KINDS:
    indices = [index for index, _, each in false if each == kind]
    rates[f'kind={kind}'] = per_film(indices)
    counts[f'kind={kind}'] = len(indices)
  metrics = tables.from_influences(found | rates, patient, counts=list(rates))
  metrics.values.update({f'{n}/count': x for n, x in counts.items()})
  curves = []
  for unit, areas in (('px', area), ('mm2', area_mm2)):
    measured = areas > 0
    if measured.sum() >= intervals.MIN_CLUSTERS:
      curves.append(
        _size_curve(
          unit, areas[measured], hit[measured], image[measured], patient
        )
      )
  scores = {
    'any overlap': np.array([before.score for _, before, _ in rows], int),
    f'IoU at least {lesions.IOU:g}': np.array(
      [before.score_iou for _, before, _ in rows], int
    ),
  }
  return LesionReport(
    metrics,
    {
      name: _froc(films, image, x, patient, known) for name, x in scores.items()
    },
    curves,
    [
      (
        records[index].image_id,
        *_xy(before.region),
        '' if mm2 <= 0 else f'{mm2:.1f}',
        *place,
        _threshold(before.score),
        _threshold(before.score_iou),
        int(after.score > 0),
        int(after.score_iou > 0),
      )
      for (index, before, after), place, mm2 in zip(
        rows, places, area_mm2, strict=True
      )
    ],
    [
      (
        records[index].image_id,
        *_xy(finding.region),
        _threshold(finding.score),
        kind,
      )
      for index, finding, kind in false
    ],
    [(index, kind) for index, _, kind in false],
  )


def write(folder: str | os.PathLike[str], report: LesionReport) -> None:
  """Writes lesions.csv and false_positives.csv.

  Raises:
    UserError: A file cannot be written.
  """
  path = os.path.join(folder, 'lesions.csv')
  files.write_csv(path, LESIONS, report.lesions)
  path = os.path.join(folder, 'false_positives.csv')
  files.write_csv(path, FALSE_POSITIVES, report.false_positives)


def _froc(
  films: dict[int, FilmFindings],
  image: np.ndarray,
  score: np.ndarray,
  patient: np.ndarray,
  known: np.ndarray | None,
) -> Froc:
  """From the image and score of each lesion; int[L] twice."""
  size = len(patient)
  false = [
    (index, finding.score)
    for index, film in films.items()
    for finding in film.false
  ]
  false_image, false_score = np.array(false, int).reshape(-1, 2).T
  used = np.union1d(score[score > 0], false_score)[::-1]
  count = np.bincount(image, minlength=size)
  rows = []
  for level in used:
    hits = np.bincount(image, score >= level, size)
    found = influence.ratio(hits, count, count > 0)
    wrong = np.bincount(false_image, false_score >= level, size)
    rate = influence.mean(wrong, known)
    rows.append(
      (
        THRESHOLDS[level - 1],
        rate.value,
        found.value,
        intervals.wilson(found, patient),
        intervals.score(rate, patient),
      )
    )
  columns = list(zip(*rows, strict=True)) or [()] * 5
  return Froc(
    *(np.array(column, float) for column in columns[:3]),
    *(list(column) for column in columns[3:]),
  )


def _size_curve(
  unit: str,
  area: np.ndarray,
  hit: np.ndarray,
  image: np.ndarray,
  patient: np.ndarray,
) -> SizeCurve:
  """Means weighted by a Gaussian of the logarithm of the area."""
  logs = np.log10(area)
  low, high = np.quantile(logs, [0.02, 0.98])
  grid = np.linspace(low, high, _NUM_SIZES)
  values, found = [], []
  for at in grid:
    weight = np.exp(-0.5 * ((logs - at) / _BANDWIDTH) ** 2)
    # Lesions farther than two bandwidths do not carry the value.
    near = np.abs(logs - at) < 2 * _BANDWIDTH
    carriers = np.bincount(image, near, len(patient)) > 0
    each = influence.ratio(
      np.bincount(image, weight * hit, len(patient)),
      np.bincount(image, weight, len(patient)),
      carriers,
    )
    values.append(each.value if carriers.any() else np.nan)
    found.append(intervals.wilson(each, patient))
  return SizeCurve(unit, len(area), 10**grid, np.array(values), found)


def _place(record: Record, region: Region) -> tuple[str, str]:
  """The third of the film's height, and the patient's side or ''.

  The patient faces the reader: the film's left half is the right side, unless
  the film is stored mirrored.
  """
  inner = letterbox.place(
    record.height, record.width, SIZE, pixel_aspect=record.pixel_aspect
  )
  down = (region.row - inner.top) / inner.height
  third = THIRDS[int(np.clip(down * 3, 0, 2))]
  if record.view and not record.view.startswith(('AP', 'PA')):
    return third, ''
  across = (region.column - inner.left) / inner.width
  right = (across < 0.5) != bool(record.mirrored)
  return third, 'right' if right else 'left'


def _kind(record: Record, region: Region, found: Sequence[Lesion]) -> str:
  if not found:
    return 'negative film'
  _, side = _place(record, region)
  if not side:
    return 'side unknown'
  sides = {_place(record, lesion.region)[1] for lesion in found}
  return 'same side' if side in sides else 'other side'


def _square_mm(record: Record, area: int) -> float:
  """An area at 1024 x 1024 in mm2; -1 if the spacing is not plausible."""
  known = outlines.spacing(record)
  if not known:
    return -1.0
  inner = letterbox.place(
    record.height, record.width, SIZE, pixel_aspect=record.pixel_aspect
  )
  rows = known[0] * record.height / inner.height
  columns = known[1] * record.width / inner.width
  return area * rows * columns


def _xy(region: Region) -> tuple[str, str, int]:
  return f'{region.column:.1f}', f'{region.row:.1f}', region.area


def _threshold(level: int) -> str:
  return f'{THRESHOLDS[level - 1]:g}' if level else ''
