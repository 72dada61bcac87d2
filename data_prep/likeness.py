"""Films that are nearly the same picture: sent twice, cropped, re-exposed.

The fingerprint is the sign pattern of a film's low spatial frequencies
(Zauner, Implementation and benchmarking of perceptual image hash functions,
2010), 16 x 16 of them.
"""

from collections.abc import Mapping

import cv2
import numpy as np

_SIDE = 64
_FREQUENCIES = 16
# Of 256 bits. Copies differ by a few, different films of one patient by many.
_MOST_DIFFERENT_BITS = 20
_BLOCK = 1024


def fingerprint(image: np.ndarray) -> bytes:
  """Returns 32 bytes for a film, uint8[S, S]."""
  small = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
  frequencies = cv2.dct(small.astype(np.float32))
  low = frequencies[:_FREQUENCIES, :_FREQUENCIES].ravel()
  return np.packbits(low > np.median(low[1:])).tobytes()


def near_duplicates(fingerprints: Mapping[str, bytes]) -> list[list[str]]:
  """Returns groups of image ids whose films are nearly the same, sorted."""
  ids = sorted(fingerprints)
  if not ids:
    return []
  packed = b''.join(fingerprints[image_id] for image_id in ids)
  codes = np.frombuffer(packed, np.uint64).reshape(len(ids), -1)
  leader = list(range(len(ids)))

  def root(index: int) -> int:
    while leader[index] != index:
      leader[index] = leader[leader[index]]
      index = leader[index]
    return index

  for start in range(0, len(ids), _BLOCK):
    block = codes[start : start + _BLOCK]
    distance = np.zeros((len(block), len(ids) - start), np.uint16)
    for word in range(codes.shape[1]):
      distance += np.bitwise_count(
        block[:, None, word] ^ codes[None, start:, word]
      )
    for one, other in np.argwhere(distance <= _MOST_DIFFERENT_BITS).tolist():
      if one < other:
        first, second = sorted((root(start + one), root(start + other)))
        leader[second] = first
  groups: dict[int, list[str]] = {}
  for index, image_id in enumerate(ids):
    groups.setdefault(root(index), []).append(image_id)
  return [group for group in groups.values() if len(group) > 1]
