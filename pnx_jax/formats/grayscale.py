"""Stored pixel values of a radiograph -> what a radiologist sees, uint8.

The order is DICOM's (PS3.3 C.11): modality LUT or rescale, then VOI LUT or
window, then the inversion of MONOCHROME1. All of it is computed once for every
value that a pixel can have, and looked up.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
import pydicom

from pnx_jax.formats import dicom_header
from pnx_jax.formats.refusals import UnusableDicom

WINDOWS = ('auto', 'dicom', 'percentile', 'full')
_PERCENTILES = (0.5, 99.5)
# A window that leaves less than this share of pixels unsaturated is an error.
_LEAST_UNSATURATED = 0.02
_PIXELS_AT_ONCE = 1 << 20


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
    total = np.zeros(values.size, np.int64)
    for part in _parts(stored):
      total += np.bincount(part.astype(np.int64) - low, minlength=values.size)
    return total * ~padding

  table = _windowed(values, counts, dataset, window)
  if not np.isfinite(table).all():
    raise UnusableDicom('undecodable', 'rescaled values are not finite')
  table = np.round(table * 255).astype(np.uint8)
  if dicom_header.photometric(dataset) == 'MONOCHROME1':
    table = 255 - table
  table[padding] = 0
  if stored.dtype == np.uint8:
    return cv2.LUT(np.ascontiguousarray(stored), table)
  shown = np.empty(stored.shape, np.uint8)
  for part, place in zip(_parts(stored), _parts(shown), strict=True):
    np.take(table, part.astype(np.int32) - low, out=place, mode='clip')
  return shown


def _parts(image: np.ndarray) -> list[np.ndarray]:
  """Returns views of the pixels, each small enough for a cache."""
  flat = np.ascontiguousarray(image).reshape(-1)
  return [
    flat[start : start + _PIXELS_AT_ONCE]
    for start in range(0, flat.size, _PIXELS_AT_ONCE)
  ]


def _windowed(
  values: np.ndarray,
  counts: Callable[[], np.ndarray],
  dataset: pydicom.Dataset,
  window: str,
) -> np.ndarray:
  """Returns the brightness in 0..1 of every stored value."""
  rescaled = _rescaled(values, dataset)
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


def _rescaled(values: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
  """Returns stored values after modality LUT, or slope and intercept."""
  lut = _lut(dataset, 'ModalityLUTSequence')
  if lut is not None:
    return lut.applied(values)
  slope = _first(dataset.get('RescaleSlope'))
  intercept = _first(dataset.get('RescaleIntercept'))
  if not slope:  # Without a slope, or with one of 0, there is none.
    slope = 1.0
  if slope == 1 and not intercept:
    return values
  rescaled = values * slope + (intercept or 0.0)
  if not np.isfinite(rescaled).all():
    raise UnusableDicom('undecodable', 'rescaled values are not finite')
  return rescaled


def _voi(rescaled: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray | None:
  """Returns the file's first VOI LUT or window applied, None without one."""
  lut = _lut(dataset, 'VOILUTSequence')
  if lut is not None:
    looked_up = lut.applied(rescaled)
    # The bits of the largest entry: some descriptors claim more.
    bits = max(int(lut.entries.max()).bit_length(), 1)
    return looked_up / (2.0**bits - 1)
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


class _Lut(NamedTuple):
  """A lookup table: `entries[0]` is for values up to `first`."""

  first: int
  entries: np.ndarray

  def applied(self, values: np.ndarray) -> np.ndarray:
    """Returns the entries for all values that a pixel can have."""
    first = self.first
    if first >= 1 << 15 and first > values.max():
      first -= 1 << 16  # A negative number that was written as unsigned.
    places = np.clip(np.trunc(values) - first, 0, len(self.entries) - 1)
    return self.entries[places.astype(np.int64)]


def _lut(dataset: pydicom.Dataset, keyword: str) -> _Lut | None:
  """Returns the first table of a sequence that has one; items may be empty.

  Raises:
    UnusableDicom: The table has fewer entries than it says.
  """
  for item in dataset.get(keyword) or ():
    descriptor, data = item.get('LUTDescriptor'), item.get('LUTData')
    if descriptor and data and len(descriptor) == 3:
      count = dicom_header.integer(descriptor[0]) or 1 << 16
      in_bytes = dicom_header.integer(descriptor[2]) <= 8
      entries = _entries(data, count, dataset, in_bytes=in_bytes)
      if len(entries) < count:
        raise UnusableDicom(
          'undecodable', f'{keyword} has {len(entries)} of {count} entries'
        )
      return _Lut(dicom_header.integer(descriptor[1]), entries[:count])
  return None


def _entries(
  data: Any, count: int, dataset: pydicom.Dataset, *, in_bytes: bool
) -> np.ndarray:
  """Returns the entries of a table, int64[N].

  Args:
    data: Bytes, or one or more words.
    count: How many there should be.
    dataset: The file's attributes.
    in_bytes: Whether a byte may be an entry, two in a word.
  """
  if not isinstance(data, bytes):
    entries = np.atleast_1d(np.asarray(data, np.int64))
    if not in_bytes or len(entries) != (count + 1) // 2:
      return entries
    data = (entries & 0xFFFF).astype('<u2').tobytes()
  if in_bytes and len(data) == count + count % 2:
    return np.frombuffer(data, np.uint8).astype(np.int64)
  _, little = dataset.original_encoding
  order = '>' if little is False else '<'
  whole = len(data) // 2 * 2
  return np.frombuffer(data[:whole], f'{order}u2').astype(np.int64)


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
  """Returns whether a window shows more than black and white."""
  unsaturated = counts[(table > 0) & (table < 1)].sum()
  return unsaturated >= _LEAST_UNSATURATED * counts.sum()


def _stored_range(dataset: pydicom.Dataset) -> tuple[int, int]:
  bits = int(dataset.BitsStored)
  if dicom_header.integer(dataset.get('PixelRepresentation')):
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1
  return 0, (1 << bits) - 1


def _is_padding(values: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
  """Returns which stored values stand for "no film here"."""
  value = _first(dataset.get('PixelPaddingValue'))
  if value is None:
    return np.zeros(values.shape, bool)
  limit = _first(dataset.get('PixelPaddingRangeLimit'))
  limit = value if limit is None else limit
  if dicom_header.integer(dataset.get('PixelRepresentation')):
    # Negative numbers that were written as unsigned.
    value, limit = (
      x - (1 << 16) if x >= 1 << 15 else x for x in (value, limit)
    )
  return (values >= min(value, limit)) & (values <= max(value, limit))


def _first(value: Any) -> float | None:
  """Returns the first of one or several numbers, None where there is none."""
  if isinstance(value, pydicom.multival.MultiValue):
    value = value[0] if len(value) else None
  try:
    number = float(value)
  except (TypeError, ValueError, OverflowError):
    return None
  return number if np.isfinite(number) else None
