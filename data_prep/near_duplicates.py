"""Films that are nearly the same picture: sent twice, recompressed, re-exposed.

The fingerprint is the sign pattern of a film's low spatial frequencies
(Zauner, Implementation and benchmarking of perceptual image hash functions,
2010), 32 x 32 of them.
"""

from collections.abc import Mapping

import cv2
import numpy as np
from scipy.sparse import coo_array, csgraph

from pnx_jax.formats import fingerprints

_SIDE = fingerprints.SIDE
_FREQUENCIES = 32
_COARSE = 16  # these frequencies come first, and distinguish most films
_MOST_DIFFERENT = fingerprints.MOST_DIFFERENT
_MOST_DIFFERENT_COARSE = fingerprints.MOST_DIFFERENT_COARSE
# Up to this many films every pair is compared. Among more, films are compared
# where a random sample of bits is equal; the samples are so many that a pair
# which differs by the most bits allowed is missed with this probability. Copies
# that differ by 70 bits are missed with 1e-8 or less.
_EXHAUSTIVE = 4096
_MISSED = 1e-3
# The rows of the discrete cosine transform (DCT-II), but for their scale.
_COSINES = np.cos(
  np.outer(np.arange(_FREQUENCIES), np.arange(_SIDE) + 0.5) * np.pi / _SIDE
).astype(np.float32)


def fingerprint(image: np.ndarray) -> bytes:
  """Returns 128 bytes for a film, uint8[H, W].

  A film of any shape is brought to a square, as many datasets do: the same film
  has the same fingerprint in all of them.
  """
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
  one, other = _pairs(codes)
  linked = coo_array((np.ones(len(one), bool), (one, other)), (len(ids),) * 2)
  # Ids are ascending, and so are the members of each component.
  _, component = csgraph.connected_components(linked, directed=False)
  by_component = np.argsort(component, kind='stable')
  starts = np.flatnonzero(np.diff(component[by_component], prepend=-1))
  groups = np.split(by_component, starts[1:])
  return sorted(
    [ids[place] for place in group] for group in groups if len(group) > 1
  )


def _pairs(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns pairs of rows of uint64[N, 16] that differ by few bits.

  Locality-sensitive hashing by sampled bits (Gionis et al., Similarity search
  in high dimensions via hashing, 1999): for each sample of bits, the rows that
  have the same ones are compared.
  """
  columns = np.ascontiguousarray(codes.T)
  if len(codes) <= _EXHAUSTIVE:
    return _close_pairs(columns, np.zeros(len(codes), np.uint64))
  all_bits = 64 * len(columns)
  bits = int(np.log2(len(codes)))
  probability = (1 - _MOST_DIFFERENT / all_bits) ** bits
  samples = int(np.ceil(np.log(_MISSED) / np.log1p(-probability)))
  random_state = np.random.default_rng(0)
  found = []
  for _ in range(samples):
    keys = np.zeros(len(codes), np.uint64)
    for bit in random_state.choice(all_bits, bits, replace=False).tolist():
      word, place = divmod(bit, 64)
      keys = keys << np.uint64(1) | columns[word] >> np.uint64(place) & 1
    found.append(np.sort(_close_pairs(columns, keys), axis=0))
  one, other = np.unique(np.concatenate(found, axis=1), axis=1)
  return one, other


def _close_pairs(
  columns: np.ndarray, keys: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns pairs of films that differ by few bits and have the same key.

  Args:
    columns: Their fingerprints, uint64[16, N].
    keys: uint64[N].
  """
  order = np.argsort(keys)
  keys = keys[order]
  coarse = columns[: _COARSE**2 // 64, order]
  found = [np.empty((2, 0), np.int64)]
  first = np.arange(len(keys))
  for distance in range(1, len(keys)):
    first = first[: np.searchsorted(first, len(keys) - distance)]
    first = first[keys[first] == keys[first + distance]]
    if not first.size:
      break
    different = _different_bits(coarse, first, first + distance)
    close = first[different <= _MOST_DIFFERENT_COARSE]
    one, other = order[close], order[close + distance]
    alike = _different_bits(columns, one, other) <= _MOST_DIFFERENT
    found.append(np.stack([one[alike], other[alike]]))
  one, other = np.concatenate(found, axis=1)
  return one, other


def _different_bits(
  columns: np.ndarray, one: np.ndarray, other: np.ndarray
) -> np.ndarray:
  different = np.zeros(len(one), np.uint16)
  for column in columns:
    different += np.bitwise_count(column[one] ^ column[other])
  return different
