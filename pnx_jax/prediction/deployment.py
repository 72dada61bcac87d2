"""eval/deployment.json: the ensemble that an evaluation scored.

New films are predicted by the same networks in the same way.
"""

import dataclasses
import itertools
import json
import logging
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax

from pnx_jax.errors import UserError
from pnx_jax.formats import files, folders, grayscale, seal, typed_json
from pnx_jax.prediction import ensemble, evaluation_seal, network
from pnx_jax.prediction.ensemble import Ensemble
from pnx_jax.prediction.network import Network
from pnx_jax.prediction.postprocess import Postprocess
from pnx_jax.training import run_files, sharding

_NAME = 'deployment.json'
_RULES_NAME = 'postprocess.json'

_logger = logging.getLogger(__name__)


class Member(NamedTuple):
  """Where the weights of one network of an ensemble are.

  Attributes:
    workdir: of the run.
    fold: that was held out when they were trained.
    place: among the best checkpoints of that fold, from 0; None for the mean
      of the run's `average_checkpoints` best.
  """

  workdir: str
  fold: int
  place: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deployment:
  """Networks, and how images are made for them.

  Attributes:
    runs: their workdirs, relative to the evaluated one; that is '.'.
    folds: of each run.
    checkpoints: more than 1 takes that many best ones of each fold as members
      instead of one, the mean of their weights.
    flip: average over the image and its mirror image.
    scales: average over the image resized by these factors.
    image_probability: what gives the probability of an image, where the
      presence heads are trained.
    window: how the dataset's gray levels were made, see `grayscale.to_uint8`.
    steps: of each member, the checkpoints whose weights were averaged; empty
      before the evaluation.
    data: what the networks were trained and scored on, in words; empty in old
      files.
    sealed: what the evaluation sealed, see `evaluation_seal.record`; empty in
      old files.
    state: whether the evaluation is as it was written, see
      `evaluation_seal.state`; not stored.
  """

  runs: tuple[str, ...]
  folds: tuple[int, ...]
  checkpoints: int
  flip: bool
  scales: tuple[float, ...]
  window: str
  image_probability: network.WantedProbability = 'presence_head'
  steps: tuple[tuple[int, ...], ...] = ()
  data: str = ''
  sealed: dict[str, Any] = dataclasses.field(default_factory=dict)
  state: str = evaluation_seal.NOT_SEALED

  def members(
    self, workdir: str | os.PathLike[str], folds: Iterable[int] = ()
  ) -> list[Member]:
    """All members, or those of some folds.

    Args:
      workdir: the evaluated run.
      folds: which; all where none are given.

    Raises:
      UserError: one of the runs or folds is missing, or the probabilities of
        two runs mean different things.
    """
    folds = tuple(folds) or self.folds
    runs = [os.path.normpath(os.path.join(workdir, run)) for run in self.runs]
    for run in runs:
      missing = sorted(set(folds) - set(run_files.trained_folds(run)))
      if missing:
        raise UserError(
          f'{run} has no checkpoint of fold {missing[0]}: train it with '
          f'`python launch.py --config=... --workdir={run} '
          f'--config.fold={missing[0]}`'
        )
    _check_presence_heads(runs)
    places = range(self.checkpoints) if self.checkpoints > 1 else (None,)
    return [
      Member(run, fold, place)
      for run, fold, place in itertools.product(runs, folds, places)
    ]

  def image_size(self, workdir: str | os.PathLike[str]) -> int:
    """Side of the largest square image that a network takes."""
    runs = {member.workdir for member in self.members(workdir)}
    return max(run_files.load(run).image_size for run in runs)

  def save(
    self,
    workdir: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    postprocess: Postprocess,
  ) -> None:
    """Writes and seals deployment.json and postprocess.json.

    Args:
      workdir: the evaluated run.
      folder: of the evaluation.
      postprocess: what it chose.
    """
    postprocess.save(pathlib.Path(folder, _RULES_NAME))
    fields = dataclasses.asdict(self)
    del fields['state']
    fields['sealed'] = evaluation_seal.record(
      workdir,
      dataclasses.asdict(postprocess),
      runs=self.runs,
      folds=self.folds,
    )
    # As JSON gives it back: tuples are lists there.
    fields = json.loads(json.dumps(fields))
    files.write_json(pathlib.Path(folder, _NAME), seal.sealed(fields))

  @classmethod
  def load(
    cls, workdir: str | os.PathLike[str], *, accept_edited: bool = False
  ) -> 'Deployment':
    """Reads the file of an evaluated run.

    Args:
      workdir: the run.
      accept_edited: go on where it, or what it seals, was edited; `state`
        names the files then.

    Raises:
      UserError: the run was not evaluated, or a file is damaged or edited.
    """
    path = _path(workdir)
    folders.recover(path.parent)
    try:
      content = files.parse_json(path.read_bytes())
      loaded = typed_json.convert(content, cls)
      if not loaded.steps:
        raise ValueError('no steps')
    except OSError:
      raise UserError(
        f'no {path}: {workdir} is not an evaluated run; evaluate it first: '
        f'`python launch.py --mode=eval --workdir={workdir}`'
      ) from None
    except ValueError as error:
      raise UserError(f'{path} is damaged: {error}; run --mode=eval') from error
    if loaded.window not in grayscale.WINDOWS:
      raise UserError(f'{path} names an unknown window: {loaded.window!r}')
    state = evaluation_seal.state(workdir, content, accept_edited=accept_edited)
    if state != evaluation_seal.SEALED:
      _logger.warning('%s: %s.', workdir, state)
    return dataclasses.replace(loaded, state=state)


