"""Exports against the runs they were made from."""

import dataclasses
import errno
import functools
import importlib.util
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import types
import zipfile

import cv2
import huggingface_hub
import jax
import numpy as np
import pytest

import pnx_jax
from pnx_jax.errors import UserError
from pnx_jax.export import __main__ as command
from pnx_jax.export import export, standalone
from pnx_jax.metrics.calibration import OperatingPoint
from pnx_jax.metrics.rules import Rule
from pnx_jax.models import convolution, segmenter
from pnx_jax.prediction import deployment, exported
from pnx_jax.prediction.deployment import Deployment, Member
from pnx_jax.prediction.network import SIZE, Network
from pnx_jax.prediction.postprocess import Postprocess
from pnx_jax.training import run_files, train_state

# Installed packages are not found, but jax with what it needs, and flatbuffers.
_ALONE = """
import sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder
FOUND = {'jax', 'jaxlib', 'numpy', 'ml_dtypes', 'opt_einsum', 'scipy'}
FOUND |= {'flatbuffers', 'predict'}
class Alone(PathFinder):
  def find_spec(name, path=None, target=None):
    spec = PathFinder.find_spec(name, path, target)
    installed = spec and 'site-packages' in (spec.origin or 'site-packages')
    return None if installed and name.split('.')[0] not in FOUND else spec
sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Alone]
for name in ('flax', 'optax', 'orbax', 'cv2', 'pydicom', 'pnx_jax'):
  try:
    __import__(name)
  except ImportError:
    continue
  sys.exit(f'{name} is there')
import predict
import numpy as np
predict.main(sys.argv[1:])
found = predict.Model('.')
image = np.load(sys.argv[1])
np.savez('answer.npz', **found.probabilities(image[None, ..., None]),
         mask=found.predict(image)['mask'])
"""


@pytest.fixture(scope='module')
def folder(evaluated_run, tmp_path_factory):
  path = tmp_path_factory.mktemp('export') / 'models' / 'model'
  # The rule of six steps of training leaves no mask.
  run = path.parent.with_name('run')
  shutil.copytree(evaluated_run, run)
  Deployment.load(run).save(run, run / 'eval', _post(run))
  command.main([f'--workdir={run}', f'--output={path}'])
  return path


@pytest.fixture(scope='module')
def run(folder):
  return folder.parent.with_name('run')


@pytest.fixture(scope='module')
def original(run):
  return deployment.load(run)


@pytest.fixture(scope='module')
def images():
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 256, (3, 8, 8), np.uint8)
  return coarse.repeat(4, 1).repeat(4, 2)[..., None]


def _post(run):
  """A rule that finds something on noise."""
  post = Postprocess.load(run / 'eval' / 'postprocess.json')
  return dataclasses.replace(post, rule=Rule(0.001, 10, 0.003))


def _same(found, expected, tolerance=1e-5):
  assert found.keys() == expected.keys() >= {'probs', 'probability'}
  for name in found:
    np.testing.assert_allclose(found[name], expected[name], atol=tolerance)


def test_it_runs_with_jax_and_numpy_alone(folder, original, images, tmp_path):
  film = tmp_path / 'film.npy'
  np.save(film, images[0, ..., 0])
  alone = shutil.copytree(folder, tmp_path / 'alone')
  done = subprocess.run(
    [sys.executable, '-c', _ALONE, film],
    cwd=alone,
    env=os.environ | {'XLA_FLAGS': '', 'PYTHONPATH': ''},
    capture_output=True,
    text=True,
    check=True,
  )
  answer = dict(np.load(alone / 'answer.npz'))
  mask = answer.pop('mask')
  expected = original(images[:1])
  _same(answer, expected)
  probability = float(expected['probability'][0])
  np.testing.assert_array_equal(
    mask, original.postprocess.mask(answer['probs'][0], probability)
  )
  assert mask.any()
  told = json.loads(done.stdout)
  calibrated = original.postprocess.calibrated(probability)
  assert told['probability'] == pytest.approx(calibrated, abs=1e-5)
  assert told['operating_point'] == original.postprocess.reached(calibrated)
  assert told['mask'].startswith(f'{mask.sum()} pixels')


