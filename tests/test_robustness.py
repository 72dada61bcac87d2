"""Each promise of docs/robustness.md names tests that exist."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent


def promises():
  """Yields each promise with the files and tests that its row names."""
  text = (ROOT / 'docs' / 'robustness.md').read_text()
  for line in text.splitlines():
    cells = [cell.strip() for cell in line.strip('|').split('|')]
    if not line.startswith('| ') or cells[0] == 'promise':
      continue
    promise, tests = cells
    named = []
    for name in re.findall('`([^`]+)`', tests):
      file, _, test = name.partition('::')
      file = file or named[-1][0]
      named.append((file, test))
    yield promise, named


def functions(file):
  path = ROOT / file if '/' in file else ROOT / 'tests' / file
  nodes = ast.walk(ast.parse(path.read_text()))
  return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


def test_every_promise_has_tests_that_exist():
  found = dict(promises())
  assert len(found) > 25
  for promise, named in found.items():
    assert named, promise
    for file, test in named:
      assert not test or test in functions(file), f'{file}::{test}'


def test_damaged_films_depend_on_their_number_alone():
  """The benchmark's originals hold nothing that is drawn for each process."""
  from benchmarks import damaged_films

  assert damaged_films.originals() == damaged_films.originals()
