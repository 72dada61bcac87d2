"""Stored pixel values of a DICOM file, by the first decoder that can."""

import numpy as np
import pydicom
from pydicom import pixels as pydicom_pixels
from pydicom import uid

from pnx_jax.formats import dicom_header
from pnx_jax.formats.refusals import UnusableFilm

# In this order; the names are pydicom's, which itself reads RLE. Damaged files
# can make gdcm end the process, and the JPEG decoder that pylibjpeg can be
# given is GPL: each is asked for what only it can do.
_LOSSLESS_JPEG = (uid.JPEGLossless, uid.JPEGLosslessSV1)
_JPEG = (*uid.JPEGTransferSyntaxes, *uid.JPEGLSTransferSyntaxes)
DECODERS = {
  'pydicom': lambda syntax: True,
  'pillow': lambda syntax: True,
  'gdcm': lambda syntax: syntax in _LOSSLESS_JPEG,
  'pylibjpeg': lambda syntax: syntax not in _JPEG,
  'pyjpegls': lambda syntax: True,
}


class UnusableDicom(UnusableFilm):
  """A file that is not a usable radiograph.

  Attributes:
    reason: Code for tables: `unreadable`, `not_dicom`, `modality`,
      `body_part`, `no_pixels`, `multi_frame`, `color`, `empty`, `truncated`,
      `undecodable`, `limit`.
    detail: The same in words.
  """


def decode(dataset: pydicom.Dataset, header: dicom_header.Header) -> np.ndarray:
  """Returns the stored values, int[H, W].

  Raises:
    UnusableDicom: There are too few, or no decoder makes sense of them.
  """
  syntax = dataset.file_meta.TransferSyntaxUID
  if syntax.is_compressed:
    return _decompress(dataset, syntax)
  needed = header.height * header.width * int(dataset.BitsAllocated) // 8
  if len(dataset.PixelData) < needed:
    raise UnusableDicom(
      'truncated', f'{len(dataset.PixelData)} of {needed} bytes of pixels'
    )
  return _unused_bits_removed(
    pydicom_pixels.get_decoder(syntax).as_array(dataset, raw=True)[0], dataset
  )


def _decompress(dataset: pydicom.Dataset, syntax: uid.UID) -> np.ndarray:
  decoder = pydicom_pixels.get_decoder(syntax)
  plugins = [
    name
    for name, is_for in DECODERS.items()
    if name in decoder.available_plugins and is_for(syntax)
  ]
  if not plugins:
    raise UnusableDicom('undecodable', f'no decoder for {syntax.name}')
  errors, truncated = [], False
  for plugin in plugins:
    try:
      return decoder.as_array(dataset, raw=True, decoding_plugin=plugin)[0]
    except Exception as error:
      # Its text may quote a header.
      errors.append(f'{plugin}: {type(error).__name__}')
      truncated |= plugin == plugins[0] and 'truncated' in str(error)
  reason = 'truncated' if truncated else 'undecodable'
  raise UnusableDicom(reason, '; '.join(errors))


def _unused_bits_removed(
  stored: np.ndarray, dataset: pydicom.Dataset
) -> np.ndarray:
  """Clears bits outside HighBit and BitsStored (old files keep overlays)."""
  allocated, bits = int(dataset.BitsAllocated), int(dataset.BitsStored)
  above = allocated - 1 - int(dataset.get('HighBit', bits - 1))
  if allocated == bits or above < 0:
    return stored
  return (stored << above) >> (allocated - bits)
