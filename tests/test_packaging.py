"""What pip installs: names, data files, and every package that is imported."""

import ast
import collections
import email
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parent.parent
OWN = {'pnx_jax', 'data_prep', 'configs', 'benchmarks', 'launch'}
# Where a package on PyPI and the module it brings differ in more than "_".
DISTRIBUTION = {
  'PIL': 'pillow',
  'absl': 'absl-py',
  'cv2': 'opencv-python-headless',
  'jpeg_ls': 'pyjpegls',
  'openjpeg': 'pylibjpeg-openjpeg',
  'orbax': 'orbax-checkpoint',
  'sklearn': 'scikit-learn',
  'tensorflow': 'tensorflow-cpu',
  'yaml': 'pyyaml',
}
# Required although no line of ours imports it.
NOT_IMPORTED = {
  'flatbuffers': 'jax.export',
  'importlib-resources': 'tensorflow-datasets',
  'pylibjpeg': 'pydicom, as a decoder',
  'python-gdcm': 'pydicom, as a decoder',
  'tensorboard': 'the command',
}


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """The wheel of this checkout, built without the network."""
  source = tmp_path_factory.mktemp('source')
  for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE'):
    shutil.copy(ROOT / name, source)
  for name in ('pnx_jax', 'data_prep', 'configs', 'tests'):
    shutil.copytree(ROOT / name, source / name)
  command = [sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps']
  command += ['--no-build-isolation', f'--wheel-dir={source}/wheel', '.']
  subprocess.run(command, check=True, cwd=source)
  (path,) = (source / 'wheel').glob('*.whl')
  with zipfile.ZipFile(path) as opened:
    yield opened


@pytest.fixture(scope='module')
def metadata(wheel):
  (name,) = (n for n in wheel.namelist() if n.endswith('/METADATA'))
  return email.message_from_bytes(wheel.read(name))


@pytest.fixture(scope='module')
def required(metadata):
  """Requirements by extra and name; extra '' is what is always installed."""
  found = collections.defaultdict(dict)
  for line in metadata.get_all('Requires-Dist'):
    requirement = Requirement(line)
    _, _, extra = str(requirement.marker or '').partition('extra == ')
    name = canonicalize_name(requirement.name)
    found[extra.strip('"')][name] = requirement
  return found


def _imports(path):
  """(package on PyPI, whether it is imported with the module) of a file."""
  tree = ast.parse(path.read_text(encoding='utf-8'))
  for node in ast.walk(tree):
    names = []
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      names = [node.module]
    for name in names:
      top = name.split('.')[0]
      if top not in sys.stdlib_module_names and top not in OWN:
        package = canonicalize_name(DISTRIBUTION.get(top, top))
        yield package, node in tree.body


def _sources(*names):
  for name in names:
    path = ROOT / name
    yield from sorted(path.rglob('*.py')) if path.is_dir() else [path]


def test_it_puts_two_names_on_the_path(wheel):
  names = {name.split('/')[0] for name in wheel.namelist()}
  assert {n for n in names if not n.endswith('.dist-info')} == {
    'pnx_jax',
    'data_prep',
  }


def test_templates_and_type_marker_are_in_it(wheel):
  packed = set(wheel.namelist())
  assert 'pnx_jax/py.typed' in packed
  for path in _sources('pnx_jax', 'data_prep'):
    assert str(path.relative_to(ROOT)) in packed
  for path in (ROOT / 'pnx_jax' / 'pages' / 'templates').iterdir():
    assert str(path.relative_to(ROOT)) in packed


def test_what_a_module_imports_is_declared(required):
  optional = {
    name
    for extra, names in required.items()
    if extra != 'test'
    for name in names
  }
  for path in _sources('pnx_jax', 'data_prep', 'configs', 'launch.py'):
    for package, with_module in _imports(path):
      # Extras may be missing, so pnx_jax imports them where it needs them.
      always = with_module and 'pnx_jax' in path.parts
      names = required[''] if always else optional
      assert package in names, f'{path} imports {package}'


def test_what_the_tests_import_is_declared(required):
  helpers = {canonicalize_name(path.stem) for path in _sources('tests')}
  names = required[''].keys() | required['test'].keys()
  names |= required['prep'].keys() | required['beam'].keys()
  for path in _sources('tests'):
    for package, _ in _imports(path):
      assert package in names or package in helpers, f'{path}: {package}'


def test_what_is_declared_is_imported(required):
  imported = {
    package
    for path in _sources('pnx_jax', 'data_prep', 'configs', 'launch.py')
    for package, _ in _imports(path)
  }
  assert required[''].keys() - imported == NOT_IMPORTED.keys()


def test_cuda_means_cuda_13(required):
  for extra, version in (('cuda', '13'), ('cuda13', '13'), ('cuda12', '12')):
    assert required[extra]['jax'].extras == {f'cuda{version}'}


def test_the_next_major_release_of_orbax_is_not_installed(required):
  specifier = required['']['orbax-checkpoint'].specifier
  assert '0.99' in specifier and '1.0' not in specifier
