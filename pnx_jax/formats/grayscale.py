"""Stored pixel values of a radiograph -> what a reader sees, uint8.

The order is DICOM's (PS3.3 C.11): modality LUT or rescale, then VOI LUT or
window, then the inversion of MONOCHROME1. All of it is worked out once for
every value a pixel can have, and looked up.
"""

from collections.abc import Callable

import cv2
import numpy as np
import pydicom
from pydicom import pixels as pydicom_pixels

WINDOWS = ('auto', 'dicom', 'percentile', 'full')
_PERCENTILES = (0.5, 99.5)
# A window that leaves less than this share of pixels unsaturated is an error.
_LEAST_UNSATURATED = 0.02


def to_uint8(
  stored: np.ndarray, dataset: pydicom.Dataset, *, window: str = 'auto'
) -> np.ndarray:
  """Returns stored values [H, W] as uint8[H, W], bright where dense.

  Args:
    stored: Integers of at most 16 bits, as decoded.
    dataset: The file's attributes.
    window: `dicom` takes the file's first VOI LUT or window; `percentile`
      spreads the middle 99 % of the pixels; `full` spreads all values that the
      stored bits can express. `auto` is `dicom` where the file has a usable
      one, else `full` for 8 bits and `percentile` for more. `dicom` without
      one is `full`.
  """
  low, high = _stored_range(dataset)
  if stored.dtype.itemsize > 1 or stored.dtype.kind == 'i':
    low, high = min(low, int(stored.min())), max(high, int(stored.max()))
  else:
    high = 255
  values = np.arange(low, high + 1)
  padding = _is_padding(values, dataset)

  def counts() -> np.ndarray:
    flat = stored.ravel().astype(np.int64) - low
    return np.bincount(flat, minlength=values.size) * ~padding

  table = _windowed(values, counts, dataset, window)
  table = np.round(table * 255).astype(np.uint8)
  if dataset.PhotometricInterpretation == 'MONOCHROME1':
    table = 255 - table
  table[padding] = 0
  if stored.dtype == np.uint8:
    return cv2.LUT(np.ascontiguousarray(stored), table)
  return np.take(table, stored.astype(np.int32) - low)


def _windowed(
  values: np.ndarray,
  counts: Callable[[], np.ndarray],
  dataset: pydicom.Dataset,
  window: str,
) -> np.ndarray:
  """Returns the brightness in 0..1 of every stored value."""
  rescaled = np.asarray(pydicom_pixels.apply_modality_lut(values, dataset))
  if window in ('auto', 'dicom'):
    table = _voi(rescaled, dataset)
    if table is not None and (window == 'dicom' or _usable(table, counts())):
      return table
  if window == 'percentile' or (
    window == 'auto' and int(dataset.BitsStored) > 8
  ):
    return _ramp(rescaled, *_percentiles(rescaled, counts()))
  inside = slice(
    *np.searchsorted(values, np.add(_stored_range(dataset), (0, 1)))
  )
  return _ramp(rescaled, rescaled[inside].min(), rescaled[inside].max())


def _voi(rescaled: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray | None:
  """Returns the file's first VOI LUT or window applied, None without one."""
  if dataset.get('VOILUTSequence'):
    bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
    looked_up = pydicom_pixels.apply_voi(rescaled.astype(np.int64), dataset)
    return np.clip(looked_up / (2.0**bits - 1), 0, 1)
  center = _first(dataset.get('WindowCenter'))
  width = _first(dataset.get('WindowWidth'))
  if center is None or width is None:
    return None
  function = str(dataset.get('VOILUTFunction') or 'LINEAR').upper()
  if function == 'SIGMOID' and width > 0:
    steepness = np.clip(-4 * (rescaled - center) / width, -700, 700)
    return 1 / (1 + np.exp(steepness))
  if function == 'LINEAR_EXACT' and width > 0:
    return _ramp(rescaled, center - width / 2, center + width / 2)
  if width < 1:
    return None
  half = (width - 1) / 2
  return _ramp(rescaled, center - 0.5 - half, center - 0.5 + half)


def _ramp(rescaled: np.ndarray, low: float, high: float) -> np.ndarray:
  """Returns 0 up to `low`, 1 from `high` on and a line between."""
  if high <= low:
    return (rescaled > low).astype(float)
  return np.clip((rescaled - low) / (high - low), 0, 1)


def _percentiles(
  rescaled: np.ndarray, counts: np.ndarray
) -> tuple[float, float]:
  order = np.argsort(rescaled, kind='stable')
  shares = np.cumsum(counts[order]) / max(counts.sum(), 1)
  low, high = np.searchsorted(shares, np.divide(_PERCENTILES, 100))
  last = len(order) - 1
  return rescaled[order[min(low, last)]], rescaled[order[min(high, last)]]


def _usable(table: np.ndarray, counts: np.ndarray) -> bool:
  """Whether a window shows more than black and white."""
  unsaturated = counts[(table > 0) & (table < 1)].sum()
  return unsaturated >= _LEAST_UNSATURATED * counts.sum()


def _stored_range(dataset: pydicom.Dataset) -> tuple[int, int]:
  bits = int(dataset.BitsStored)
  if dataset.get('PixelRepresentation'):
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1
  return 0, (1 << bits) - 1


def _is_padding(values: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
  """Returns which stored values stand for "no film here"."""
  value = _first(dataset.get('PixelPaddingValue'))
  if value is None:
    return np.zeros(values.shape, bool)
  limit = _first(dataset.get('PixelPaddingRangeLimit'))
  limit = value if limit is None else limit
  return (values >= min(value, limit)) & (values <= max(value, limit))


def _first(value) -> float | None:
  """Returns the first of one or several numbers, None where there is none."""
  if isinstance(value, pydicom.multival.MultiValue):
    value = value[0] if len(value) else None
  try:
    number = float(value)
  except (TypeError, ValueError):
    return None
  return number if np.isfinite(number) else None
