"""Commands that are killed at random moments, compared with undisturbed ones.

  python -m benchmarks.kills --seed=0 --command=train --num_kills=20

starts a command, kills it with SIGKILL, runs the same command again and
compares all that it leaves with what an undisturbed run leaves, bit for bit.
Half of the moments lie anywhere in the command's duration, half where it
writes its results. Directly after a kill nothing may be half done: what is
under its final name is the old or the new.

Each command runs in a fork of this process, which has imported everything, so
that the moments fall into the work and not into imports. Films, networks and
durations are tiny.

Not compared: event files of TensorBoard and the metadata that Orbax writes,
which hold times; the order of the lines of readings.jsonl, in which films were
done.
"""

import hashlib
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from absl import app, flags, logging

from pnx_jax.cli import parse_flags
from tests import command_server, small_run

_SEED = flags.DEFINE_integer('seed', 0, 'Of the moments.')
_NUM_KILLS = flags.DEFINE_integer('num_kills', 20, 'Of each command.')
_COMMANDS = flags.DEFINE_list(
  'command',
  ['train', 'build', 'predict', 'folds', 'eval'],
  'Which commands.',
)
_FOLDER = flags.DEFINE_string(
  'folder', '', 'Keeps films, runs and logs; a temporary folder otherwise.'
)

_POLL_SECONDS = 0.002
_EVALUATION = {'eval.bootstrap': 50, 'eval.num_overlays': 2}
# A file of somebody else in the folder of an evaluation.
_FOREIGN = {'notes.txt': 'mine', 'sub/notes.txt': 'mine, too'}

# Paths relative to a folder, and a digest of what each holds.
State = dict[str, str]


class Command:
  """A command that can be killed.

  Args:
    words: After `python`.
    output: The folder that it writes.
    start: What `output` is copied from before each run, if anything.
    state: What of the output is compared.
    writing: Patterns relative to the folder of `output`; the first file that
      matches one shows that results are being written.
    whole: Says what is wrong with the output directly after a kill, or ''.
  """

  def __init__(
    self,
    words: Sequence[str],
    output: pathlib.Path,
    *,
    state: Callable[[pathlib.Path], State],
    start: pathlib.Path | None = None,
    writing: Sequence[str] = (),
    whole: Callable[[pathlib.Path], str] = lambda _: '',
  ):
    self.words = words
    self.output = output
    self.state = state
    self.whole = whole
    self._start = start
    self._writing = writing

  def reset(self) -> None:
    """Makes everything as it was before the first run."""
    folder = self.output.parent
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if self._start is not None:
      shutil.copytree(self._start, self.output, copy_function=shutil.copy2)

  def is_writing(self) -> bool:
    """Whether the results are being written."""
    folder = self.output.parent
    return any(
      next(folder.glob(pattern), None) is not None for pattern in self._writing
    )


def start(words: Sequence[str], log: pathlib.Path) -> int:
  """Runs a command in a fork; returns its process id."""
  child = os.fork()
  if not child:
    os.setpgid(0, 0)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    status = 1
    try:
      command_server.run(list(words))
      status = 0
    except SystemExit as end:
      status = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
      import traceback

      traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  return child


def undisturbed(command: Command, log: pathlib.Path) -> tuple[float, float]:
  """Runs a command to its end.

  Returns:
    Its duration in seconds, and when it began to write results.
  """
  began = time.monotonic()
  writing = None
  child = start(command.words, log)
  while True:
    if writing is None and command.is_writing():
      writing = time.monotonic() - began
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
      break
    time.sleep(_POLL_SECONDS)
  if status:
    raise SystemExit(f'{command.words} failed: see {log}')
  duration = time.monotonic() - began
  return duration, duration if writing is None else writing


def killed(
  command: Command,
  log: pathlib.Path,
  *,
  moment: float,
  while_writing: bool,
) -> bool:
  """Starts a command and kills it; returns whether it was still running.

  Args:
    command: Which.
    log: Where its output goes.
    moment: Seconds after its start, or after the first file of its results.
    while_writing: Which of the two.
  """
  child = start(command.words, log)
  began = time.monotonic()
  while while_writing and not command.is_writing():
    if os.waitpid(child, os.WNOHANG)[0]:
      return False
    time.sleep(_POLL_SECONDS)
    began = time.monotonic()
  left = began + moment - time.monotonic()
  if left > 0:
    time.sleep(left)
  os.kill(child, signal.SIGKILL)
  _, status = os.waitpid(child, 0)
  return os.WIFSIGNALED(status)


