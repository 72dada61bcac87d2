"""What a checkpoint says of itself: checksums of its arrays, and its score.

Orbax restores a flipped byte silently as wrong numbers, and a lost score as no
score.
"""

import pathlib
import zlib
from typing import Any

import jax
import numpy as np

from pnx_jax.formats import files, seal

SCORE = 'score'
_ITEMS = ('variables', 'ema', 'training')
# Beside the checksums of the items: one of all that the file of them holds.
_DIGEST = 'digest'


def of_checkpoint(
  items: dict[str, Any], *, score: float | None, record: dict[str, Any] | None
) -> dict[str, Any]:
  """Returns what is saved beside the items of a checkpoint.

  Args:
    items: Trees of arrays by name, some of `_ITEMS`.
    score: Of the validation, None without one.
    record: What is recorded of the run's files; see `run_seal`.
  """
  sums: dict[str, Any] = {name: checksums(item) for name, item in items.items()}
  sums[SCORE] = score
  if record is not None:
    sums[seal.FIELD] = record
  return sums | {_DIGEST: _digest(sums)}


def checksums(tree: Any) -> dict[str, int]:
  """Returns the CRC-32 of every array's bytes on this host, by path."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    jax.tree_util.keystr(path): zlib.crc32(_bytes(leaf))
    for path, leaf in leaves
  }


def _bytes(array: jax.Array) -> bytes:
  return np.ascontiguousarray(array.addressable_data(0)).tobytes()


def check_sums(sums: dict[str, Any]) -> None:
  """Checks what a checkpoint's file of checksums holds against its own digest.

  Args:
    sums: The content of the file. Old ones have no digest.

  Raises:
    ValueError: It was changed.
  """
  unknown = sums.keys() - {*_ITEMS, SCORE, seal.FIELD, _DIGEST}
  if unknown or sums.get(_DIGEST, '') not in ('', _digest(sums)):
    raise ValueError('its checksums are not those that it was saved with')


def _digest(sums: dict[str, Any]) -> str:
  return seal.digest(
    {'sums': {name: sums[name] for name in sums if name != _DIGEST}}
  )


def saved_score(folder: pathlib.Path) -> tuple[float | None, bool]:
  """Returns the score in a checkpoint's checksums, and whether it is certain.

  None where it was saved without one, or the checksums are damaged.
  """
  try:
    sums = files.parse_json((folder / 'checksums' / 'metadata').read_bytes())
    check_sums(sums)
    score = None if sums[SCORE] is None else float(sums[SCORE])
    return score, _DIGEST in sums
  except (
    *(OSError, ValueError, KeyError, TypeError, AttributeError),
    OverflowError,
  ):
    return None, False
