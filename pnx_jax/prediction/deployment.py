"""What answered in an evaluation, so that new films are read the same way."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence

import jax

from pnx_jax.errors import UserError
from pnx_jax.formats import grayscale
from pnx_jax.prediction.ensemble import Member, members
from pnx_jax.prediction.network import Network


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deployment:
  """Networks, and what is done to the images they see.

  Attributes:
    runs: their workdirs, relative to the evaluated one; that is '.'.
    folds: of each run.
    checkpoints: see `ensemble.members`.
    flip: average with the mirrored image, too.
    scales: average over the image at these scales.
    window: how the dataset's grey levels were made, see `greyscale.to_uint8`.
    steps: of each member, the checkpoints whose weights were averaged.
    data: what they were trained and scored on, see `data.describe`;
      empty where that was not noted yet.
  """

  runs: tuple[str, ...]
  folds: tuple[int, ...]
  checkpoints: int
  flip: bool
  scales: tuple[float, ...]
  window: str
  steps: tuple[tuple[int, ...], ...] = ()
  data: str = ''

  def members(
    self, workdir: str | os.PathLike, folds: Sequence[int] | None = None
  ) -> list[Member]:
    """All, or those of some folds.

    Raises:
      UserError: one of the runs or folds is gone.
    """
    runs = [os.path.normpath(os.path.join(workdir, run)) for run in self.runs]
    return members(
      runs, folds=folds or self.folds, checkpoints=self.checkpoints
    )

  def networks(
    self, workdir: str | os.PathLike, mesh: jax.sharding.Mesh
  ) -> list[Network]:
    """All members, loaded; see `Network.load`.

    Raises:
      UserError: a run was trained on since it was evaluated.
    """
    networks = [Network.load(each, mesh) for each in self.members(workdir)]
    self._check_steps(workdir, networks)
    return networks

  def check(self, workdir: str | os.PathLike, mesh: jax.sharding.Mesh) -> None:
    """Raises what `networks` does; holds one of them at a time."""
    members = self.members(workdir)
    self._check_steps(workdir, (Network.load(each, mesh) for each in members))

  def _check_steps(self, workdir, networks):
    if tuple(network.steps for network in networks) != self.steps:
      raise UserError(
        f'{workdir} was trained on since it was evaluated, so its rules and '
        'thresholds belong to other weights; evaluate it again: `python '
        f'launch.py --mode=eval --workdir={workdir}`'
      )

  def save(self, workdir: str | os.PathLike) -> None:
    text = json.dumps(dataclasses.asdict(self), indent=2)
    _path(workdir).write_text(text + '\n')

  @classmethod
  def load(cls, workdir: str | os.PathLike) -> 'Deployment':
    """Raises UserError where the run was not evaluated."""
    path = _path(workdir)
    try:
      fields = json.loads(path.read_text())
      lists = {
        name: tuple(fields[name]) for name in ('runs', 'folds', 'scales')
      }
      lists['steps'] = tuple(map(tuple, fields['steps']))
      loaded = cls(**fields | lists)
    except OSError:
      raise UserError(
        f'no {path}: {workdir} is no evaluated run; evaluate it first: '
        f'`python launch.py --mode=eval --workdir={workdir}`'
      ) from None
    except (KeyError, TypeError, ValueError) as error:
      raise UserError(f'{path} is damaged: {error}; run --mode=eval') from error
    if loaded.window not in grayscale.WINDOWS:
      raise UserError(f'{path} names no known window: {loaded.window!r}')
    return loaded


def _path(workdir):
  return pathlib.Path(workdir, 'eval', 'deployment.json')
