"""Lesions: which annotated regions are found, and which regions are false.

A lesion is a region of the annotated mask, a finding one of the candidate mask;
regions are connected with 8 neighbors. A finding's score is the largest level
of its pixels. A lesion is hit by a finding that overlaps it, or more strictly
by one with an intersection over union of at least `IOU`; its score is that of
the best finding that hits it. A finding that overlaps no lesion is false.
"""

import dataclasses

import cv2
import numpy as np

IOU = 0.1


@dataclasses.dataclass(frozen=True)
class Region:
  """A region of a mask.

  Attributes:
    area: In pixels.
    row: Of its center of mass.
    column: Likewise.
  """

  area: int
  row: float
  column: float


@dataclasses.dataclass(frozen=True)
class Lesion:
  """An annotated region.

  Attributes:
    region: Where it is.
    score: Level of the best finding that overlaps it; 0 if there is none.
    score_iou: Level of the best finding that hits it by IoU; 0 if none.
  """

  region: Region
  score: int
  score_iou: int


@dataclasses.dataclass(frozen=True)
class FalsePositive:
  """A finding that overlaps no lesion.

  Attributes:
    region: Where it is.
    score: Its level.
  """

  region: Region
  score: int


def match(
  truth: np.ndarray, candidates: np.ndarray, levels: np.ndarray
) -> tuple[list[Lesion], list[FalsePositive]]:
  """Matches the regions of one film.

  Args:
    truth: bool[H, W], the annotated mask.
    candidates: bool[H, W], the candidate mask.
    levels: uint8[H, W], what scores are taken from.
  """
  marked = truth | candidates
  if not marked.any():
    return [], []
  corner, window = _window(marked)
  truth, candidates, levels, marked = (
    each[window] for each in (truth, candidates, levels, marked)
  )
  of_truth, lesions = _regions(truth, corner)
  of_candidates, findings = _regions(candidates, corner)
  shape = len(lesions) + 1, len(findings) + 1
  score = np.zeros(shape[1], np.int64)
  np.maximum.at(score, of_candidates[candidates], levels[candidates])
  pairs = of_truth[marked].astype(np.int64) * shape[1] + of_candidates[marked]
  overlap = np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)
  both = overlap[1:, 1:]
  areas = np.array([region.area for region in lesions], np.int64)[:, None]
  union = areas + np.array([each.area for each in findings], np.int64) - both
  hits = both > 0
  found = [
    Lesion(
      region,
      int(score[1:].max(initial=0, where=hits[row])),
      int(score[1:].max(initial=0, where=both[row] >= IOU * union[row])),
    )
    for row, region in enumerate(lesions)
  ]
  false = [
    FalsePositive(region, int(score[1 + number]))
    for number, region in enumerate(findings)
    if not hits[:, number].any()
  ]
  return found, false


def _window(mask: np.ndarray) -> tuple[tuple[int, int], tuple[slice, slice]]:
  """The corner of the smallest rectangle around a mask, and the rectangle."""
  rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
  return (int(rows[0]), int(columns[0])), (
    slice(rows[0], rows[-1] + 1),
    slice(columns[0], columns[-1] + 1),
  )


def _regions(
  mask: np.ndarray, corner: tuple[int, int]
) -> tuple[np.ndarray, list[Region]]:
  """The number of each pixel's region, from 1, and the regions.

  Args:
    mask: bool[H, W], a part of the film.
    corner: Row and column of the part in the film.
  """
  _, places, stats, centers = cv2.connectedComponentsWithStats(
    np.ascontiguousarray(mask).view(np.uint8), connectivity=8
  )
  return places, [
    Region(
      int(stat[cv2.CC_STAT_AREA]),
      corner[0] + float(center[1]),
      corner[1] + float(center[0]),
    )
    for stat, center in zip(stats[1:], centers[1:], strict=True)
  ]
