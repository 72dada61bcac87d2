"""README and docs: every command and Python block runs, every link leads.

Commands run as they are printed, in a folder that holds what the pages speak
of, with flags added that make data and networks small. The commands of the
README run first and leave the dataset and the run that the other pages use.
"""

import dataclasses
import functools
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import cv2
import ml_collections
import numpy as np
import pytest
import small_run

from configs import default
from pnx_jax.formats import files, rle

ROOT = pathlib.Path(__file__).parent.parent
README = ROOT / 'README.md'
PAGES = sorted((ROOT / 'docs').rglob('*.md'))
ALL_PAGES = [
  README,
  *PAGES,
  *(ROOT / name for name in ('CONTRIBUTING.md', 'CHANGELOG.md')),
  ROOT / 'benchmarks' / 'RESULTS.md',
]
FENCE = re.compile(r'^```(\w*)\n(.*?)^```$', re.MULTILINE | re.DOTALL)
LINK = re.compile(r'\]\(([^)\s]+)\)')

# What makes a command small. Of flags given twice the last one counts.
# Trainings that differ in nothing else share a compiled program.
_TRAINING = (
  *('image_size=32', 'batch_size=2', 'total_steps=1', 'log_steps=1'),
  *('model.width=4', 'model.depth=2', 'read_threads=2', 'checkpoint_steps=1'),
  *('eval.batch_size=2', 'average_checkpoints=1', 'augmentation.crop_size=0'),
  *('augmentation.distortion_probability=0', 'losses.presence=0.5'),
  *('optimizer.warmup_epochs=0', 'optimizer.learning_rate=1e-3'),
  'optimizer.ema_decay=0.98',
)
_EVALUATION = ('eval.batch_size=8', 'eval.bootstrap=20', 'eval.num_overlays=1')
SMALLER = {
  'data_prep.phantom': (
    *('--num_images=20', '--num_test_images=2', '--prevalence=0.4'),
    # Other films than those in siim/, which are drawn with seed 0.
    *('--image_size=128', '--num_workers=1', '--seed=1'),
  ),
  'data_prep.build': ('--image_size=32', '--num_folds=2', '--num_workers=1'),
  'data_prep.metadata': ('--num_workers=1',),
  'data_prep.view': ('--num_images=2',),
  'pnx_jax.input.preview': ('--config.image_size=32',),
  'pnx_jax.evaluation.compare': ('--replicates=100', '--pictures=1'),
  'launch.py': tuple(f'--config.{field}' for field in _TRAINING),
  '--mode=eval': tuple(f'--config.{field}' for field in _EVALUATION),
  '--mode=predict': (),
}
# Written by a command.
STANDALONE = {'model/predict.py': 'pnx_jax/export/standalone.py'}
# Commands of others, which are not run: the network or a cluster is missing.
FOREIGN = (
  'pip',
  '.venv/bin/pytest',
  'hf',
  'tensorboard',
  'srun',
  'sbatch',
  'gcloud',
  'python3',
  '.',
  'cd',
)


@dataclasses.dataclass(frozen=True)
class Block:
  """A fenced block of a page."""

  page: pathlib.Path
  language: str
  text: str

  def commands(self) -> list[str]:
    """Its command lines, without comments and with continuations joined."""
    joined = re.sub(r'\\\n\s*', '', self.text)
    lines = (re.sub(r'(^|\s)#.*', '', line) for line in joined.splitlines())
    return [
      part.strip()
      for line in lines
      for part in line.split('&&')
      if part.strip()
    ]


def blocks(page, language):
  found = FENCE.findall(page.read_text(encoding='utf-8'))
  return [Block(page, name, text) for name, text in found if name == language]


def is_ours(command):
  return command.startswith(('python ', 'make '))


