"""Films that are nearly the same picture: sent twice, recompressed, re-exposed.

The fingerprint is the sign pattern of a film's low spatial frequencies
(Zauner, Implementation and benchmarking of perceptual image hash functions,
2010), 32 x 32 of them.
"""

from collections.abc import Iterator, Mapping

import cv2
import numpy as np

_SIDE = 128
_FREQUENCIES = 32
_COARSE = 16  # these frequencies come first, and tell most films apart
# Of 1024 bits. Copies that were recompressed, resized or re-exposed differ by
# up to 70, the closest two of 80 real films by 369, the closest two synthetic
# patients by 203.
_MOST_DIFFERENT = 150
_MOST_DIFFERENT_COARSE = 60
_BLOCK = 128
# The rows of the discrete cosine transform (DCT-II), but for their scale.
_COSINES = np.cos(
  np.outer(np.arange(_FREQUENCIES), np.arange(_SIDE) + 0.5) * np.pi / _SIDE
).astype(np.float32)


def fingerprint(image: np.ndarray) -> bytes:
  """Returns 128 bytes for a film, uint8[S, S]."""
  small = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
  # Not numpy's product: its threads would fight with the other workers.
  rows = cv2.gemm(_COSINES, small.astype(np.float32), 1, None, 0)
  frequencies = cv2.gemm(rows, _COSINES, 1, None, 0, flags=cv2.GEMM_2_T)
  signs = frequencies > np.median(frequencies)
  coarse = signs[:_COARSE, :_COARSE].ravel()
  rest = (signs[_COARSE:].ravel(), signs[:_COARSE, _COARSE:].ravel())
  return np.packbits(np.concatenate([coarse, *rest])).tobytes()


def near_duplicates(fingerprints: Mapping[str, bytes]) -> list[list[str]]:
  """Returns groups of image ids whose films are nearly the same, sorted."""
  ids = sorted(fingerprints)
  codes = np.frombuffer(
    b''.join(fingerprints[image_id] for image_id in ids), np.uint64
  ).reshape(len(ids), _FREQUENCIES**2 // 64)
  group = {image_id: [image_id] for image_id in ids}
  for one, other in _pairs(codes):
    first, second = group[ids[one]], group[ids[other]]
    if first is not second:
      first += second
      group.update((image_id, first) for image_id in second)
  found = {id(members): sorted(members) for members in group.values()}
  return sorted(members for members in found.values() if len(members) > 1)


def _pairs(codes: np.ndarray) -> Iterator[tuple[int, int]]:
  """Yields the rows of uint64[N, 16] that differ by few bits, once a pair."""
  words = _COARSE**2 // 64
  columns = np.ascontiguousarray(codes.T)
  for start in range(0, len(codes), _BLOCK):
    block = columns[:, start : start + _BLOCK]
    distance = np.zeros((block.shape[1], len(codes) - start), np.uint16)
    for word in range(words):
      distance += np.bitwise_count(
        block[word, :, None] ^ columns[word, None, start:]
      )
    one, other = start + np.argwhere(distance <= _MOST_DIFFERENT_COARSE).T
    one, other = one[one < other], other[one < other]
    bits = np.bitwise_count(codes[one] ^ codes[other]).sum(1, dtype=np.uint16)
    alike = bits <= _MOST_DIFFERENT
    yield from zip(one[alike].tolist(), other[alike].tolist(), strict=True)
