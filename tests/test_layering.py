"""Imports run one way; TensorFlow stays in data_prep."""

import ast
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
# Each may import those before it.
FLOORS = [
  {'errors', 'pages'},
  {'cli'},
  {'pool'},
  {'formats'},
  {'draw'},
  {'case'},
  {'metrics', 'models', 'input'},
  {'training'},
  {'prediction'},
  {'evaluation', 'export', 'triage', 'inference'},
]
FLOOR = {name: i for i, floor in enumerate(FLOORS) for name in floor}


def imported(path):
  """Dotted names that a file imports anywhere in it."""
  for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f'{path}: relative import'
      yield node.module
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def sources(folder):
  return sorted((ROOT / folder).rglob('*.py'))


def test_imports_run_one_way():
  wrong = []
  for path in sources('pnx_jax'):
    relative = path.relative_to(ROOT / 'pnx_jax').with_suffix('').parts
    if relative == ('__init__',):
      continue
    here = FLOOR[relative[0]]
    for name in imported(path):
      parts = name.split('.')
      if parts[0] == 'data_prep' or parts[0] in ('launch', 'configs'):
        wrong.append((str(path), name))
      elif parts[0] == 'pnx_jax' and len(parts) > 1:
        other = FLOOR.get(parts[1])
        same_room = parts[1] == relative[0]
        if other is None or other > here or (other == here and not same_room):
          wrong.append((str(path), name))
  # The input pipeline, the networks and the metrics know nothing of each
  # other, whichever floor they share.
  assert not wrong


def test_data_prep_uses_formats_and_drawing_alone():
  allowed = {'cli', 'errors', 'pool', 'formats', 'draw', 'case'}
  for path in sources('data_prep'):
    for name in imported(path):
      parts = name.split('.')
      if parts[0] == 'pnx_jax' and len(parts) > 1:
        assert parts[1] in allowed, (str(path), name)


def test_tensorflow_is_imported_in_data_prep_alone():
  for path in [*sources('pnx_jax'), *sources('configs'), ROOT / 'launch.py']:
    assert not any(
      name.split('.')[0] == 'tensorflow' for name in imported(path)
    ), path


def test_mistyped_flags_end_every_command_alike():
  for path in [*sources('data_prep'), *sources('pnx_jax')]:
    _, *calls = path.read_text(encoding='utf-8').split('  app.run(')
    for call in calls:
      parser = call.replace('functools.partial(', '').split('flags_parser=')[1]
      assert parser.startswith('parse_flags'), path


def test_training_and_evaluation_load_without_tensorflow():
  code = (
    'import sys, pnx_jax.training.train, pnx_jax.evaluation.evaluate; '
    'sys.exit("tensorflow" in sys.modules)'
  )
  subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)
