"""The comparison of evaluated runs on the films that all of them scored."""

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from pnx_jax.errors import UserError, check_known
from pnx_jax.formats import evaluation_files, folders
from pnx_jax.formats.evaluation_files import PerImage
from pnx_jax.metrics import bootstrap, paired
from pnx_jax.metrics.paired import Difference
from pnx_jax.metrics.summary import Images

PRIMARY = ('dice', 'dice_positive', 'auc')


@dataclasses.dataclass(frozen=True, eq=False)
class Side:
  """Runs that are compared as one.

  Attributes:
    name: Of the runs.
    folders: The evaluation of each run.
    films: The N films in common, as each run predicted them.
  """

  name: str
  folders: tuple[pathlib.Path, ...]
  films: tuple[PerImage, ...]

  @property
  def images(self) -> list[Images]:
    """The films of each run, as metrics are computed from them."""
    return [_images(table) for table in self.films]

  @property
  def dice(self) -> np.ndarray:
    """Mean Dice over the runs: f64[N]."""
    return np.mean([table.dice for table in self.films], axis=0)

  @property
  def probability(self) -> np.ndarray:
    """Mean probability over the runs: f64[N]."""
    return np.mean([table.probability for table in self.films], axis=0)


@dataclasses.dataclass(frozen=True)
class Row:
  """The difference of two sides in one metric.

  Attributes:
    side: The side that is compared with the first one.
    metric: Name of the metric.
    difference: That side minus the first one.
    p_holm: The p-value after Holm's adjustment over all primary metrics and
      sides; None for other metrics.
    non_inferior: Whether the interval excludes that the side is worse than the
      first one by the margin; None without a margin or an interval.
  """

  side: Side
  metric: str
  difference: Difference
  p_holm: float | None
  non_inferior: bool | None


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Sides on the films that they have in common.

  Attributes:
    sides: The first one is the reference.
    num_films: Films in common.
    num_left_out: Films that some of the runs, but not all, were evaluated on.
    margin: For non-inferiority; None if it was not asked for.
    rows: Every metric of every side but the first.
  """

  sides: tuple[Side, ...]
  num_films: int
  num_left_out: int
  margin: float | None
  rows: tuple[Row, ...]


def compare(
  sides: Sequence[Sequence[str | os.PathLike[str]]],
  *,
  primary: Sequence[str] = PRIMARY,
  margin: float | None = None,
  replicates: int = bootstrap.REPLICATES,
  seed: int = 0,
) -> Comparison:
  """Compares every further side with the first one.

  Args:
    sides: The runs of each side, or folders of evaluations.
    primary: Metrics whose p-values are adjusted for their number.
    margin: How much worse a side may be and still be called non-inferior.
    replicates: Of the permutation test.
    seed: Of the permutation test.

  Raises:
    UserError: Files are missing or damaged, or the runs cannot be compared.
  """
  for name in primary:
    check_known('metric', name, paired.METRICS)
  if margin is not None and not 0 < margin < 1:
    raise UserError(f'the margin {margin:g} must lie between 0 and 1')
  if len(sides) < 2 or len({len(side) for side in sides}) > 1:
    raise UserError(
      'comparing needs two sides or more, each with the same number of runs, '
      f'not {[len(side) for side in sides]}'
    )
  found, num_left_out = _sides(sides)
  first, *others = found
  differences = {
    (side.name, metric): (side, difference)
    for side in others
    for metric, difference in paired.compare(
      first.images, side.images, replicates=replicates, seed=seed
    ).items()
  }
  adjusted = paired.holm(
    {
      key: difference.p_value
      for key, (_, difference) in differences.items()
      if key[1] in primary
    }
  )
  return Comparison(
    sides=tuple(found),
    num_films=len(first.films[0]),
    num_left_out=num_left_out,
    margin=margin,
    rows=tuple(
      Row(
        side=side,
        metric=key[1],
        difference=difference,
        p_holm=adjusted.get(key),
        non_inferior=_non_inferior(key[1], difference, margin),
      )
      for key, (side, difference) in differences.items()
    ),
  )


def _sides(
  sides: Sequence[Sequence[str | os.PathLike[str]]],
) -> tuple[list[Side], int]:
  """Reads the evaluations; returns the sides and how many films are left out.

  The films in common are brought into one order.
  """
  places = [tuple(map(_folder, side)) for side in sides]
  tables = {
    place: evaluation_files.read_per_image(place / 'per_image.csv')
    for place in itertools.chain(*places)
  }
  # Runs are compared on the films whose mask is known.
  tables = {
    place: table[np.isfinite(table.dice)] for place, table in tables.items()
  }
  ids = [set(table.image_id.tolist()) for table in tables.values()]
  common = set.intersection(*ids)
  if not common:
    raise UserError(
      f'{" and ".join(map(str, tables))} have no film in common: compare runs '
      'that were evaluated on the same dataset'
    )
  for place, table in tables.items():
    order = np.argsort(table.image_id)
    shared = [image_id in common for image_id in table.image_id[order]]
    tables[place] = table[order[shared]]
  reference, *others = tables
  for other in others:
    _check_alike(reference, tables[reference], other, tables[other])
    # Builds may number the same patients differently.
    patient = tables[reference].patient
    tables[other] = dataclasses.replace(tables[other], patient=patient)
  names = [', '.join(map(_name, side)) for side in places]
  if len(set(names)) < len(names):  # Runs of one name in several folders.
    names = [', '.join(map(str, side)) for side in places]
  found = [
    Side(name, side, tuple(tables[place] for place in side))
    for name, side in zip(names, places, strict=True)
  ]
  return found, len(set.union(*ids)) - len(common)


def _folder(run: str | os.PathLike[str]) -> pathlib.Path:
  """The evaluation of a run, which may be named itself."""
  path = pathlib.Path(run)
  for folder in (path, path / 'eval'):
    folders.recover(folder)
    if (folder / 'per_image.csv').exists():
      return folder
  raise UserError(
    f'{run} was not evaluated: it has no eval/per_image.csv; run `python '
    f'launch.py --mode=eval --workdir={run}`'
  )


def _name(folder: pathlib.Path) -> str:
  """`a` for runs/a/eval, `a/eval_other` for runs/a/eval_other."""
  parts = folder.absolute().parts
  return parts[-2] if parts[-1] == 'eval' else '/'.join(parts[-2:])


def _check_alike(
  reference: pathlib.Path,
  expected: PerImage,
  place: pathlib.Path,
  found: PerImage,
) -> None:
  """Raises UserError unless two runs scored the same films alike."""
  for names, what, hint in (
    (('label', 'truth_area'), 'annotation', 'datasets built from one csv'),
    (('fold',), 'fold', 'datasets built with the same folds'),
  ):
    differ = np.any(
      [getattr(expected, name) != getattr(found, name) for name in names],
      axis=0,
    )
    if differ.any():
      raise UserError(
        f'cannot compare {reference} and {place}: of {len(found)} films in '
        f'common {differ.sum()} differ in their {what}, for example '
        f'{found.image_id[differ][0]}; compare runs on {hint}'
      )
  pairs = np.unique(np.stack([expected.patient, found.patient]), axis=1)
  if any(len(np.unique(side)) < pairs.shape[1] for side in pairs):
    raise UserError(
      f'cannot compare {reference} and {place}: their datasets assign films '
      'to patients differently; build both with the same --patient_map'
    )


def _images(table: PerImage) -> Images:
  area = table.predicted_area + table.truth_area
  return Images(
    label=table.label,
    probability=table.probability,
    dice=table.dice,
    predicted=table.predicted_area > 0,
    truth_area=table.truth_area,
    predicted_area=table.predicted_area,
    # Of an image without any mask Dice is 1, and the area 0.
    intersection=np.rint(table.dice * area / 2).astype(int),
    patient=table.patient,
  )


def _non_inferior(
  metric: str, difference: Difference, margin: float | None
) -> bool | None:
  if margin is None or difference.interval is None:
    return None
  low, high = difference.interval
  if metric in paired.LOWER_IS_BETTER:
    return high < margin
  return low > -margin
