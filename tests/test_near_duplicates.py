"""Near-duplicates among many films, against a comparison of every pair."""

import cv2
import numpy as np
import pytest
from scipy.cluster import hierarchy

from data_prep import near_duplicates
from pnx_jax.formats import dicom


def groups_by_brute_force(bits, names):
  """Groups of names whose rows of bool[N, 1024] differ by up to 150 bits."""
  signs = np.where(bits, 1, -1).astype(np.float32)
  close = signs @ signs.T >= 1024 - 2 * 150
  one, other = np.nonzero(np.triu(close, 1))
  sets = hierarchy.DisjointSet(names)
  for i, j in zip(one.tolist(), other.tolist(), strict=True):
    sets.merge(names[i], names[j])
  return sorted(sorted(group) for group in sets.subsets() if len(group) > 1)


def test_among_many_films_the_same_groups_are_found():
  random_state = np.random.default_rng(0)
  bits = random_state.random((5000, 1024)) < 0.5
  for copy in range(40):
    bits[copy] = bits[4000 + copy // 2]
    changed = random_state.choice(1024, 3 * copy, replace=False)
    bits[copy, changed] ^= True
  names = [f'{number:04}' for number in range(len(bits))]
  expected = groups_by_brute_force(bits, names)
  assert len(expected) == 20
  codes = np.packbits(bits, axis=1)
  found = near_duplicates.near_duplicates(
    {name: code.tobytes() for name, code in zip(names, codes, strict=True)}
  )
  assert found == expected


@pytest.mark.slow
def test_among_all_real_films_the_same_groups_are_found(real_data):
  prints = {}
  for path in sorted(real_data.rglob('*')):
    if path.suffix in ('.png', '.jpg'):
      film = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    else:
      try:
        film = dicom.read(path).pixels
      except (dicom.UnusableDicom, IsADirectoryError):
        continue
    name = str(path.relative_to(real_data))
    prints[name] = near_duplicates.fingerprint(film)
  codes = np.frombuffer(b''.join(prints.values()), np.uint8)
  bits = np.unpackbits(codes.reshape(len(prints), 128), axis=1).astype(bool)
  expected = groups_by_brute_force(bits, list(prints))
  assert len(prints) > 4096
  print(f'{len(expected)} groups among {len(prints)} films')
  assert near_duplicates.near_duplicates(prints) == expected
