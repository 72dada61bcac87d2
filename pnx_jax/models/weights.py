"""Weight files, read as data: nothing in them is ever run.

PyTorch's files hold a pickle. The unpickler here knows tensors and ordered
dictionaries and nothing else; opcodes and names outside that are refused
before anything is built.
"""

import collections
import io
import json
import math
import os
import pickle
import pickletools
import zipfile
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from pnx_jax.errors import UserError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LARGEST_MEMO = 1 << 20
_OPCODES = (
  'PROTO FRAME STOP MARK GLOBAL STACK_GLOBAL REDUCE BUILD BINPERSID NONE '
  'NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE '
  'SHORT_BINUNICODE EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 '
  'TUPLE3 SETITEM SETITEMS APPEND APPENDS BINPUT LONG_BINPUT BINGET '
  'LONG_BINGET MEMOIZE'
)
_STORAGES = {
  'DoubleStorage': np.float64,
  'FloatStorage': np.float32,
  'HalfStorage': np.float16,
  'BFloat16Storage': jnp.bfloat16,
  'LongStorage': np.int64,
  'IntStorage': np.int32,
  'ShortStorage': np.int16,
  'CharStorage': np.int8,
  'ByteStorage': np.uint8,
  'BoolStorage': np.bool_,
}
_SAFETENSORS = {
  'F64': np.float64,
  'F32': np.float32,
  'F16': np.float16,
  'BF16': jnp.bfloat16,
  'I64': np.int64,
  'I32': np.int32,
  'I16': np.int16,
  'I8': np.int8,
  'U8': np.uint8,
  'BOOL': np.bool_,
}


class _Storage(NamedTuple):
  key: str
  dtype: np.dtype
  length: int


class _Tensor(NamedTuple):
  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


def read(path):
  """Tensors by name, from safetensors or either of PyTorch's formats.

  Raises:
    UserError: the file is missing, damaged, or holds more than tensors.
  """
  try:
    with open(path, 'rb') as file:
      if os.fspath(path).endswith('.safetensors'):
        return _read_safetensors(file)
      if zipfile.is_zipfile(file):
        return _read_zip(file)
      file.seek(0)
      return _read_legacy(file)
  except FileNotFoundError:
    raise UserError(f'no weight file {path}') from None
  except UserError as error:
    raise UserError(f'weight file {path}: {error}') from None
  except Exception as error:
    raise UserError(
      f'weight file {path}: damaged or not a file of weights ({error})'
    ) from error


def _read_safetensors(file):
  data = file.read()
  start = 8 + int.from_bytes(data[:8], 'little')
  if len(data) < 8 or start > len(data):
    raise UserError('the file ends inside its header')
  tensors = {}
  for name, entry in json.loads(data[8:start]).items():
    if name == '__metadata__':
      continue
    if entry['dtype'] not in _SAFETENSORS:
      raise UserError(f'unknown type {entry["dtype"]!r} of {name}')
    dtype = np.dtype(_SAFETENSORS[entry['dtype']])
    begin, end = (start + offset for offset in entry['data_offsets'])
    if end > len(data):
      raise UserError(f'the file ends inside {name}')
    tensors[name] = np.frombuffer(data[begin:end], dtype).reshape(
      entry['shape']
    )
  return tensors


def _read_zip(file):
  with zipfile.ZipFile(file) as archive:
    names = archive.namelist()
    roots = [name for name in names if name.endswith('data.pkl')]
    if len(roots) != 1:
      raise UserError('an archive, but not one that torch.save wrote')
    root = roots[0].removesuffix('data.pkl')
    if any(entry.compress_type for entry in archive.infolist()):
      raise UserError('compressed entries, which torch.save never writes')
    byteorder = f'{root}byteorder'
    if byteorder in names and archive.read(byteorder) != b'little':
      raise UserError('written on a big-endian machine')
    state = _unpickle(io.BytesIO(archive.read(roots[0])))

    def storage(entry):
      return archive.read(f'{root}data/{entry.key}')

    return _tensors(state, storage)


def _read_legacy(file):
  if file.peek(1)[:1] != pickle.PROTO or _unpickle(file) != _LEGACY_MAGIC:
    raise UserError('not a file that torch.save wrote')
  _unpickle(file)  # The protocol's version.
  if not _unpickle(file)['little_endian']:
    raise UserError('written on a big-endian machine')
  state = _unpickle(file)
  sizes = {
    tensor.storage.key: tensor.storage.dtype.itemsize
    for _, tensor in _flatten(state)
  }
  storages = {}
  for key in _unpickle(file):
    length = int.from_bytes(file.read(8), 'little')
    storages[key] = file.read(length * sizes[key])
  return _tensors(state, lambda entry: storages[entry.key])


def _tensors(state, read_storage):
  tensors = {}
  for name, tensor in _flatten(state):
    data = np.frombuffer(read_storage(tensor.storage), tensor.storage.dtype)
    last = tensor.offset + sum(
      (length - 1) * stride
      for length, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    if min(tensor.offset, *tensor.shape, *tensor.strides, 0) < 0:
      raise UserError(f'negative sizes in {name}')
    if math.prod(tensor.shape) and last >= len(data):
      raise UserError(f'the file ends inside {name}')
    tensors[name] = np.lib.stride_tricks.as_strided(
      data[tensor.offset :],
      tensor.shape,
      [stride * data.itemsize for stride in tensor.strides],
      writeable=False,
    )
  return tensors


def _flatten(state):
  """Pairs of name and tensor; a training checkpoint's are in `state_dict`."""
  if isinstance(state, dict) and isinstance(state.get('state_dict'), dict):
    state = state['state_dict']
  if not isinstance(state, dict):
    raise UserError('not a dictionary of tensors')
  for name, tensor in state.items():
    if not isinstance(name, str) or not isinstance(tensor, _Tensor):
      raise UserError(f'{name!r} is not a tensor')
    yield name, tensor


def _unpickle(file):
  """The next pickle of `file`, after a look at every opcode."""
  start = file.tell()
  allowed = _OPCODES.split()
  for opcode, argument, _ in pickletools.genops(file):
    if opcode.name not in allowed:
      raise UserError(f'refused: the opcode {opcode.name} is not data')
    if opcode.name == 'LONG_BINPUT' and argument > _LARGEST_MEMO:
      raise UserError('refused: an object number without end')
  file.seek(start)
  return _Unpickler(file).load()


class _Unpickler(pickle.Unpickler):
  """Knows tensors and ordered dictionaries."""

  def find_class(self, module, name):
    if module == 'torch' and name in _STORAGES:
      return np.dtype(_STORAGES[name])
    known = {
      ('collections', 'OrderedDict'): collections.OrderedDict,
      ('torch._utils', '_rebuild_tensor_v2'): _rebuild_tensor,
      ('torch._utils', '_rebuild_parameter'): _rebuild_parameter,
    }
    if (module, name) not in known:
      raise UserError(f'refused: it wants to call {module}.{name}')
    return known[module, name]

  def persistent_load(self, pid):
    kind, dtype, key, _, length, *view = pid
    if kind != 'storage' or not isinstance(dtype, np.dtype) or any(view):
      raise UserError('refused: an object that is not a tensor')
    return _Storage(str(key), dtype, length)


def _rebuild_tensor(storage, offset, shape, strides, *_):
  if not isinstance(storage, _Storage):
    raise UserError('a tensor without data')
  return _Tensor(storage, int(offset), tuple(shape), tuple(strides))


def _rebuild_parameter(tensor, *_):
  return tensor
