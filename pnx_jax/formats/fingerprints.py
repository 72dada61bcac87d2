"""Fingerprints of films: which films of two collections are the same picture.

A fingerprint has 1024 bits, the first 256 of which distinguish most films; see
`data_prep.near_duplicates`, which makes them and compares the films of a build.
"""

from collections.abc import Mapping

import numpy as np

# Side of the square that fingerprints are made of.
SIDE = 128
# Copies that were recompressed, resized or re-exposed differ by up to 70 bits,
# the closest two of 80 real films by 369, the closest two synthetic patients
# by 203.
MOST_DIFFERENT = 150
MOST_DIFFERENT_COARSE = 60

_WORDS, _COARSE_WORDS = 1024 // 64, 256 // 64
_PAIRS_AT_A_TIME = 1 << 22


def copies(
  ours: Mapping[str, str], theirs: Mapping[str, str]
) -> list[tuple[str, str]]:
  """Returns pairs of ids whose films are the same picture, of ours and theirs.

  Every pair is compared: 12,000 with 12,000 films take about a second.

  Args:
    ours: Fingerprints in hexadecimal digits by id; empty ones are left out.
    theirs: The same of the other collection.
  """
  our_ids, our_words = _words(ours)
  their_ids, their_words = _words(theirs)
  rows = max(1, _PAIRS_AT_A_TIME // max(1, len(their_ids)))
  found: list[tuple[str, str]] = []
  for first in range(0, len(our_ids), rows):
    part = our_words[first : first + rows]
    coarse = sum(
      np.bitwise_count(part[:, word, None] ^ their_words[None, :, word])
      for word in range(_COARSE_WORDS)
    )
    one, other = np.nonzero(coarse <= MOST_DIFFERENT_COARSE)
    different = np.bitwise_count(part[one] ^ their_words[other]).sum(axis=1)
    alike = different <= MOST_DIFFERENT
    found += [
      (our_ids[first + i], their_ids[j])
      for i, j in zip(one[alike].tolist(), other[alike].tolist(), strict=True)
    ]
  return found


def _words(prints: Mapping[str, str]) -> tuple[list[str], np.ndarray]:
  """Returns ids and uint64[N, 16]."""
  known = {name: text for name, text in prints.items() if text}
  content = b''.join(map(bytes.fromhex, known.values()))
  return list(known), np.frombuffer(content, np.uint64).reshape(-1, _WORDS)
