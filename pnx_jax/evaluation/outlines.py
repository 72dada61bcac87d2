"""How far predicted outlines are from annotated ones, in pixels and in mm.

Measured on images with a pneumothorax. Pixels are those of 1024 x 1024, into
which every film is letterboxed. Millimeters are given only for films whose
pixel spacing makes them as large as chest films are, see `formats.spacing`.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from pnx_jax.evaluation import tables
from pnx_jax.evaluation.tables import Metrics
from pnx_jax.formats.schema import Record
from pnx_jax.formats.spacing import is_plausible
from pnx_jax.metrics import influence
from pnx_jax.metrics.summary import Images
from pnx_jax.metrics.surface import SurfaceDistances, surface_distances

_TOLERANCES = {'px': 5.0, 'mm': 2.0}
MEASURES = tuple(field.name for field in dataclasses.fields(SurfaceDistances))
COLUMNS = tuple(f'{name}_{unit}' for unit in _TOLERANCES for name in MEASURES)
_TITLES = {
  'hausdorff_95': 'Hausdorff distance, 95th percentile, {unit}',
  'mean': 'mean surface distance, {unit}',
  'surface_dice': 'surface Dice at {tolerance:g} {unit}',
}
TITLES = {
  f'{name}_{unit}': title.format(unit=unit, tolerance=tolerance)
  for unit, tolerance in _TOLERANCES.items()
  for name, title in _TITLES.items()
}


def spacing(record: Record) -> tuple[float, float] | None:
  """The spacing of rows and columns in mm, or None if it is implausible."""
  rows, columns = map(float, record.pixel_spacing)
  known = min(rows, columns) > 0 and is_plausible(
    (rows, columns), record.height, record.width
  )
  return (rows, columns) if known else None


def measure(
  predicted: np.ndarray,
  truth: np.ndarray,
  *,
  film_predicted: np.ndarray,
  film_truth: np.ndarray,
  record: Record,
) -> dict[str, SurfaceDistances]:
  """Distances by unit: `px`, and `mm` if the spacing is plausible.

  Args:
    predicted: bool[S, S], the mask at 1024 x 1024.
    truth: bool[S, S], the annotation.
    film_predicted: bool[H, W], the mask in the film's own pixels.
    film_truth: bool[H, W].
    record: Of the film.
  """
  found = {
    'px': surface_distances(predicted, truth, tolerance=_TOLERANCES['px'])
  }
  known = spacing(record)
  if known:
    found['mm'] = surface_distances(
      film_predicted, film_truth, tolerance=_TOLERANCES['mm'], spacing=known
    )
  return found


def columns(
  measured: Mapping[int, Mapping[str, SurfaceDistances]],
  records: Sequence[Record],
  images: Images,
) -> dict[str, np.ndarray]:
  """Every measure of every image, such as `mean_px`: f64[N], NaN if undefined.

  A positive image without a predicted mask has a surface Dice of 0 and no
  distances. Negative images, and those whose mask is not known, have neither.
  """
  found = {name: np.full(len(images), np.nan) for name in COLUMNS}
  for index in np.flatnonzero(images.marked):
    for unit in _TOLERANCES:
      if unit == 'mm' and not spacing(records[index]):
        continue
      found[f'surface_dice_{unit}'][index] = 0.0
      if distances := measured.get(int(index), {}).get(unit):
        for name in MEASURES:
          found[f'{name}_{unit}'][index] = getattr(distances, name)
  return found


def summarize(table: Mapping[str, np.ndarray], images: Images) -> Metrics:
  """Mean of every column over the images for which it is defined.

  Also `<column>/num_images`, `<column>/num_patients` and `<column>/median`.

  Args:
    table: Of `columns`.
    images: N images.
  """
  defined = {name: np.isfinite(values) for name, values in table.items()}
  found = tables.from_influences(
    {
      name: influence.mean(table[name], chosen)
      for name, chosen in defined.items()
    },
    images.patient,
    counts=[name for name in table if not name.startswith('surface_dice')],
  )
  for name, chosen in defined.items():
    some = table[name][chosen]
    found.values[f'{name}/num_images'] = len(some)
    found.values[f'{name}/num_patients'] = len(
      np.unique(images.patient[chosen])
    )
    found.values[f'{name}/median'] = (
      float(np.median(some)) if len(some) else np.nan
    )
  return found
