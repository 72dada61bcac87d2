"""The durations of a run in steps, and what is due after each step."""

import dataclasses
import math

from pnx_jax.errors import UserError
from pnx_jax.input.sampling import Schedule


@dataclasses.dataclass(frozen=True)
class Due:
  """What is due after a step."""

  log: bool
  validation: bool
  checkpoint: bool


@dataclasses.dataclass(frozen=True)
class Durations:
  """Durations in steps, which are batches, and in updates of the weights.

  Attributes:
    total_steps: Steps of the whole run.
    total_updates: Updates of the whole run; one takes `accumulate_steps` steps.
    warmup_updates: Updates before the learning rate is at its peak.
    freeze_encoder_updates: Updates before the encoder's parameters change.
    ramp_steps: Steps over which the weight of the mean teacher rises.
    log_steps: Steps between two log lines; one follows the last step, too.
    checkpoint_steps: Steps between two checkpoints; each validation has one,
      too.
    validation_steps: The steps that are followed by a validation; the last
      step is one.
  """

  total_steps: int
  total_updates: int
  warmup_updates: int
  freeze_encoder_updates: int
  ramp_steps: int
  log_steps: int
  checkpoint_steps: int
  validation_steps: frozenset[int]

  def due(self, step: int, *, stopping: bool) -> Due:
    """Returns what is due after a step.

    Args:
      step: The number of the step, from 1.
      stopping: Whether training stops here. The state is saved then, and a
        validation is left to the run that resumes.
    """
    validation = step in self.validation_steps and not stopping
    return Due(
      log=step % self.log_steps == 0 or step == self.total_steps,
      validation=validation,
      checkpoint=step % self.checkpoint_steps == 0 or validation or stopping,
    )


def resolve(
  schedule: Schedule,
  *,
  batch_size: int,
  total_epochs: float,
  total_steps: int | None,
  eval_epochs: float,
  log_steps: int,
  checkpoint_steps: int,
  warmup_epochs: float,
  freeze_encoder_epochs: float,
  accumulate_steps: int,
  ramp_epochs: float = 0.0,
) -> Durations:
  """Converts the epochs of a config into steps.

  Args:
    schedule: The training sequence, which says how long each epoch is.
    batch_size: Annotated images per step.
    total_epochs: Length of the run.
    total_steps: Length of the run in steps, or None where total_epochs gives
      it.
    eval_epochs: Epochs between two validations.
    log_steps: Steps between two log lines.
    checkpoint_steps: Steps between two checkpoints.
    warmup_epochs: Epochs before the learning rate is at its peak.
    freeze_encoder_epochs: Epochs before the encoder's parameters change.
    accumulate_steps: Steps per update.
    ramp_epochs: Epochs over which the weight of the mean teacher rises.

  Raises:
    UserError: The run has no step, or no update.
  """

  def steps(epochs: float) -> int:
    return math.ceil(schedule.position(epochs) / batch_size)

  total = total_steps or steps(total_epochs)
  if total < 1:
    raise UserError(
      f'total_epochs={total_epochs} trains for no step; set '
      '--config.total_epochs or --config.total_steps above 0'
    )
  if accumulate_steps > total:
    raise UserError(
      f'optimizer.accumulate_steps={accumulate_steps} is more than the '
      f'{total} steps of the run: the weights would never be updated'
    )
  validation_steps = {total}
  count = 1
  while (due := steps(count * eval_epochs)) < total:
    validation_steps.add(due)
    count += 1
  return Durations(
    total_steps=total,
    total_updates=total // accumulate_steps,
    warmup_updates=steps(warmup_epochs) // accumulate_steps,
    freeze_encoder_updates=steps(freeze_encoder_epochs) // accumulate_steps,
    ramp_steps=steps(ramp_epochs),
    log_steps=log_steps,
    checkpoint_steps=checkpoint_steps,
    validation_steps=frozenset(validation_steps),
  )
