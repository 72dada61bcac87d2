"""TensorBoard events, written by one process."""

import os
import pathlib
import time
from typing import Any, Self

import jax
import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2


class Events:
  """Scalars, pictures and text of one fold; use as a context manager.

  Writes at once, not from a thread: what was logged before a checkpoint must
  be on the disk before the checkpoint is.

  Args:
    directory: Folder of the event files.
    first_step: TensorBoard hides what an earlier process wrote from this step
      on.
  """

  def __init__(self, directory: str | os.PathLike[str], *, first_step: int):
    self._writer: Any = None
    if jax.process_index() == 0:
      pathlib.Path(directory).mkdir(parents=True, exist_ok=True)
      self._writer = EventsWriter(
        f'{directory}/events', f'.{os.getpid()}.{first_step}'
      )
      start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      self._write(first_step, session_log=start)

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    if self._writer:
      self._writer.close()

  def scalars(self, step: int, values: dict[str, float]) -> None:
    """Writes every finite value; an undefined one leaves a gap."""
    for name, value in values.items():
      if np.isfinite(value):
        self._write(step, summary=summary.scalar(name, value))

  def images(self, step: int, images: dict[str, np.ndarray]) -> None:
    """Writes pictures, u8[H, W, 3] by name."""
    for name, image in images.items():
      picture = summary.image(name, image, dataformats='HWC')
      self._write(step, summary=picture)

  def precision_recall(
    self, step: int, name: str, label: np.ndarray, probability: np.ndarray
  ) -> None:
    """Writes a precision-recall curve of bool[N] and f32[N]."""
    self._write(step, summary=summary.pr_curve(name, label, probability))

  def hyperparameters(
    self, fields: dict[str, Any], scores: dict[str, float]
  ) -> None:
    """Writes the config's fields beside the scores that they led to."""
    plain = {name: _plain(value) for name, value in fields.items()}
    for part in summary.hparams(plain, prefixed('validation', scores)):
      self._write(0, summary=part)

  def text(self, step: int, name: str, text: str) -> None:
    """Writes Markdown."""
    self._write(step, summary=summary.text(name, text))

  def flush(self) -> None:
    """Writes what is buffered; a run that resumes does not log it again."""
    if self._writer:
      self._writer.flush()

  def _write(self, step: int, **content: Any) -> None:
    if self._writer:
      self._writer.write_event(
        event_pb2.Event(wall_time=time.time(), step=step, **content)
      )


def prefixed(group: str, values: dict[str, float]) -> dict[str, float]:
  """Returns the values under the names `group/name`, as TensorBoard groups."""
  return {f'{group}/{name}': value for name, value in values.items()}


def _plain(value: Any) -> bool | int | float | str:
  """TensorBoard's table takes numbers, truth values and text."""
  return value if isinstance(value, bool | int | float | str) else str(value)
