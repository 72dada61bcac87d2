"""From probabilities to a mask, by the rule that an evaluation chose."""

import dataclasses
import os
import pathlib
from typing import Any, Protocol

import cv2
import numpy as np

from pnx_jax.errors import UserError
from pnx_jax.formats import files, letterbox, seal, typed_json
from pnx_jax.formats.evaluation_files import CHECKSUMS
from pnx_jax.metrics import calibration, rules
from pnx_jax.metrics.calibration import OperatingPoint
from pnx_jax.metrics.rules import Rule
from pnx_jax.prediction.network import SIZE


class Geometry(Protocol):
  """Of a film; a DICOM header and a dataset's record have it."""

  @property
  def height(self) -> int:
    """Rows."""
    ...

  @property
  def width(self) -> int:
    """Columns."""
    ...

  @property
  def pixel_aspect(self) -> float:
    """Height of a pixel over its width."""
    ...


@dataclasses.dataclass(frozen=True)
class Postprocess:
  """What decides the final mask, and calibrates the probability.

  Attributes:
    rule: which images keep a mask, and which pixels.
    temperature: for the probability of an image, see `calibration.scale`.
    operating_points: on the calibrated probability.
    min_component: smaller regions are dropped, in pixels at 1024 x 1024; 0
      keeps all.
    fill_holes: whether holes in regions are filled.
  """

  rule: Rule = rules.PLAIN
  temperature: float = 1.0
  operating_points: tuple[OperatingPoint, ...] = ()
  min_component: int = 0
  fill_holes: bool = False

  @property
  def cleans(self) -> bool:
    """Whether masks are changed after thresholding."""
    return bool(self.min_component or self.fill_holes)

  def mask(self, probs: np.ndarray, probability: float) -> np.ndarray:
    """The mask bool[SIZE, SIZE] of probabilities f32[SIZE, SIZE].

    They are 0 beside the film, see `letterbox.blanked`.
    """
    mask = probs > np.float32(self.rule.bottom)
    if not self._positive(probs, probability):
      mask[:] = False
    return self.cleaned(mask, 1.0)

  def film_mask(
    self, probs: np.ndarray, probability: float, record: Geometry
  ) -> np.ndarray:
    """The mask at the film's own size, bool[H, W].

    Args:
      probs: f32[SIZE, SIZE].
      probability: of the film, not calibrated.
      record: of the film.
    """
    shape = (record.height, record.width)
    # Nothing is found beside the film.
    probs = letterbox.blanked(probs, *shape, pixel_aspect=record.pixel_aspect)
    if not self._positive(probs, probability):
      return np.zeros(shape, bool)
    film = letterbox.unletterbox(
      probs, *shape, pixel_aspect=record.pixel_aspect
    )
    inside = letterbox.place(*shape, SIZE, pixel_aspect=record.pixel_aspect)
    scale = film.size / (inside.height * inside.width)
    return self.cleaned(film > np.float32(self.rule.bottom), scale)

  def calibrated(self, probability: Any) -> Any:
    """A probability, or an array of them, after temperature scaling."""
    return calibration.scale(probability, self.temperature)

  def reached(self, calibrated: float) -> str:
    """The strictest operating point that a probability reaches, or ''."""
    reached = [
      point for point in self.operating_points if calibrated >= point.threshold
    ]
    if not reached:
      return ''
    return max(reached, key=lambda point: point.threshold).name

  def _positive(self, probs, probability) -> bool:
    """Whether the film keeps a mask; `rules.predicted` says so from areas."""
    large = np.count_nonzero(probs > np.float32(self.rule.top)) > self.rule.area
    return bool(large and probability > self.rule.gate)

  def cleaned(self, mask: np.ndarray, scale: float) -> np.ndarray:
    """The mask bool[H, W] without small regions, and with holes filled.

    Args:
      mask: After thresholding; may be changed.
      scale: Its pixels per pixel at 1024 x 1024.
    """
    if self.fill_holes and mask.any():
      outlines, _ = cv2.findContours(
        mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
      )
      filled = np.zeros(mask.shape, np.uint8)
      mask = cv2.drawContours(filled, outlines, -1, 1, cv2.FILLED).view(bool)
    if self.min_component and mask.any():
      _, regions, sizes, _ = cv2.connectedComponentsWithStats(
        mask.view(np.uint8), connectivity=8
      )
      keep = sizes[:, cv2.CC_STAT_AREA] >= self.min_component * scale
      keep[0] = False
      mask = keep[regions]
    return mask

  def save(self, path: str | os.PathLike[str]) -> None:
    """Writes a JSON file that `load` reads."""
    files.write_json(path, seal.sealed(dataclasses.asdict(self)))

  @classmethod
  def parse(cls, fields: dict[str, Any]) -> 'Postprocess':
    """From the fields that `dataclasses.asdict` gave, and a seal.

    Raises:
      ValueError: A field is missing or of another type.
    """
    parsed = typed_json.convert(fields, cls)
    if missing := {'rule', 'operating_points'} - fields.keys():
      raise ValueError(f'{min(missing)} is missing')
    return parsed

  @classmethod
  def load(
    cls, path: str | os.PathLike[str], *, accept_edited: bool = False
  ) -> 'Postprocess':
    """Reads the file.

    Raises:
      UserError: it is missing, was edited, or is not what `save` wrote.
    """
    try:
      fields = files.parse_json(pathlib.Path(path).read_bytes())
      if not isinstance(fields, dict):
        raise ValueError('not an object')
    except FileNotFoundError:
      raise UserError(
        f'no {path}; `python launch.py --mode=eval --workdir=...` writes it'
      ) from None
    except ValueError as error:
      raise UserError(f'{path} is damaged: {error}; run --mode=eval') from error
    if not accept_edited:
      sealed = seal.is_sealed(fields, os.fspath(path), remedy='run --mode=eval')
      # Evaluations that write checksums also seal.
      if not sealed and pathlib.Path(path).with_name(CHECKSUMS).exists():
        raise UserError(f'{path} has lost its seal: run --mode=eval')
    try:
      return cls.parse(fields)
    except ValueError as error:
      raise UserError(f'{path} is damaged: {error}; run --mode=eval') from error
