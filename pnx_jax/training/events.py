"""TensorBoard events, written by one process."""

import os

import jax
import numpy as np
import tensorboardX


class Events:
  """Scalars, pictures and text of one fold; use as a context manager.

  Args:
    directory: of the event files.
    first_step: what an earlier run wrote from this step on is hidden.
  """

  def __init__(self, directory: str | os.PathLike, *, first_step: int):
    self._writer = None
    if jax.process_index() == 0:
      self._writer = tensorboardX.SummaryWriter(
        str(directory), purge_step=first_step, flush_secs=10
      )

  def __enter__(self):
    return self

  def __exit__(self, *_):
    if self._writer:
      self._writer.close()

  def scalars(self, step: int, values: dict[str, float]) -> None:
    """Writes every finite value; an undefined one leaves a gap."""
    if self._writer:
      for name, value in values.items():
        if np.isfinite(value):
          self._writer.add_scalar(name, value, step)

  def images(self, step: int, images: dict[str, np.ndarray]) -> None:
    """Writes pictures, uint8[H, W, 3] by name."""
    if self._writer:
      for name, image in images.items():
        self._writer.add_image(name, image, step, dataformats='HWC')

  def precision_recall(
    self, step: int, name: str, label: np.ndarray, probability: np.ndarray
  ) -> None:
    """Writes a precision-recall curve of bool[N] and f32[N]."""
    if self._writer:
      self._writer.add_pr_curve(name, label, probability, step)

  def hyperparameters(self, fields: dict, scores: dict[str, float]) -> None:
    """Writes the config's fields beside what they led to."""
    if self._writer:
      self._writer.add_hparams(
        {name: _plain(value) for name, value in fields.items()},
        {f'final/{name}': value for name, value in scores.items()},
        name='hyperparameters',
      )

  def flush(self) -> None:
    """Call before a checkpoint: a resumed run does not write these again."""
    if self._writer:
      self._writer.flush()

  def text(self, step: int, name: str, text: str) -> None:
    """Writes Markdown."""
    if self._writer:
      self._writer.add_text(name, text, step)


def prefixed(group: str, values: dict[str, float]) -> dict[str, float]:
  """Names as TensorBoard groups them: `group/name`."""
  return {f'{group}/{name}': value for name, value in values.items()}


def _plain(value):
  """TensorBoard's table takes numbers, truth values and text."""
  return value if isinstance(value, bool | int | float | str) else str(value)
