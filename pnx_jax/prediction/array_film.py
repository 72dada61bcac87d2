"""An array as a DICOM dataset, so that it is read like one."""

from collections.abc import Sequence

import numpy as np
import pydicom

from pnx_jax.errors import UserError

_BITS = {np.dtype(np.uint8): 8, np.dtype(np.uint16): None}


def as_dataset(
  pixels: np.ndarray,
  *,
  bits: int | None,
  photometric: str | None,
  pixel_spacing: Sequence[float] | None,
) -> pydicom.Dataset:
  """Returns a dataset with these pixels.

  Args:
    pixels: uint8[H, W] or uint16[H, W].
    bits: How many bits of the values are used; uint16 needs it.
    photometric: MONOCHROME2, the default, where dense is bright; else
      MONOCHROME1.
    pixel_spacing: Millimeters between rows and columns, where known.

  Raises:
    UserError: The array does not fit to what is said of it.
  """
  if pixels.ndim != 2 or pixels.dtype not in _BITS:
    raise UserError(
      f'expected uint8[H, W] or uint16[H, W], not {pixels.dtype}'
      f'{list(pixels.shape)}'
    )
  bits = bits or _BITS[pixels.dtype]
  if bits is None:
    raise UserError(
      'a uint16 array needs bits=, for example 12: how many bits are used'
    )
  most = pixels.dtype.itemsize * 8
  if not 2 <= bits <= most:
    raise UserError(f'bits={bits}: {pixels.dtype} has 2 to {most}')
  if pixels.size and pixels.max() >> bits:
    raise UserError(f'a pixel is {pixels.max()}, more than {bits} bits hold')
  photometric = photometric or 'MONOCHROME2'
  if photometric not in ('MONOCHROME1', 'MONOCHROME2'):
    raise UserError(
      f'photometric={photometric!r}: known are MONOCHROME1, MONOCHROME2'
    )
  dataset = pydicom.Dataset()
  dataset.Rows, dataset.Columns = pixels.shape
  dataset.SamplesPerPixel = 1
  dataset.PhotometricInterpretation = photometric
  dataset.PixelRepresentation = 0
  dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = (
    most,
    bits,
    bits - 1,
  )
  if pixel_spacing is not None:
    spacing = [float(value) for value in pixel_spacing]
    if len(spacing) != 2 or not min(spacing) > 0:
      raise UserError(
        f'pixel_spacing={pixel_spacing}: expected two numbers above 0'
      )
    dataset.PixelSpacing = spacing
  dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder('<')).tobytes()
  dataset['PixelData'].VR = 'OW'
  return dataset
