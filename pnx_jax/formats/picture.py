"""Radiographs as PNG or JPEG files, gray, of 8 or 16 bits."""

import contextlib
import io
import os
import warnings
from collections.abc import Iterator

import numpy as np
import pydicom
from PIL import Image, ImageOps

from pnx_jax.formats import dicom_file, grayscale, limits
from pnx_jax.formats.refusals import UnusableFilm

_ENDINGS = ('.png', '.jpg', '.jpeg')
_FORMATS = ('PNG', 'JPEG')
_SIXTEEN_BITS = ('I;16', 'I;16B', 'I;16L', 'I')


def is_picture(path: str | os.PathLike[str]) -> bool:
  """Returns whether a file is named like a PNG or JPEG."""
  return os.fspath(path).lower().endswith(_ENDINGS)


def read(
  path: str | os.PathLike[str],
  *,
  window: str | tuple[float, float] = 'auto',
) -> np.ndarray:
  """Returns a film as uint8[H, W], upright as its EXIF orientation says.

  Args:
    path: The file; bright where dense.
    window: See `grayscale.to_uint8`, or the values that are black and white.

  Raises:
    UnusableFilm: The file cannot be read, is in color or too large.
  """
  with _opened(path) as image:
    stored = np.asarray(ImageOps.exif_transpose(_gray(image)))
  dataset = pydicom.Dataset()
  dataset.PhotometricInterpretation = 'MONOCHROME2'
  dataset.BitsStored = 8 * stored.dtype.itemsize
  dataset.PixelRepresentation = 0
  if not isinstance(window, str):
    low, high = window
    dataset.WindowCenter, dataset.WindowWidth = (low + high) / 2, high - low
    dataset.VOILUTFunction = 'LINEAR_EXACT'
    window = 'dicom'
  return grayscale.to_uint8(stored, dataset, window=window)


def read_mask(path: str | os.PathLike[str]) -> np.ndarray:
  """Returns a mask as bool[H, W]: whatever is not 0 in any channel.

  Raises:
    UnusableFilm: The file cannot be read, is too large, or is a JPEG, whose
      pixels beside the mask are seldom 0.
  """
  with _opened(path) as image:
    if image.format != 'PNG':
      raise UnusableFilm('undecodable', 'a mask has to be a PNG')
    if image.mode == 'P':
      image = image.convert('RGB')
    values = np.asarray(ImageOps.exif_transpose(image))
  if values.ndim == 3:
    # The last of two or four channels is the opacity.
    colors = values.shape[2] - (values.shape[2] in (2, 4))
    values = values[..., :colors].any(axis=2)
  return values != 0


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
  """Opens a file; refuses it, whatever a decoder raises."""
  content = dicom_file.content(path)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # Its own limit is higher than ours.
      with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        if image.width * image.height > limits.MOST_PIXELS:
          raise UnusableFilm(
            'limit',
            f'{image.height} x {image.width} pixels are more than '
            f'{limits.MOST_PIXELS:,}',
          )
        if getattr(image, 'n_frames', 1) > 1:
          raise UnusableFilm('multi_frame', f'{image.n_frames} frames')
        image.load()
        yield image
  except (UnusableFilm, MemoryError):
    raise
  except Image.UnidentifiedImageError:
    raise UnusableFilm('undecodable', 'neither a PNG nor a JPEG') from None
  except Exception as error:
    reason = 'truncated' if 'truncated' in str(error) else 'undecodable'
    raise UnusableFilm(reason, type(error).__name__) from error


def _gray(image: Image.Image) -> Image.Image:
  """Returns a picture of one channel of 8 or 16 bits.

  Raises:
    UnusableFilm: It is in color, or partly transparent.
  """
  if image.mode == 'L':
    return image
  if image.mode == '1':
    return image.convert('L')
  if image.mode in _SIXTEEN_BITS:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 0xFFFF:
      raise UnusableFilm('undecodable', 'more than 16 bits')
    return _with_exif(values.astype(np.uint16), image)
  if image.mode not in ('RGB', 'RGBA', 'LA', 'P', 'PA'):
    raise UnusableFilm('color', f'mode {image.mode}')
  channels = np.asarray(image.convert('RGBA'))
  if (channels[..., 3] != 255).any():
    raise UnusableFilm('color', 'it has transparent pixels')
  red, green, blue = channels[..., 0], channels[..., 1], channels[..., 2]
  if (red != green).any() or (red != blue).any():
    raise UnusableFilm('color', 'its channels differ')
  return _with_exif(red, image)


def _with_exif(values: np.ndarray, image: Image.Image) -> Image.Image:
  result = Image.fromarray(np.ascontiguousarray(values))
  result.info['exif'] = image.getexif().tobytes()
  return result