def test_a_loaded_export_is_the_ensemble_it_was(folder, original, images):
  loaded = pnx_jax.load(folder).ensemble
  for field in dataclasses.fields(loaded):
    if field.name not in ('networks', 'mesh'):
      mine, its = (getattr(m, field.name) for m in (loaded, original))
      assert mine == its, field.name
  assert loaded.rules_version == original.rules_version
  for batch in (images, images[:1]):
    _same(loaded(batch), original(batch))


def test_programs_are_for_all_platforms_and_any_batch(folder):
  program = jax.export.deserialize(
    bytearray((folder / 'network_0.stablehlo').read_bytes())
  )
  assert program.platforms == ('cpu', 'cuda', 'tpu')
  assert program.nr_devices == 1
  assert str(program.in_avals[-1]) == 'uint8[batch,32,32,1]'


def test_folders_hold_no_paths_and_are_the_same_again(folder, run, monkeypatch):
  content = {path.name: path.read_bytes() for path in folder.iterdir()}
  settings = json.loads(content['model.json'])
  monkeypatch.setattr(run_files, 'commit', lambda: settings['commit'])
  assert content == export.files(run)
  root = str(pathlib.Path(export.__file__).parents[2]).encode()
  for name, data in content.items():
    assert root not in data and os.fsencode(run) not in data, name
    assert name == 'predict.py' or b'.py"' not in data, name


def _network(seed, *, image_size, **options):
  created = segmenter.create_model(encoder='unet', **options)
  init = functools.partial(
    train_state.init_variables, model=created, image_size=image_size
  )
  rng = np.random.default_rng(seed)
  variables = jax.tree.map(
    # Kernels have both signs, variances are positive.
    lambda x: rng.random(x.shape, np.float32) - (x.ndim > 1) / 2,
    jax.eval_shape(init, jax.random.key(0)),
  )
  return Network(
    model=created,
    variables=variables,
    image_size=image_size,
    image_probability='presence_head',
    flip=False,
    steps=(1,),
  )


def test_an_exported_ensemble_is_the_mean_of_its_networks(
  run, images, tmp_path, monkeypatch
):
  """Of two sizes and architectures; those that share one share a program."""
  kinds = [
    {'image_size': 32, 'width': 2, 'depth': 1},
    {'image_size': 16, 'width': 2, 'depth': 1, 'normalization': 'group'},
    {'image_size': 32, 'width': 2, 'depth': 1},
  ]
  networks = [
    dataclasses.replace(_network(seed, **kind), image_probability='mean')
    for seed, kind in enumerate(kinds)
  ]
  monkeypatch.setattr(Network, 'load', lambda _, fold, **__: networks[fold])
  members = [Member('.', number) for number in range(3)]
  monkeypatch.setattr(Deployment, 'members', lambda *_: members)
  other = shutil.copytree(run, tmp_path / 'run')
  path = other / 'eval' / 'deployment.json'
  changes = {'flip': False, 'scales': [1.0], 'steps': [[1]] * 3}
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))
  export.export(other, tmp_path / 'model', accept_edited=True)
  found = pnx_jax.load(tmp_path / 'model').ensemble(images)
  alone = [network(images) for network in networks]
  assert all(each['probs'].std() > 0.005 for each in alone)
  assert abs(alone[0]['probs'] - alone[2]['probs']).mean() > 0.01
  mean = {
    name: np.mean([each[name] for each in alone], axis=0) for name in alone[0]
  }
  probability = [each['probability'] for each in alone]
  mean['spread'] = np.std(probability, axis=0, ddof=1)
  _same(found, mean)
  shipped = standalone.Model(tmp_path / 'model')
  _same(shipped.probabilities(images), mean)
  assert shipped.networks[0][0] is shipped.networks[2][0]
  settings = json.loads((tmp_path / 'model' / 'model.json').read_text())
  assert settings['image_probability'] == 'mean'
  card = (tmp_path / 'model' / 'README.md').read_text()
  assert 'mean of the presence head and the most probable pixel' in card
  names = sorted(p.name for p in (tmp_path / 'model').glob('*.stablehlo'))
  assert names == ['network_0.stablehlo', 'network_1.stablehlo']


