"""A SLURM cluster on the loopback interface, for the tests of docs/cluster/.

Its daemons run in the foreground as children of this process, with their own
configuration, key and socket in one folder, and end with it. Debian's packages
are slurmctld, slurmd, slurm-client and munge.
"""

import contextlib
import getpass
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

PROGRAMS = ('munged', 'slurmctld', 'slurmd', 'sbatch', 'scontrol', 'scancel')
# The environment of the tests, as if it were active, and where Debian puts
# daemons, which is not on every user's path.
_PATH = os.pathsep.join(
  [
    str(pathlib.Path(sys.executable).absolute().parent),
    os.environ['PATH'],
    '/usr/sbin',
    '/sbin',
  ]
)
_HOST = socket.gethostname().partition('.')[0]
# JAX resolves a job's first node by name. SLURM takes localhost for another
# name of this host, which more than one node cannot have.
_NODES = {1: ['localhost'], 2: [_HOST, f'{_HOST}-2']}


def missing() -> list[str]:
  """The programs of a cluster that are not installed here."""
  return [each for each in PROGRAMS if not shutil.which(each, path=_PATH)]


class Cluster:
  """Commands of a running cluster.

  Attributes:
    environment: Variables of a process that submits jobs.
  """

  def __init__(self, folder: pathlib.Path, environment: dict[str, str]):
    self._folder = folder
    self.environment = environment

  def run(self, *command: str) -> str:
    """Runs a command of the cluster and returns what it prints."""
    return subprocess.run(
      command,
      env=self.environment,
      check=True,
      capture_output=True,
      text=True,
    ).stdout

  def submit(self, *arguments: str, cwd: pathlib.Path) -> str:
    """Submits a batch job from the folder `cwd` and returns its number."""
    return subprocess.run(
      ['sbatch', '--parsable', *arguments],
      cwd=cwd,
      env=self.environment,
      check=True,
      stdout=subprocess.PIPE,
      text=True,
    ).stdout.strip()

  def job(self, number: str) -> list[dict[str, str]]:
    """What the controller knows of a job, one entry per task of an array."""
    lines = self.run('scontrol', '--oneliner', 'show', 'job', number)
    return [
      dict(word.partition('=')[::2] for word in line.split() if '=' in word)
      for line in lines.splitlines()
      if line
    ]

  def wait(
    self, number: str, *, states: Sequence[str] = ('COMPLETED',), seconds: float
  ) -> list[dict[str, str]]:
    """Waits until every task of a job is in one of the states.

    Raises:
      TimeoutError: They are not after `seconds`; with the daemons' logs.
    """
    end = time.monotonic() + seconds
    while True:
      tasks = self.job(number)
      found = {task['JobState'] for task in tasks}
      if found <= set(states):
        return tasks
      if found & {'FAILED', 'CANCELLED', 'TIMEOUT', 'NODE_FAIL'}:
        raise AssertionError(f'job {number} is {found}')
      if time.monotonic() > end:
        raise TimeoutError(f'job {number} is {found}\n{self._logs()}')
      time.sleep(0.3)

  def _logs(self) -> str:
    return '\n'.join(
      f'{path.name}: {path.read_text()[-2000:]}'
      for path in sorted(self._folder.glob('*.log'))
    )


@contextlib.contextmanager
def started(folder: pathlib.Path, *, nodes: int = 1) -> Iterator[Cluster]:
  """Starts a cluster, yields it once its nodes are idle, and stops it.

  Args:
    folder: An empty folder with a short path, for sockets.
    nodes: How many nodes, each a slurmd on this machine.
  """
  key = folder / 'munge.key'
  key.write_bytes(os.urandom(128))
  key.chmod(0o600)
  folder.chmod(0o755)
  configuration = folder / 'slurm.conf'
  configuration.write_text(_configuration(folder, _NODES[nodes]))
  environment = {
    **os.environ,
    'PATH': _PATH,
    'SLURM_CONF': str(configuration),
  }
  munge = folder / 'munge'
  munge.mkdir(mode=0o755)
  daemons = [
    [
      *('munged', '--foreground', '--force', f'--key-file={key}'),
      *(f'--socket={munge}/socket', f'--pid-file={munge}/pid'),
      *(f'--seed-file={munge}/seed', f'--log-file={folder}/munged.log'),
    ],
    ['slurmctld', '-D', '-i'],
    *(['slurmd', '-D', '-N', node] for node in _NODES[nodes]),
  ]
  with contextlib.ExitStack() as stack:
    for daemon in daemons:
      with open(folder / f'{daemon[0]}.out', 'a') as output:
        process = subprocess.Popen(
          daemon, env=environment, stdout=output, stderr=output
        )
      stack.callback(_stop, process)
      if daemon[0] == 'munged':
        wait_until((munge / 'socket').exists)
    cluster = Cluster(folder, environment)
    wait_until(lambda: _idle(cluster) == nodes)
    try:
      yield cluster
    finally:
      cluster.run('scancel', '--full', f'--user={getpass.getuser()}')
      wait_until(lambda: not cluster.run('squeue', '--noheader'))


def _configuration(folder: pathlib.Path, nodes: Sequence[str]) -> str:
  lines = [
    'ClusterName=tests',
    f'SlurmctldHost={_HOST}(127.0.0.1)',
    f'SlurmctldPort={_free_port()}',
    f'SlurmUser={getpass.getuser()}',
    f'SlurmdUser={getpass.getuser()}',
    # Otherwise the daemons listen on every address of the machine.
    'CommunicationParameters=NoCtldInAddrAny,NoInAddrAny',
    # Otherwise a requeued job waits two minutes.
    f'AuthInfo=socket={folder}/munge/socket,cred_expire=5',
    # No systemd, no cgroups.
    'ProctrackType=proctrack/pgid',
    'TaskPlugin=task/none',
    'JobAcctGatherType=jobacct_gather/none',
    'MpiDefault=none',
    'ReturnToService=2',
    'SlurmdParameters=config_overrides',
    'SelectType=select/cons_tres',
    'SelectTypeParameters=CR_CPU',
    'SchedulerParameters=sched_min_interval=100000',
    f'StateSaveLocation={folder}/state',
    f'SlurmdSpoolDir={folder}/spool-%n',
    f'SlurmctldPidFile={folder}/slurmctld.pid',
    f'SlurmdPidFile={folder}/slurmd-%n.pid',
    f'SlurmctldLogFile={folder}/slurmctld.log',
    f'SlurmdLogFile={folder}/slurmd-%n.log',
    *(
      f'NodeName={node} NodeAddr=127.0.0.1 Port={_free_port()} CPUs=2'
      for node in nodes
    ),
    f'PartitionName=tests Nodes={",".join(nodes)} Default=YES',
  ]
  (folder / 'state').mkdir()
  return '\n'.join(lines) + '\n'


def _free_port() -> int:
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]


def _idle(cluster: Cluster) -> int:
  """How many nodes are idle; 0 where the controller does not answer yet."""
  try:
    return cluster.run('sinfo', '-h', '-N', '-o', '%t').split().count('idle')
  except subprocess.CalledProcessError:
    return 0


def wait_until(condition: Callable[[], bool], *, seconds: float = 30) -> None:
  """Waits until the condition holds.

  Raises:
    TimeoutError: It does not after that time.
  """
  end = time.monotonic() + seconds
  while not condition():
    if time.monotonic() > end:
      raise TimeoutError(f'not after {seconds} s')
    time.sleep(0.2)


def _stop(process: subprocess.Popen) -> None:
  process.terminate()
  try:
    process.wait(timeout=10)
  except subprocess.TimeoutExpired:
    process.kill()
    process.wait()
