"""A config's epochs as steps, resolved once."""

import dataclasses
import math

import ml_collections

from pnx_jax.errors import UserError
from pnx_jax.input.sampling import Schedule


@dataclasses.dataclass(frozen=True)
class Durations:
  """Steps are batches; updates are steps / accumulate_steps.

  Attributes:
    total_steps: of the run.
    total_updates: of the weights.
    warmup_updates: of the learning rate.
    freeze_encoder_updates: before the encoder moves.
    eval_steps: after which validation happens; the last step is one.
  """

  total_steps: int
  total_updates: int
  warmup_updates: int
  freeze_encoder_updates: int
  eval_steps: frozenset[int]


def resolve(config: ml_collections.ConfigDict, schedule: Schedule) -> Durations:
  """Raises UserError where the run has no step or never validates."""

  def steps(epochs: float) -> int:
    return math.ceil(schedule.position(epochs) / config.batch_size)

  total = config.total_steps or steps(config.total_epochs)
  if total < 1:
    raise UserError(
      f'total_epochs={config.total_epochs} is no training at all; '
      'set --config.total_epochs or --config.total_steps above 0'
    )
  if config.eval_epochs <= 0:
    raise UserError(f'eval_epochs={config.eval_epochs} must be above 0')
  accumulate = config.optimizer.accumulate_steps
  eval_steps = {total}
  count = 1
  while (due := steps(count * config.eval_epochs)) < total:
    eval_steps.add(due)
    count += 1
  return Durations(
    total_steps=total,
    total_updates=max(total // accumulate, 1),
    warmup_updates=steps(config.optimizer.warmup_epochs) // accumulate,
    freeze_encoder_updates=(
      steps(config.optimizer.freeze_encoder_epochs) // accumulate
    ),
    eval_steps=frozenset(eval_steps),
  )


def profiled_steps(text: str) -> range:
  """'10:15' as range(10, 15); '' as an empty range.

  Raises:
    UserError: anything else.
  """
  if not text:
    return range(0)
  try:
    first, last = map(int, text.split(':'))
  except ValueError:
    first = last = 0
  if not 0 < first < last:
    raise UserError(
      f'profile_steps={text!r} is not first:last with steps from 1, as 10:15'
    )
  return range(first, last)
