"""Geometry between a film of any shape and a square picture.

A film is scaled, both ways by the same factor on the body, until its longer
side fills the square, and centered on black. Everything follows from the film's
own size and the shape of its pixels, so the way back needs no more than that.
"""

from typing import NamedTuple

import cv2
import numpy as np


class Place(NamedTuple):
  """Where the film lies in the square, in pixels of the square."""

  top: int
  left: int
  height: int
  width: int


def place(
  height: int, width: int, size: int, *, pixel_aspect: float = 1.0
) -> Place:
  """Returns where a film of `height` x `width` lies in a square of `size`.

  Args:
    height: Rows of the film.
    width: Columns of the film.
    size: Side of the square in pixels.
    pixel_aspect: Height of a pixel of the film over its width.
  """
  tall = height * pixel_aspect
  scale = size / max(tall, width)
  inner_height = max(1, round(tall * scale))
  inner_width = max(1, round(width * scale))
  return Place(
    (size - inner_height) // 2,
    (size - inner_width) // 2,
    inner_height,
    inner_width,
  )


def letterbox(
  image: np.ndarray, size: int, *, pixel_aspect: float = 1.0
) -> np.ndarray:
  """Returns a film, mask or probability map [H, W] as a square [size, size].

  Masks (bool) come back as masks: a pixel belongs when at least half of it
  does, and of a mask too small for that one pixel stays: a film with a
  pneumothorax remains one. A square film is only resized, and one of that size
  returned as it is.
  """
  inner = place(*image.shape, size, pixel_aspect=pixel_aspect)
  content = _resize(image, inner.height, inner.width)
  if content.shape == (size, size):
    return content
  square = np.zeros((size, size), image.dtype)
  square[_window(inner)] = content
  return square


def blanked(
  square: np.ndarray, height: int, width: int, *, pixel_aspect: float = 1.0
) -> np.ndarray:
  """Returns a square picture [S, S] that is 0 where no film is."""
  inner = place(height, width, square.shape[0], pixel_aspect=pixel_aspect)
  if inner[2:] == square.shape:
    return square
  result = np.zeros_like(square)
  result[_window(inner)] = square[_window(inner)]
  return result


def unletterbox(
  square: np.ndarray, height: int, width: int, *, pixel_aspect: float = 1.0
) -> np.ndarray:
  """Returns a square picture [S, S] on the film's own pixels [H, W]."""
  inner = place(height, width, square.shape[0], pixel_aspect=pixel_aspect)
  return _resize(square[_window(inner)], height, width)


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Returns an image or mask at another size; see `letterbox` for masks."""
  return _resize(image, height, width)


def _window(inner: Place) -> tuple[slice, slice]:
  return (
    slice(inner.top, inner.top + inner.height),
    slice(inner.left, inner.left + inner.width),
  )


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
  if image.shape == (height, width):
    return image
  if not image.flags.c_contiguous and image.flags.f_contiguous:
    # Column-major masks, as `rle.decode` makes them, are costly to reorder.
    return _resize(image.T, width, height).T
  if image.dtype == bool:
    gray = _resize(
      np.ascontiguousarray(image).view(np.uint8) * 255, height, width
    )
    mask = gray > 127
    if image.any() and not mask.any():
      places = np.flatnonzero(image)
      row, column = divmod(places[len(places) // 2], image.shape[1])
      mask[row * height // len(image), column * width // image.shape[1]] = True
    return mask
  shrinks = height < image.shape[0] or width < image.shape[1]
  interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
  return cv2.resize(image, (width, height), interpolation=interpolation)