def test_computing_in_bfloat16_is_a_choice(original):
  (network,) = original.networks
  for dtype in export.COMPUTE_DTYPES:
    program = export.program(export.portable(network, dtype), image_size=32)
    assert ('bf16' in program.mlir_module()) == (dtype == 'bfloat16')


def test_the_numpy_file_tells_a_wrong_film_in_one_line(
  folder, tmp_path, monkeypatch
):
  # Python would leave a __pycache__ in the export that other tests share.
  monkeypatch.setattr(sys, 'dont_write_bytecode', True)
  spec = importlib.util.spec_from_file_location('it', folder / 'predict.py')
  shipped = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(shipped)
  np.save(tmp_path / 'small.npy', np.zeros((16, 16), np.uint8))
  cv2.imwrite(str(tmp_path / 'color.png'), np.zeros((32, 32, 3), np.uint8))
  for name, message in {
    'small.npy': r'uint8\[16, 16\], not uint8\[32, 32\]',
    'color.png': r'uint8\[32, 32, 3\], not uint8\[32, 32\]',
    'gone.npy': r'No such file .*gone\.npy',
  }.items():
    with pytest.raises(SystemExit, match=f'^error: .*{message}'):
      shipped.main([str(tmp_path / name)])


@pytest.mark.parametrize('groups', [4, 8])
def test_grouped_convolutions_choose_their_form_where_they_run(groups):
  def apply(platform):
    def convolve(x, kernel):
      return convolution.convolve(x, kernel, groups=groups, platform=platform)

    return convolve

  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 6, 6, 8)).astype(np.float32)
  kernel = rng.normal(size=(3, 3, 8 // groups, 8)).astype(np.float32)
  program = jax.export.export(
    jax.jit(apply('any')), platforms=export.PLATFORMS
  )(x, kernel)
  expected = apply('cpu')(x, kernel)
  np.testing.assert_allclose(program.call(x, kernel), expected, atol=1e-5)
  # XLA's own form, which is not that of the CPU, is in it, too.
  assert f'feature_group_count = {groups} ' in program.mlir_module()
  lowered = jax.jit(apply('cpu')).lower(x, kernel).as_text()
  assert f'feature_group_count = {groups} ' not in lowered


@pytest.fixture(scope='module')
def blobs():
  """Smooth noise f32[SIZE, SIZE]: regions of all sizes, with holes."""
  rng = np.random.default_rng(1)
  noise = rng.random((64, 64), np.float32)
  return cv2.resize(noise, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)


@pytest.mark.parametrize(
  'changes',
  [
    {},
    {'rule': Rule(0.9, 2000, 0.6, 0.3)},
    {'rule': Rule(0.9, 10**6, 0.6)},
    {'rule': Rule(0.5, 0, 0.5, 0.7)},
    {'min_component': 300},
    {'fill_holes': True},
    {'min_component': 3000, 'fill_holes': True, 'rule': Rule(0.7, 9, 0.45)},
  ],
)
def test_the_numpy_file_applies_the_same_rules(blobs, changes):
  points = (
    OperatingPoint('loose', 0.2, 0.9, 0.5),
    OperatingPoint('strict', 0.6, 0.5, 0.9),
    OperatingPoint('never', 0.9, 0.1, 1.0),
    OperatingPoint('also strict', 0.6, 0.5, 0.9),
  )
  post = Postprocess(temperature=1.7, operating_points=points, **changes)
  alone = standalone.Model.__new__(standalone.Model)
  alone.settings = {'rules': dataclasses.asdict(post)}
  for probability in (0.04, 0.69, 0.72):
    alone.probabilities = lambda image, p=probability: {
      'probs': blobs[None],
      'probability': np.array([p]),
    }
    found = alone.predict(np.zeros((4, 4), np.uint8))
    np.testing.assert_array_equal(found['mask'], post.mask(blobs, probability))
    inside = np.zeros((SIZE, SIZE), bool)
    inside[170:-200] = True
    beside = alone.predict(np.zeros((4, 4), np.uint8), inside)
    expected = post.mask(np.where(inside, blobs, 0), probability)
    np.testing.assert_array_equal(beside['mask'], expected)
    calibrated = post.calibrated(probability)
    assert found['probability'] == pytest.approx(calibrated)
    assert found['operating_point'] == post.reached(calibrated)


def _names(folder):
  return sorted(path.name for path in folder.iterdir())


def test_damage_and_loss_are_told_in_one_line(folder, tmp_path):
  assert _names(folder) == [
    'README.md',
    'model.json',
    'network_0.stablehlo',
    'predict.py',
    'weights_0.npz',
  ]
  for name in ('network_0.stablehlo', 'weights_0.npz', 'model.json'):
    copy = shutil.copytree(folder, tmp_path / name)
    data = (copy / name).read_bytes()
    for change in (data[: len(data) // 2], data.replace(b'3', b'4', 1), b''):
      (copy / name).write_bytes(change)
      with pytest.raises(UserError, match=f'{name} is damaged') as caught:
        exported.load(copy)
      assert '\n' not in str(caught.value)
      if name != 'model.json':
        with pytest.raises(ValueError, match=f'{name} is damaged'):
          standalone.Model(copy)
    (copy / name).unlink()
    with pytest.raises(UserError, match=f'{name}: No such|no .*{name}: '):
      exported.load(copy)


def _sealed(folder, path, **changes):
  copy = shutil.copytree(folder, path)
  settings = json.loads((copy / 'model.json').read_text()) | changes
  settings.pop('checksum')
  (copy / 'model.json').write_text(json.dumps(exported.seal(settings)))
  return copy


def test_other_formats_and_unknown_programs_are_told(folder, tmp_path):
  copy = _sealed(folder, tmp_path / 'format', format=99)
  with pytest.raises(UserError, match='format 99, this pnx_jax reads'):
    exported.load(copy)
  data = b'a program of the future'
  checksums = json.loads((folder / 'model.json').read_text())['files']
  checksums |= {'network_0.stablehlo': exported.sha256(data)}
  copy = _sealed(folder, tmp_path / 'program', files=checksums)
  (copy / 'network_0.stablehlo').write_bytes(data)
  with pytest.raises(UserError, match='cannot read this program'):
    exported.load(copy)


@pytest.mark.parametrize('where', ['reading', 'calling'])
def test_another_jax_is_one_line_with_its_version(
  folder, images, tmp_path, monkeypatch, where
):
  """Older ones fail at reading the program or when it is first called."""
  copy = _sealed(folder, tmp_path / 'model', jax='99.1')

  def refused(content):
    if where == 'reading':
      raise ValueError('calling convention version 12 is not\nsupported')

    def call(*_):
      raise RuntimeError('StableHLO v9.9\nis too new')

    return types.SimpleNamespace(call=call)

  monkeypatch.setattr(jax.export, 'deserialize', refused)
  told = rf'was written by jax 99\.1, and jax {re.escape(jax.__version__)} '
  with pytest.raises(UserError, match=told) as caught:
    pnx_jax.load(copy).ensemble(images)
  assert '\n' not in str(caught.value)
  assert "pip install 'jax>=99.1'" in str(caught.value)
  with pytest.raises(ValueError, match=told) as caught:
    standalone.Model(copy).probabilities(images)
  assert '\n' not in str(caught.value)


def test_nothing_in_a_folder_is_run(folder, original, tmp_path):
  copy = shutil.copytree(folder, tmp_path / 'model')
  (copy / 'predict.py').write_text('raise SystemExit')
  assert pnx_jax.load(copy).ensemble.version == original.version
  # Arrays that only pickle can read are refused.
  file = io.BytesIO()
  np.savez(file, weights=np.array([{}], object))
  with zipfile.ZipFile(file) as archive:
    assert archive.namelist() == ['weights.npy']
  checksums = json.loads((folder / 'model.json').read_text())['files']
  checksums |= {'weights_0.npz': exported.sha256(file.getvalue())}
  copy = _sealed(folder, tmp_path / 'pickle', files=checksums)
  (copy / 'weights_0.npz').write_bytes(file.getvalue())
  with pytest.raises(ValueError, match='allow_pickle=False'):
    exported.load(copy)
  # What was edited is read, but damage is told.
  (copy / 'weights_0.npz').write_bytes(file.getvalue()[:-40])
  with pytest.raises(UserError, match=r'weights_0\.npz is damaged'):
    exported.load(copy, accept_edited=True)


def test_a_damaged_picture_is_one_line(tmp_path):
  path = tmp_path / 'film.png'
  cv2.imwrite(str(path), np.zeros((64, 64), np.uint8))
  content = bytearray(path.read_bytes())
  content[40:60] = bytes(20)
  path.write_bytes(content)
  (tmp_path / 'film.npy').write_bytes(b'')
  for name in ('film.png', 'film.npy'):
    with pytest.raises((OSError, ValueError)) as error:
      standalone.read(str(tmp_path / name))
    assert str(error.value) and '\n' not in str(error.value)


def test_what_exists_is_not_overwritten(folder, run, tmp_path, capsys):
  before = _names(folder)
  with pytest.raises(SystemExit, match='2'):
    command.main([f'--workdir={run}', f'--output={folder}/'])
  assert re.fullmatch(
    'error: .*model exists and is not empty.*\n', capsys.readouterr().err
  )
  assert _names(folder) == before
  with pytest.raises(UserError, match='is not an evaluated run'):
    export.export(tmp_path, tmp_path / 'model')
  (tmp_path / 'file').touch()
  with pytest.raises(UserError, match='cannot write'):
    export.export(run, tmp_path / 'file' / 'model')


def test_a_mounted_disk_is_refused_at_once(tmp_path, monkeypatch):
  monkeypatch.setattr(pathlib.Path, 'is_mount', lambda path: True)
  with pytest.raises(UserError, match='a disk is mounted'):
    export.export(tmp_path / 'no run', tmp_path)


def test_a_full_disk_leaves_no_model(folder, run, tmp_path, monkeypatch):
  content = {path.name: path.read_bytes() for path in folder.iterdir()}
  write = pathlib.Path.write_bytes

  def full(path, data):
    if path.name == 'predict.py':
      raise OSError(errno.ENOSPC, 'No space left on device')
    return write(path, data)

  monkeypatch.setattr(export, 'files', lambda run, **_: content)
  monkeypatch.setattr(pathlib.Path, 'write_bytes', full)
  with pytest.raises(UserError, match='No space left'):
    export.export(run, tmp_path / 'model')
  assert not list(tmp_path.iterdir())
  monkeypatch.undo()
  monkeypatch.setattr(export, 'files', lambda run, **_: content)
  # Neither what an interruption left nor an empty folder prevents an export.
  (tmp_path / '.model.partial').mkdir()
  (tmp_path / 'model').mkdir()
  export.export(run, tmp_path / 'model')
  assert _names(tmp_path) == ['model']
  assert _names(tmp_path / 'model') == _names(folder)


def test_the_card_is_one_of_hugging_face(folder, run):
  card = huggingface_hub.ModelCard((folder / 'README.md').read_text())
  assert card.data.library_name == 'jax'
  metrics = json.loads((run / 'eval' / 'metrics.json').read_text())
  scores = {each.metric_type: each for each in card.data.eval_results}
  assert scores['dice'].metric_value == metrics['dice']
  assert scores['dice'].dataset_name == 'records'
  assert card.text.lstrip().startswith('# Model card: ')


def test_the_card_tells_the_scores_and_no_names(folder, run):
  card = (folder / 'README.md').read_text()
  metrics = json.loads((run / 'eval' / 'metrics.json').read_text())
  low, high = metrics['intervals']['dice']
  row = f'| {metrics["dice"]:.3f} | {low:.3f} to {high:.3f} |'
  assert row in card
  assert 'For research only' in card
  images, patients = metrics['num_images'], metrics['num_patients']
  assert f'Scored on {images} films of records of {patients} patients' in card
  assert 'In records are 60 films, all of them synthetic, 24 with a' in card

  trained_on = run_files.trained_on(run, 0)
  assert f'data set records: {len(trained_on)} (fold 0 held out).' in card
  text = card + (folder / 'model.json').read_text()
  assert not any(image_id in text for image_id in trained_on)
  (run / 'eval' / 'metrics.json').rename(run / 'eval' / 'gone')
  with pytest.raises(UserError, match=r'cannot read .*metrics\.json'):
    export.files(run)