def attack(
  name: str, command: Command, folder: pathlib.Path, number: int, seed: int
) -> dict[str, object]:
  """Kills a command at random moments; returns a row of the table."""
  log = folder / f'{name}.log'
  command.reset()
  undisturbed(command, log)  # Programs are compiled and kept.
  command.reset()
  duration, writing = undisturbed(command, log)
  expected = command.state(command.output)
  rng = np.random.default_rng((seed, *name.encode()))
  moments, different, halves = [], [], []
  attempts = 0
  while len(moments) < number:
    attempts += 1
    if attempts > 3 * number:
      raise SystemExit(f'{name} ends before it can be killed')
    command.reset()
    while_writing = writing < duration and len(moments) % 2 == 1
    length = duration - writing if while_writing else duration
    moment = float(rng.uniform(0, length))
    if not killed(command, log, moment=moment, while_writing=while_writing):
      continue
    moments.append(round(moment, 3))
    half = command.whole(command.output)
    undisturbed(command, log)
    found = command.state(command.output)
    if half:
      halves.append(half)
    if found != expected:
      different.append(_difference(expected, found))
    print(
      f'{name} {len(moments)}: after {moment:.3f} s'
      f'{" of writing" if while_writing else ""}'
      f'{f", half done: {half}" if half else ""}'
      f'{f", DIFFERENT: {different[-1]}" if found != expected else ""}',
      flush=True,
    )
  return {
    'command': name,
    'seconds': round(duration, 2),
    'seconds of writing': round(duration - writing, 2),
    'kills': len(moments),
    'files compared': len(expected),
    'half done': halves,
    'different': different,
  }


def files_of(folder: pathlib.Path, *, leave_out: Sequence[str] = ()) -> State:
  """Returns the digest of each file below, but of those of some names."""
  return {
    str(path.relative_to(folder)): _digest(path.read_bytes())
    for path in sorted(folder.rglob('*'))
    if path.is_file() and not any(part in leave_out for part in path.parts)
  }


def run_state(workdir: pathlib.Path) -> State:
  """Returns what training leaves: arrays of all checkpoints, records."""
  found = {
    str(path.relative_to(workdir)): _digest(path.read_bytes())
    for pattern in (
      'config.json',
      'fold*/trained_on.json',
      'fold*/checkpoints/*/checksums/metadata',
      'fold*/checkpoints/*/metrics/metrics',
    )
    for path in workdir.glob(pattern)
  }
  for step in sorted(workdir.glob('fold*/checkpoints/*')):
    found[f'{step.relative_to(workdir)}/'] = 'there'
  return found | _in_fork(lambda: _arrays(workdir))


def output_state(output: pathlib.Path) -> State:
  """Returns what a prediction leaves; the readings as a set."""
  found = files_of(output, leave_out=('readings.jsonl',))
  lines = (output / 'readings.jsonl').read_bytes().splitlines()
  last = {json.loads(line)['name']: line for line in lines}
  return found | {
    f'readings.jsonl: {name}': _digest(line) for name, line in last.items()
  }


def evaluation_state(workdir: pathlib.Path) -> State:
  """Returns all files of an evaluation, those of others among them."""
  state = files_of(workdir / 'eval')
  missing = _FOREIGN.keys() - state.keys()
  if missing:
    raise SystemExit(f'lost: {missing}')
  return state | {
    f'beside: {path.name}': ''
    for path in workdir.glob('.eval.*')
    if path.name != '.eval.lock'
  }


