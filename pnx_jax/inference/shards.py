"""Several processes that predict the films of one output folder."""

import dataclasses
import os
import re

from pnx_jax.errors import UserError
from pnx_jax.inference.discovery import Source


@dataclasses.dataclass(frozen=True)
class Shard:
  """One of several processes; every film belongs to one of them.

  Attributes:
    number: Of this process, from 1.
    count: How many processes there are.
  """

  number: int
  count: int

  @classmethod
  def parse(cls, text: str) -> 'Shard':
    """Reads a shard such as '3/16', the third of sixteen.

    Raises:
      UserError: The text is not a shard.
    """
    found = re.fullmatch(r'(\d{1,6})/(\d{1,6})', text)
    shard = cls(*map(int, found.groups())) if found else None
    if shard is None or not 1 <= shard.number <= shard.count:
      raise UserError(
        f'--shard={text} is not NUMBER/COUNT with a number from 1 to count, '
        'for example --shard=3/16'
      )
    return shard

  @classmethod
  def from_slurm(cls) -> 'Shard | None':
    """Returns the shard of a task of a SLURM job or job array.

    None where SLURM runs one task, or does not run this process.
    """
    array, task = 0, 0
    arrays = int(os.environ.get('SLURM_ARRAY_TASK_COUNT', 1))
    if arrays > 1:
      array = int(os.environ['SLURM_ARRAY_TASK_ID'])
      array -= int(os.environ['SLURM_ARRAY_TASK_MIN'])
      array //= int(os.environ.get('SLURM_ARRAY_TASK_STEP', 1))
    tasks = 1
    if 'SLURM_STEP_NODELIST' in os.environ:  # Started by srun.
      tasks = int(os.environ.get('SLURM_NTASKS', 1))
      task = int(os.environ.get('SLURM_PROCID', 0))
    if arrays * tasks == 1:
      return None
    if array >= arrays:
      raise UserError(
        'the numbers of this job array have gaps: give --array=1-16, or '
        '--shard=NUMBER/COUNT to each task'
      )
    return cls(array * tasks + task + 1, arrays * tasks)

  def __str__(self) -> str:
    return f'{self.number}/{self.count}'

  def takes(self, source: Source) -> bool:
    """Whether a film belongs to this shard, whatever others there are."""
    digest = source.name.rpartition('_')[2]
    return int(digest, 16) % self.count == self.number - 1
