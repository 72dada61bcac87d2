"""Radiographs as PNG or JPEG files, gray, of 8 or 16 bits."""

import contextlib
import io
import os
import warnings
from collections.abc import Iterator

import cv2
import numpy as np
import pydicom
from PIL import Image, ImageOps

from pnx_jax.formats import dicom_file, grayscale, limits
from pnx_jax.formats.refusals import UnusableFilm

_ENDINGS = ('.png', '.jpg', '.jpeg')
_FORMATS = ('PNG', 'JPEG')
_SIXTEEN_BITS = ('I;16', 'I;16B', 'I;16L', 'I')
_COLORS = ('RGB', 'RGBA', 'LA', 'P', 'PA')
_PNG_DEPTH = 24  # the byte of a PNG that tells the bits per channel


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
  with _opened(path) as (image, content):
    stored = _upright(_gray(image, content), image)
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
    UnusableFilm: The file cannot be read, is too large, is a JPEG, whose
      pixels beside the mask are seldom 0, or its colors and its opacity are
      different masks.
  """
  with _opened(path) as (image, content):
    if image.format != 'PNG':
      raise UnusableFilm('undecodable', 'a mask has to be a PNG')
    if image.mode in _COLORS:
      channels = _channels(image, content)
      values = channels[..., :3].any(axis=2).astype(np.uint8)
      opaque = channels[..., 3] > 0
      if not opaque.all() and (opaque != values).any():
        raise UnusableFilm('undecodable', 'a mask with transparent pixels')
    else:
      values = np.asarray(image)
    return _upright(values, image) != 0


@contextlib.contextmanager
def _opened(
  path: str | os.PathLike[str],
) -> Iterator[tuple[Image.Image, bytes]]:
  """Opens a file, whose bytes are given, too; refuses what a decoder raises."""
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
        yield image, content
  except (UnusableFilm, MemoryError):
    raise
  except Image.DecompressionBombError:
    raise UnusableFilm(
      'limit', f'more than {limits.MOST_PIXELS:,} pixels'
    ) from None
  except Image.UnidentifiedImageError:
    raise UnusableFilm('undecodable', 'neither a PNG nor a JPEG') from None
  except Exception as error:
    reason = 'truncated' if 'truncated' in str(error) else 'undecodable'
    raise UnusableFilm(reason, type(error).__name__) from error


def _gray(image: Image.Image, content: bytes) -> np.ndarray:
  """Returns the pixels of one channel, u8[H, W] or u16[H, W].

  Raises:
    UnusableFilm: It is in color, or partly transparent.
  """
  if image.mode in ('L', '1'):
    return np.asarray(image.convert('L'))
  if image.mode in _SIXTEEN_BITS:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 0xFFFF:
      raise UnusableFilm('undecodable', 'more than 16 bits')
    return values.astype(np.uint16)
  if image.mode not in _COLORS:
    raise UnusableFilm('color', f'mode {image.mode}')
  channels = _channels(image, content)
  if (channels[..., 3] != np.iinfo(channels.dtype).max).any():
    raise UnusableFilm('color', 'it has transparent pixels')
  first = channels[..., 0]
  if (first != channels[..., 1]).any() or (first != channels[..., 2]).any():
    raise UnusableFilm('color', 'its channels differ')
  return first


def _channels(image: Image.Image, content: bytes) -> np.ndarray:
  """Returns three colors and the opacity, u8[H, W, 4] or u16[H, W, 4]."""
  if image.format != 'PNG' or content[_PNG_DEPTH] != 16:
    return np.asarray(image.convert('RGBA'))
  # Of colors of 16 bits Pillow keeps the upper 8.
  values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
  if values is None:
    raise UnusableFilm('undecodable', 'its 16 bits do not decode')
  if values.shape[2] == 3:
    return cv2.cvtColor(values, cv2.COLOR_BGR2BGRA)
  return values


def _upright(values: np.ndarray, image: Image.Image) -> np.ndarray:
  """Returns values [H, W] turned as the EXIF orientation of a picture says."""
  result = Image.fromarray(np.ascontiguousarray(values))
  result.info['exif'] = image.getexif().tobytes()
  return np.asarray(ImageOps.exif_transpose(result))
