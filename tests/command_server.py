"""Runs Python commands in forks of one process that has imported everything.

A command that is started on its own spends two of its three seconds on
importing JAX and what stands on it. For each line of JSON on standard input,
the words of a command after `python`, one line with its exit status is
printed. The command's own output goes to the file that is the only argument.

JAX may be imported before a fork; it is used only afterwards.
"""

import importlib
import importlib.util
import json
import os
import sys
import traceback
import types

for _name in (
  'pnx_jax.training.train',
  'pnx_jax.evaluation.evaluate',
  'pnx_jax.inference.predict',
):
  importlib.import_module(_name)


def run(words: list[str]) -> None:
  """Does what `python WORDS` does, up to the end of the process."""
  main = types.ModuleType('__main__')
  if words[0] == '-m':
    _, name, *arguments = words
    main.__spec__ = importlib.util.find_spec(name)
    if main.__spec__.submodule_search_locations is not None:
      main.__spec__ = importlib.util.find_spec(f'{name}.__main__')
    path = main.__spec__.origin
  else:
    path, *arguments = words
    sys.path.insert(0, os.path.dirname(os.path.realpath(path)))
  main.__file__ = path
  # Worker processes look up there what they are given and give back; both
  # names are multiprocessing's.
  sys.modules['__main__'] = sys.modules['__mp_main__'] = main
  sys.argv = [path, *arguments]
  with open(path, encoding='utf-8') as file:
    exec(compile(file.read(), path, 'exec'), main.__dict__)


def status_of(words: list[str], output: str) -> int:
  """Runs a command in a fork and returns its exit status."""
  child = os.fork()
  if not child:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    status = 0
    try:
      run(words)
    except SystemExit as end:
      status = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
      traceback.print_exc()
      status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == '__main__':
  for line in sys.stdin:
    print(status_of(json.loads(line), sys.argv[1]), flush=True)
