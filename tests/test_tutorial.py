"""The tutorial: small in the repository, and run in a fresh environment."""

import json
import pathlib
import shutil
import subprocess
import sys

import nbformat
import pytest
from test_docs import check_flags

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOK = ROOT / 'docs' / 'tutorial.ipynb'
# What `git clone` brings that the tutorial needs.
CHECKOUT = ('configs', 'data_prep', 'docs', 'pnx_jax')
FILES = ('launch.py', 'setup.py', 'pyproject.toml', 'README.md', 'LICENSE')


@pytest.fixture(scope='module')
def notebook():
  found = nbformat.read(NOTEBOOK, as_version=4)
  nbformat.validate(found)
  return found


def test_it_is_small_and_no_cell_failed(notebook):
  assert NOTEBOOK.stat().st_size < 400_000
  for cell in notebook.cells:
    for output in cell.get('outputs', ()):
      assert output.output_type != 'error'


def test_its_commands_exist(notebook):
  commands = [
    cell.source.split('!{sys.executable} ')[1].replace('\\\n', ' ')
    for cell in notebook.cells
    if '!{sys.executable}' in cell.source
  ]
  assert len(commands) >= 6
  for command in commands:
    check_flags(command.splitlines()[0])


@pytest.mark.slow
def test_it_runs_in_a_fresh_environment(tmp_path):
  for name in CHECKOUT:
    shutil.copytree(ROOT / name, tmp_path / name)
  for name in FILES:
    shutil.copy(ROOT / name, tmp_path)
  python = tmp_path / '.venv' / 'bin' / 'python'
  for command in (
    [sys.executable, '-m', 'venv', tmp_path / '.venv'],
    [python, '-m', 'pip', 'install', '--quiet', '--editable', '.[prep]'],
    [python, '-m', 'pip', 'install', '--quiet', 'nbclient', 'ipykernel'],
    [python.with_name('jupyter-execute'), 'docs/tutorial.ipynb', '--inplace'],
  ):
    subprocess.run(command, check=True, cwd=tmp_path)
  metrics = json.loads(
    (tmp_path / 'runs' / 'tutorial' / 'eval' / 'metrics.json').read_text()
  )
  assert metrics['dice'] > metrics['all_empty_dice'] + 0.1