def commands(folder: pathlib.Path) -> Mapping[str, Command]:
  """Makes films, a dataset and runs; returns the commands to be killed."""
  log = folder / 'preparation.log'
  films, data = folder / 'films', folder / 'data'

  def prepared(words: Sequence[str]) -> None:
    _, status = os.waitpid(start(words, log), 0)
    if status:
      raise SystemExit(f'{words} failed: see {log}')

  build = [
    *('-m', 'data_prep.build', f'--dicom_dir={films}/dicom-images-train'),
    f'--rle_csv={films}/train-rle.csv',
    f'--test_dicom_dir={films}/dicom-images-test',
    f'--patient_map={films}/nih_id.csv',
    f'--patient_key={folder}/patient_key',
    *('--image_size=32', '--num_folds=3', '--num_workers=2'),
  ]
  run, evaluated = folder / 'run', folder / 'evaluated'

  def launched(workdir: pathlib.Path, *words: str, **changes: object):
    fields = small_run.flags(str(data), **_EVALUATION, **changes)
    return ['launch.py', *fields, f'--workdir={workdir}', *words]

  if not data.exists():
    prepared(
      [
        *('-m', 'data_prep.phantom', f'--output_dir={films}'),
        *('--num_images=60', '--num_test_images=3', '--prevalence=0.4'),
        '--image_size=128',
      ]
    )
    prepared([*build, f'--output_dir={data}'])
    prepared(launched(run))
    shutil.copytree(run, evaluated)
    # Another evaluation, so that the old and the new can be told apart.
    smaller = {**_EVALUATION, 'eval.bootstrap': 20}
    words = small_run.flags(str(data), **smaller)
    prepared(['launch.py', *words, f'--workdir={evaluated}', '--mode=eval'])
    for name, text in _FOREIGN.items():
      path = evaluated / 'eval' / name
      path.parent.mkdir(exist_ok=True)
      path.write_text(text)

  before = evaluation_state(evaluated)
  places = {
    name: folder / f'{name}_killed' / 'output'
    for name in ('train', 'build', 'predict', 'folds', 'eval')
  }
  after: State = {}

  def evaluation_is_whole(workdir: pathlib.Path) -> str:
    if not (workdir / 'eval').is_dir():
      return 'no eval/'
    now = files_of(workdir / 'eval')
    if now in (before, after):
      return ''
    return _difference(before, now)

  def new_evaluation(workdir: pathlib.Path) -> State:
    found = evaluation_state(workdir)
    after.update(found)
    return found

  def dataset_is_whole(output: pathlib.Path) -> str:
    if not output.exists():
      return ''
    now, all_of_it = files_of(output), files_of(data)
    return '' if now == all_of_it else _difference(all_of_it, now)

  return {
    'train': Command(
      launched(places['train'], '--config.total_steps=12'),
      places['train'],
      state=run_state,
      writing=['output/fold0/checkpoints/*'],
    ),
    'build': Command(
      [*build, f'--output_dir={places["build"]}'],
      places['build'],
      state=files_of,
      writing=['.output.building/*.index'],
      whole=dataset_is_whole,
    ),
    'predict': Command(
      [
        *('launch.py', '--mode=predict', f'--workdir={evaluated}'),
        f'--input={films}/dicom-images-train',
        *(f'--output_dir={places["predict"]}', '--dicom_seg'),
      ],
      places['predict'],
      state=output_state,
      writing=['output/pictures/*'],
    ),
    'folds': Command(
      launched(places['folds'], '--mode=folds', total_steps=3),
      places['folds'],
      state=run_state,
      writing=['output/fold0/checkpoints/*'],
    ),
    'eval': Command(
      launched(places['eval'], '--mode=eval'),
      places['eval'],
      state=new_evaluation,
      start=evaluated,
      writing=['output/.eval.partial'],
      whole=evaluation_is_whole,
    ),
  }


def _arrays(workdir: pathlib.Path) -> State:
  """Returns the digest of each array of each checkpoint, as Orbax reads it."""
  import jax
  import orbax.checkpoint as ocp

  found = {}
  for item in sorted(workdir.glob('fold*/checkpoints/[0-9]*/*')):
    if item.name not in ('variables', 'ema', 'training'):
      continue
    tree = ocp.StandardCheckpointer().restore(item)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      name = f'{item.relative_to(workdir)}{jax.tree_util.keystr(path)}'
      found[name] = _digest(np.asarray(leaf).tobytes())
  return found


def _in_fork(function: Callable[[], State]) -> State:
  """Calls a function in a fork: JAX that was used cannot be forked again."""
  reading, writing = os.pipe()
  child = os.fork()
  if not child:
    status = 1
    try:
      with open(writing, 'w') as file:
        json.dump(function(), file)
      status = 0
    except BaseException:
      import traceback

      traceback.print_exc()
    os._exit(status)
  os.close(writing)
  with open(reading) as file:
    content = file.read()
  _, status = os.waitpid(child, 0)
  if status:
    raise SystemExit('the checkpoints cannot be read')
  return json.loads(content)


def _difference(expected: State, found: State) -> str:
  names = sorted(
    name
    for name in expected.keys() | found.keys()
    if expected.get(name) != found.get(name)
  )
  return f'{len(names)} differ: {", ".join(names[:5])}'


def _digest(content: bytes) -> str:
  return hashlib.sha256(content).hexdigest()


def main(argv: Sequence[str]) -> None:
  del argv
  logging.set_verbosity(logging.WARNING)  # Orbax tells each step.
  defined = _SEED, _NUM_KILLS, _COMMANDS, _FOLDER
  seed, number, names, kept = (flag.value for flag in defined)
  for flag in defined:  # The commands define flags of the same names.
    delattr(flags.FLAGS, flag.name)
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(kept or temporary).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    made = commands(folder)
    for name in names:
      row = attack(name, made[name], folder, number, seed)
      print(json.dumps(row), flush=True)


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)
