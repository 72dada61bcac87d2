"""Imports run one way; TensorFlow stays in data_prep."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
# Each may import those before it; those of one layer do not import each other.
LAYERS = [
  {'errors', 'pages'},
  {'strides'},
  {'config', 'storage'},
  {'cli'},
  {'pool'},
  {'film_flags', 'publish'},
  {'formats'},
  {'draw'},
  {'case'},
  {'metrics', 'models', 'input'},
  {'training'},
  {'prediction'},
  {'evaluation', 'export', 'triage', 'inference'},
]
LAYER = {name: i for i, layer in enumerate(LAYERS) for name in layer}
# Of the metrics only what is numpy alone: quartiles and curves.
BELOW_DATA_PREP = {
  *('cli', 'errors', 'pool', 'film_flags', 'storage'),
  *('formats', 'draw', 'case', 'metrics'),
}
OWN = ('pnx_jax', 'data_prep', 'configs', 'benchmarks', 'launch')
DOTTED = re.compile(r'\w+(\.\w+)*')


def imported(source):
  """Dotted names that a file imports, in whatever way.

  Yields what import statements name anywhere in the file, what it takes as an
  attribute of the package (`pnx_jax.load`), and strings that are the name of
  one of our modules, which `import_module` or `python -m` may be given.
  """
  tree = ast.parse(source)
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, 'relative import'
      yield from (f'{node.module}.{alias.name}' for alias in node.names)
    elif isinstance(node, ast.Attribute):
      if isinstance(node.value, ast.Name) and node.value.id == 'pnx_jax':
        yield f'pnx_jax.{node.attr}'
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
      first, *rest = node.value.split('.')
      if first in OWN and rest and DOTTED.fullmatch(node.value):
        yield node.value.rstrip('.')
    elif isinstance(node, ast.JoinedStr):
      first = node.values[0]
      text = first.value if isinstance(first, ast.Constant) else ''
      # A module whose name is computed: nobody can tell which.
      if any(re.fullmatch(rf'{name}\.[\w.]*', text) for name in OWN):
        yield text + '?'


def not_below(source, package):
  """The modules of ours that a file imports although they are not below it.

  Args:
    source: text of the file.
    package: name of the module or package in pnx_jax that holds the file.

  Returns:
    Sorted dotted names.
  """
  wrong = set()
  for name in imported(source):
    top, _, rest = name.partition('.')
    if top == 'pnx_jax':
      other = rest.split('.')[0]
      # `import pnx_jax` itself is caught where an attribute of it is used.
      below = not other or LAYER.get(other, len(LAYERS)) < LAYER[package]
      if not (below or other == package):
        wrong.add(name)
    elif top in OWN:
      wrong.add(name)
  return sorted(wrong)


def sources(*names):
  """(path, text) of the Python files in folders or of single files."""
  for name in names:
    path = ROOT / name
    for file in sorted(path.rglob('*.py')) if path.is_dir() else [path]:
      yield file, file.read_text(encoding='utf-8')


def test_the_documentation_shows_these_layers():
  page = (ROOT / 'docs' / 'architecture.md').read_text(encoding='utf-8')
  table = page.split('pnx_jax/__init__ ')[1].split('```')[0]
  rows = [line.split('  ')[0].split() for line in table.splitlines()[1:]]
  assert [set(row) for row in reversed(rows)] == LAYERS


def test_nothing_imports_upward():
  for path, source in sources('pnx_jax'):
    package = path.relative_to(ROOT / 'pnx_jax').with_suffix('').parts[0]
    if package != '__init__':
      assert package in LAYER, f'{path} has no layer'
      assert not_below(source, package) == [], path


@pytest.mark.parametrize(
  'source, found',
  [
    ('import pnx_jax.training.train', 'pnx_jax.training.train'),
    ('from pnx_jax import training', 'pnx_jax.training'),
    ('from pnx_jax import load', 'pnx_jax.load'),
    ('def f():\n  from pnx_jax.export import card', 'pnx_jax.export.card'),
    ('import pnx_jax\ndef f(x): return pnx_jax.load(x)', 'pnx_jax.load'),
    ('import_module("pnx_jax.training.train")', 'pnx_jax.training.train'),
    ('run(["-m", "pnx_jax.training"])', 'pnx_jax.training'),
    ('import_module(f"pnx_jax.{name}")', 'pnx_jax.?'),
    ('from pnx_jax.input import pipeline', 'pnx_jax.input.pipeline'),
    ('import data_prep', 'data_prep'),
    ('import_module("configs.default")', 'configs.default'),
  ],
)
def test_every_way_upwards_is_seen(source, found):
  assert not_below(source, 'models') == [found]


def test_the_way_down_is_free():
  source = (
    '"""See pnx_jax.training."""\n'
    'from pnx_jax import errors\n'
    'from pnx_jax.formats import rle\n'
    'from pnx_jax.models.layers import norm\n'
    'NAME = "pnx_jax.models"\n'
    'HINT = "run python -m pnx_jax.evaluation.submission"\n'
  )
  assert not_below(source, 'models') == []


def test_data_prep_imports_only_what_lies_below_it():
  for path, source in sources('data_prep'):
    for name in imported(source):
      top, _, rest = name.partition('.')
      assert top not in ('configs', 'launch', 'benchmarks'), path
      if top == 'pnx_jax' and rest:
        assert rest.split('.')[0] in BELOW_DATA_PREP, (path, name)


def test_recipes_import_the_schema_alone():
  for path, source in sources('configs'):
    for name in imported(source):
      top, _, rest = name.partition('.')
      assert top not in ('data_prep', 'launch', 'benchmarks'), path
      if top == 'pnx_jax':
        assert rest.split('.')[0] in ('config', 'errors'), (path, name)


def test_tensorflow_is_imported_in_data_prep_alone():
  for path, source in sources('pnx_jax', 'configs', 'launch.py'):
    tops = {name.split('.')[0] for name in imported(source)}
    assert 'tensorflow' not in tops, path


def test_mistyped_flags_end_every_command_alike():
  for path, source in sources('data_prep', 'pnx_jax'):
    _, *calls = source.split('  app.run(')
    for call in calls:
      parser = call.replace('functools.partial(', '').split('flags_parser=')[1]
      assert parser.lstrip().startswith('parse_flags'), path


def test_training_and_evaluation_load_without_tensorflow():
  code = (
    'import sys, pnx_jax.training.train, pnx_jax.evaluation.evaluate; '
    'sys.exit("tensorflow" in sys.modules)'
  )
  subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


def test_the_package_loads_without_jax():
  code = 'import sys, pnx_jax; sys.exit("jax" in sys.modules)'
  subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)