class NetworkReader:
  """Reads the networks of a run; the last one read stays in memory.

  Args:
    workdir: the run.
    deployment: which networks; where it has `steps`, others are refused.
    mesh: the devices that get a copy of the weights.

  Attributes:
    steps: of each member that was read, see `Network`.

  Raises:
    UserError: see `Deployment.members`.
  """

  def __init__(
    self,
    workdir: str | os.PathLike[str],
    deployment: Deployment,
    mesh: jax.sharding.Mesh,
  ):
    self.steps: dict[Member, tuple[int, ...]] = {}
    self._workdir = workdir
    self._deployment = deployment
    self._mesh = mesh
    self._expected: dict[Member, tuple[int, ...]] = {}
    self._last: tuple[Member, Network] | None = None
    if deployment.steps:
      members = deployment.members(workdir)
      if len(members) != len(deployment.steps):
        raise _trained_since(workdir)
      self._expected = dict(zip(members, deployment.steps, strict=True))

  def ensemble(self, folds: Iterable[int] = ()) -> Ensemble:
    """The networks of some folds, or all; they are read when they are used.

    Raises:
      UserError: see `Deployment.members`.
    """
    return Ensemble(
      networks=_Networks(self, self._deployment.members(self._workdir, folds)),
      window=self._deployment.window,
      mesh=self._mesh,
      data=self._deployment.data,
      seal=self._deployment.state,
    )

  def network(self, member: Member) -> Network:
    """Reads a network.

    Raises:
      UserError: see `Network.load`; or it was trained since its evaluation.
    """
    if self._last is None or self._last[0] != member:
      self._last = None  # Freed before the next one takes memory.
      loaded = Network.load(
        member.workdir,
        member.fold,
        place=member.place,
        mesh=self._mesh,
        image_probability=self._deployment.image_probability,
        flip=self._deployment.flip,
        scales=self._deployment.scales,
      )
      if self._expected.get(member, loaded.steps) != loaded.steps:
        raise _trained_since(self._workdir)
      self.steps[member] = loaded.steps
      self._last = member, loaded
    return self._last[1]


class _Networks(Sequence[Network]):
  """Reads a network each time it is asked for."""

  def __init__(self, reader: NetworkReader, members: Sequence[Member]):
    self._reader = reader
    self._members = members

  def __len__(self):
    return len(self._members)

  def __getitem__(self, index):
    return self._reader.network(self._members[index])


def load(
  workdir: str | os.PathLike[str], *, accept_edited: bool = False
) -> Ensemble:
  """Reads the ensemble of an evaluated run, as it was evaluated.

  Args:
    workdir: the run.
    accept_edited: see `Deployment.load`.

  Raises:
    UserError: there is no run, or it was not evaluated as it is now.
  """
  deployed = Deployment.load(workdir, accept_edited=accept_edited)
  postprocess = Postprocess.load(
    _path(workdir).with_name(_RULES_NAME), accept_edited=accept_edited
  )
  lazy = NetworkReader(workdir, deployed, sharding.mesh()).ensemble()
  networks = list(lazy.networks)
  return dataclasses.replace(
    lazy,
    networks=networks,
    postprocess=postprocess,
    version=ensemble.version(networks),
  )


def _trained_since(workdir) -> UserError:
  return UserError(
    f'{workdir} was trained on since it was evaluated, so its rules and '
    'thresholds belong to other weights; evaluate it again: `python '
    f'launch.py --mode=eval --workdir={workdir}`'
  )


def _check_presence_heads(runs: Sequence[str]) -> None:
  """Raises UserError where the probabilities of two runs differ in kind."""
  trained = {run: network.presence_trained(run_files.load(run)) for run in runs}
  if len(set(trained.values())) > 1:
    with_head, without = (
      next(run for run in runs if trained[run] == wanted)
      for wanted in (True, False)
    )
    raise UserError(
      f'cannot ensemble {with_head} and {without}: the probability of a '
      'pneumothorax comes from the presence head of the first; that of the '
      'second was not trained (losses.presence=0), so its most probable pixel '
      'gives it'
    )


def _path(workdir):
  return pathlib.Path(workdir, 'eval', _NAME)