class Workplace:
  """A folder that looks like the checkout of someone who follows the pages."""

  def __init__(self, folder, films):
    self.folder = folder
    self.done = set()
    self._output = folder / 'output.txt'
    self._server = subprocess.Popen(
      [sys.executable, ROOT / 'tests' / 'command_server.py', self._output],
      cwd=folder,
      env=os.environ | small_run.ONE_DEVICE | {'PYTHONPATH': str(ROOT)},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    for name in ('launch.py', 'configs', 'docs', 'Makefile', 'setup.py'):
      (folder / name).symlink_to(ROOT / name)
    (folder / 'siim').symlink_to(films)
    for name in ('studies', 'more'):
      (folder / name).mkdir()
    first, *rest = sorted(films.rglob('dicom-images-train/**/*.dcm'))[:4]
    shutil.copy(first, folder / 'film.dcm')
    shutil.copy(first, folder / 'more' / 'film.dcm')
    for path in rest:
      shutil.copy(path, folder / 'studies')
    tests = sorted((films / 'dicom-images-test').rglob('*.dcm'))
    rle.write_csv(
      folder / 'sample_submission.csv', [(path.stem, '-1') for path in tests]
    )
    np.save(folder / 'film.npy', np.zeros((32, 32), np.uint8))
    annotations = rle.read_csv(films / 'train-rle.csv')
    self._predict_nothing(annotations)
    self._write_manifest_of_two_sources(films, annotations)

  def _predict_nothing(self, image_ids):
    """Writes what another program may have predicted."""
    folder = self.folder / 'predictions'
    folder.mkdir()
    for image_id in image_ids:
      empty = np.zeros((32, 32), np.uint16)
      cv2.imwrite(str(folder / f'{image_id}.png'), empty)
    rows = [(image_id, 0.5) for image_id in image_ids]
    files.write_csv(folder / 'films.csv', ('image_id', 'probability'), rows)

  def _write_manifest_of_two_sources(self, films, annotations):
    paths = sorted(films.rglob('dicom-images-train/**/*.dcm'))
    rows = [
      (path, 'siim' if number % 2 else 'nih', int(bool(annotations[path.stem])))
      for number, path in enumerate(paths)
    ]
    header = ('path', 'source', 'label')
    files.write_csv(self.folder / 'both.csv', header, rows)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._server.communicate()

  def run(self, command):
    """Runs a command of ours, made small, unless it has run before."""
    if command in self.done:
      return
    self.done.add(command)
    if command.startswith('make '):
      if command == 'make demo':
        for step in self._steps_of_demo():
          self.run(step)
      return
    _, *words = shlex.split(command)
    program = words[1] if words[0] == '-m' else words[0]
    mode = next((word for word in words if word.startswith('--mode')), '')
    words += SMALLER.get(mode, SMALLER.get(program, ()))
    if any(word.startswith('--config.pretrained=') for word in words):
      # Published weights fit encoders of full depth, which compile slowly.
      words.append('--config.pretrained=')
    print(json.dumps(words), file=self._server.stdin, flush=True)
    status = self._server.stdout.readline().strip()
    assert status == '0', f'{command}\n{self._output.read_text()}'

  def _steps_of_demo(self):
    """The commands that `make demo` runs."""
    printed = subprocess.run(
      ['make', '--dry-run', 'demo'],
      check=True,
      capture_output=True,
      text=True,
      cwd=ROOT,
    ).stdout.replace('\\\n', '')
    commands = re.findall(r'^\S*bin/(python .*)$', printed, re.MULTILINE)
    return [c for c in commands if 'pip' not in c.split() and 'venv' not in c]


@pytest.fixture(scope='module')
def workplace(phantom_films, tmp_path_factory):
  """The folder after all commands of the README."""
  folder = tmp_path_factory.mktemp('workplace')
  with Workplace(folder, phantom_films) as made:
    for block in blocks(README, 'bash'):
      for command in filter(is_ours, block.commands()):
        made.run(command)
    (folder / 'data' / 'other').symlink_to(folder / 'data' / 'demo')
    yield made


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_commands_run(page, workplace):
  for block in blocks(page, 'bash'):
    for command in filter(is_ours, block.commands()):
      workplace.run(command)


@pytest.mark.parametrize('page', [README, *PAGES], ids=lambda page: page.stem)
def test_python_blocks_run(page, workplace):
  """The blocks of a page share their names, as a reader would type them."""
  text = ''.join(block.text for block in blocks(page, 'python'))
  if not text:
    return
  script = workplace.folder / f'{page.stem}.py'
  script.write_text(text)
  workplace.run(f'python {script.name}')


@pytest.mark.parametrize('page', ALL_PAGES, ids=lambda page: page.stem)
def test_other_commands_name_what_exists(page):
  for block in (*blocks(page, 'bash'), *blocks(page, 'text')):
    for command in block.commands():
      if block.language == 'bash' and not is_ours(command):
        assert command.split()[0] in FOREIGN, command
      check_extras(command)
      for ours in re.findall(r'python ((?:-m )?[\w./]+(?: .*)?)', command):
        check_flags(ours)


def check_extras(command):
  setup = (ROOT / 'setup.py').read_text(encoding='utf-8')
  for extras in re.findall(r'\.\[([\w,]+)\]', command):
    for extra in extras.split(','):
      assert f"'{extra}': " in setup, command


def check_flags(command):
  """Module and flags of a command of ours exist, and fields of the config."""
  words = command.split()
  if words[0] == '-m':
    path = ROOT / words[1].replace('.', '/')
    if words[1].split('.')[0] not in ('pnx_jax', 'data_prep', 'benchmarks'):
      return
    files = [path.with_suffix('.py'), path / '__main__.py']
    file = next((file for file in files if file.exists()), None)
  else:
    file = ROOT / STANDALONE.get(words[0], words[0])
  assert file and file.exists(), command
  source = file.read_text(encoding='utf-8')
  for shared in ('inference/predict_flags.py', 'film_flags.py'):
    path = ROOT / 'pnx_jax' / shared
    if path.stem in source:
      source += path.read_text(encoding='utf-8')
  for flag in re.findall(r'(?<!\S)\'?--([\w.]+)', command):
    if flag.startswith('config.'):
      assert_field(flag.removeprefix('config.'))
    else:
      defined = re.search(rf"""['"](--)?{flag}['"]""", source)
      assert defined, f'{file.name} has no flag --{flag}: {command}'


@functools.cache
def our_flags():
  """The names of all flags that a command of ours defines."""
  sources = [ROOT / 'launch.py']
  for package in ('data_prep', 'pnx_jax', 'benchmarks'):
    sources += (ROOT / package).rglob('*.py')
  text = ''.join(path.read_text(encoding='utf-8') for path in sources)
  defined = r"""(?:DEFINE_\w+|add_argument)\(\s*f?['"](?:--)?(\w+)['"]"""
  return set(re.findall(defined, text))


def assert_field(name):
  config = default.get_config()
  for part in name.split('.'):
    assert isinstance(config, ml_collections.ConfigDict), name
    assert part in config, name
    config = config[part]


@pytest.mark.parametrize(
  # The changelog also names what was renamed.
  'page',
  [page for page in ALL_PAGES if page.stem != 'CHANGELOG'],
  ids=lambda page: page.stem,
)
def test_inline_code_names_what_exists(page):
  text = FENCE.sub('', page.read_text(encoding='utf-8'))
  for code in re.findall(r'`([^`]+)`', text):
    code = ' '.join(code.split())
    if code.startswith('--config.'):
      assert_field(re.match(r'--config\.([\w.]+)', code)[1])
    elif flag := re.match(r'--(\w+)(?![\w-])', code):
      assert flag[1] in our_flags(), code
    elif code.startswith('python '):
      check_flags(code.removeprefix('python '))
    elif re.fullmatch(
      r'(pnx_jax|data_prep|configs|docs|tests|benchmarks)/\S+', code
    ):
      path = code.split(':')[0]
      assert '…' in path or (ROOT / path).exists(), code


@pytest.mark.parametrize('page', ALL_PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
  for link in LINK.findall(page.read_text(encoding='utf-8')):
    if link.startswith(('http://', 'https://')):
      continue
    path, _, anchor = link.partition('#')
    target = (page.parent / path).resolve() if path else page
    assert target.exists(), link
    if anchor:
      assert anchor in anchors(target), link


def anchors(page):
  """The anchors GitHub gives to a page's headings."""
  headings = re.findall(r'^#+ (.*)$', page.read_text(encoding='utf-8'), re.M)
  return {
    re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')
    for heading in headings
  }


def test_the_readme_is_short_and_warns_at_its_top():
  lines = README.read_text(encoding='utf-8').splitlines()
  assert len(lines) <= 160
  assert 'Research use only' in '\n'.join(lines[:10])


def test_every_page_is_linked_from_the_readme_or_a_page_it_links():
  linked, new = set(), {README}
  while new:
    linked |= new
    new = {
      (page.parent / link.split('#')[0]).resolve()
      for page in new
      for link in LINK.findall(page.read_text(encoding='utf-8'))
      if link.split('#')[0].endswith('.md') and '://' not in link
    } - linked
  assert set(PAGES) <= linked
