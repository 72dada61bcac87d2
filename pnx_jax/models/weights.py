"""Reads weight files as data: nothing in them is ever executed.

PyTorch's files contain a pickle. The unpickler here knows tensors and ordered
dictionaries only; other opcodes and names are refused before anything is built.
"""

import collections
import functools
import io
import math
import os
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors

from pnx_jax.errors import UserError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LARGEST_MEMO = 1 << 20
# Bytes of names and shapes; a large network's take half a million.
_LARGEST_PICKLE = 1 << 24
# Tuples of the same tuple again take 2^n steps to hash; no tensor needs any.
_MOST_TUPLES_AGAIN = 16
_SHOWN = 80
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


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """Tensors by name, from safetensors or one of PyTorch's two formats.

  Args:
    path: A `.safetensors` file, or what `torch.save` wrote of a state dict.

  Raises:
    UserError: The file is missing, damaged, or contains more than tensors.
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
      f'weight file {path}: damaged or not a file of weights ({_cut(error)})'
    ) from error


def _read_safetensors(file: IO[bytes]) -> dict[str, np.ndarray]:
  tensors = {}
  for name, tensor in safetensors.deserialize(file.read()):
    if tensor['dtype'] not in _SAFETENSORS:
      raise UserError(f'unknown type {_cut(tensor["dtype"])} of {_cut(name)}')
    data = np.frombuffer(tensor['data'], _SAFETENSORS[tensor['dtype']])
    tensors[name] = data.reshape(tensor['shape'])
  return tensors


def _read_zip(file: IO[bytes]) -> dict[str, np.ndarray]:
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

    def storage(entry: _Storage) -> bytes:
      return archive.read(f'{root}data/{entry.key}')

    return _tensors(state, storage)


def _read_legacy(file: io.BufferedReader) -> dict[str, np.ndarray]:
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


def _tensors(
  state: Any, read_storage: Callable[[_Storage], bytes]
) -> dict[str, np.ndarray]:
  read_once = functools.cache(read_storage)
  tensors = {}
  for name, tensor in _flatten(state):
    data = np.frombuffer(read_once(tensor.storage), tensor.storage.dtype)
    last = tensor.offset + sum(
      (length - 1) * stride
      for length, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    if min(tensor.offset, *tensor.shape, *tensor.strides, 0) < 0:
      raise UserError(f'negative sizes in {name}')
    if any(
      length > 1 and not stride
      for length, stride in zip(tensor.shape, tensor.strides, strict=True)
    ):
      raise UserError(f'{name} repeats its data; save a contiguous tensor')
    if math.prod(tensor.shape) and last >= len(data):
      raise UserError(f'the file ends inside {name}')
    tensors[name] = np.lib.stride_tricks.as_strided(
      data[tensor.offset :],
      tensor.shape,
      [stride * data.itemsize for stride in tensor.strides],
      writeable=False,
    )
  return tensors


def _flatten(state: Any) -> Iterator[tuple[str, _Tensor]]:
  """Pairs of name and tensor; a training checkpoint's are in `state_dict`."""
  if isinstance(state, dict) and isinstance(state.get('state_dict'), dict):
    state = state['state_dict']
  if not isinstance(state, dict):
    raise UserError('not a dictionary of tensors')
  for name, tensor in state.items():
    if not isinstance(name, str) or not isinstance(tensor, _Tensor):
      raise UserError(
        f'{_cut(name if isinstance(name, str) else type(name))} is not a tensor'
      )
    yield name, tensor


def _unpickle(file: IO[bytes]) -> Any:
  """The next pickle of `file`, after every opcode was checked."""
  start = file.tell()
  allowed = _OPCODES.split()
  tuples, memoized, again, is_tuple = set(), 0, 0, False
  for opcode, argument, position in pickletools.genops(file):
    if position - start > _LARGEST_PICKLE:
      raise UserError('refused: names and shapes without end')
    if opcode.name not in allowed:
      raise UserError(f'refused: the opcode {opcode.name} is not data')
    if opcode.name == 'LONG_BINPUT' and argument > _LARGEST_MEMO:
      raise UserError('refused: an object number without end')
    if 'PUT' in opcode.name or opcode.name == 'MEMOIZE':
      place = memoized if argument is None else argument
      memoized += 1
      if is_tuple:
        tuples.add(place)
    elif opcode.name != 'FRAME':
      is_tuple = 'TUPLE' in opcode.name or (
        'GET' in opcode.name and argument in tuples
      )
      again += is_tuple and 'GET' in opcode.name
    if again > _MOST_TUPLES_AGAIN:
      raise UserError('refused: tuples within tuples')
  file.seek(start)
  return _Unpickler(file).load()


class _Known:
  """What a pickle may call; it has no attribute that a pickle could set."""

  __slots__ = ()


class _OrderedDict(_Known):
  __slots__ = ()

  def __call__(self, *items: Any) -> Any:
    return collections.OrderedDict(*items)


class _RebuildTensor(_Known):
  __slots__ = ()

  def __call__(
    self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any
  ) -> _Tensor:
    if not isinstance(storage, _Storage):
      raise UserError('a tensor without data')
    return _Tensor(storage, int(offset), _integers(shape), _integers(strides))


class _RebuildParameter(_Known):
  __slots__ = ()

  def __call__(self, tensor: Any, *_: Any) -> Any:
    return tensor


_CALLED = {
  ('collections', 'OrderedDict'): _OrderedDict(),
  ('torch._utils', '_rebuild_tensor_v2'): _RebuildTensor(),
  ('torch._utils', '_rebuild_parameter'): _RebuildParameter(),
}


class _Unpickler(pickle.Unpickler):
  """Knows tensors and ordered dictionaries."""

  def find_class(self, module: str, name: str) -> Any:
    if module == 'torch' and name in _STORAGES:
      return np.dtype(_STORAGES[name])
    if (module, name) not in _CALLED:
      raise UserError(f'refused: it wants to call {_cut(f"{module}.{name}")}')
    return _CALLED[module, name]

  def persistent_load(self, pid: Any) -> _Storage:
    kind, dtype, key, _, length, *view = pid
    if (
      kind != 'storage'
      or not isinstance(dtype, np.dtype)
      or not isinstance(key, str | int)
      or not isinstance(length, int)
      or any(view)
    ):
      raise UserError('refused: an object that is not a tensor')
    return _Storage(str(key), dtype, length)


def _integers(values: Any) -> tuple[int, ...]:
  return tuple(int(value) for value in values)


def _cut(text: object) -> str:
  """At most one short line for an error message, whatever a file contains."""
  return ' '.join(str(text)[:_SHOWN].split())
