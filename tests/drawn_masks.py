"""A small mask with a hole, and masks as polygons."""

import cv2
import numpy as np

SHAPE = 60, 80


def blob():
  """A mask with a hole."""
  mask = np.zeros(SHAPE, np.uint8)
  cv2.ellipse(mask, (40, 30), (25, 18), 20, 0, 360, 1, -1)
  cv2.circle(mask, (42, 30), 6, 0, -1)
  return mask.astype(bool)


def polygon_of(mask):
  outlines, _ = cv2.findContours(
    mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
  )
  return ';'.join(' '.join(map(str, ring.ravel())) for ring in outlines)
