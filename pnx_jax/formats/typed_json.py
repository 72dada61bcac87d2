"""JSON whose types, fields and completeness are checked when it is read."""

import contextlib
import dataclasses
import math
import os
import types
import typing
from typing import Any, TypeVar

from pnx_jax.errors import UserError
from pnx_jax.formats import files

_Kind = TypeVar('_Kind')


def load(
  path: str | os.PathLike[str], kind: type[_Kind], *, remedy: str
) -> _Kind:
  """Reads a JSON file as a value of a type; see `convert`.

  Args:
    path: The file.
    kind: What it must hold.
    remedy: What the user can do about a missing or damaged file.

  Raises:
    UserError: The file cannot be read, or holds something else.
  """
  content = files.read_json(path, remedy=remedy)
  try:
    return convert(content, kind)
  except ValueError as error:
    raise UserError(f'{path} is damaged: {error}; {remedy}') from None


def convert(content: Any, kind: Any, where: str = '') -> Any:
  """Returns parsed JSON as a value of a type.

  Args:
    content: What `json.loads` returns.
    kind: int, float, str, bool, None, Any, a union or Literal of these, a
      dataclass or NamedTuple, or a list, tuple or dict with typed content.
      Fields with a default may be missing; unknown fields are left out.
    where: Path of the value in the file, for messages.

  Raises:
    ValueError: A value has another type, or a field is missing.
  """
  origin, arguments = typing.get_origin(kind), typing.get_args(kind)
  if kind is Any:
    return content
  if origin in (typing.Union, types.UnionType):
    return _union(content, arguments, where)
  if origin is typing.Literal:
    if content not in arguments:
      raise _error(where, f'one of {", ".join(map(repr, arguments))}', content)
    return content
  if origin in (list, tuple):
    return _sequence(content, origin, arguments, where)
  if origin is dict:
    if not isinstance(content, dict):
      raise _error(where, 'an object', content)
    return {
      key: convert(value, arguments[1], f'{where}.{key}'.lstrip('.'))
      for key, value in content.items()
    }
  if dataclasses.is_dataclass(kind) or hasattr(kind, '_fields'):
    return _record(content, kind, where)
  return _scalar(content, kind, where)


def _scalar(content: Any, kind: Any, where: str) -> Any:
  if kind is float and type(content) in (int, float):
    with contextlib.suppress(OverflowError):  # an integer of many digits
      if math.isfinite(content):
        return float(content)
  elif kind in (None, types.NoneType):
    if content is None:
      return None
  elif type(content) is kind and (kind is not int or abs(content) < 1 << 63):
    return content
  name = 'null' if kind in (None, types.NoneType) else kind.__name__
  raise _error(where, name, content)


def _union(content: Any, kinds: tuple[Any, ...], where: str) -> Any:
  errors = []
  for kind in kinds:
    try:
      return convert(content, kind, where)
    except ValueError as error:
      errors.append(error)
  raise errors[0]


def _sequence(
  content: Any, origin: Any, kinds: tuple[Any, ...], where: str
) -> Any:
  if not isinstance(content, list):
    raise _error(where, 'a list', content)
  if origin is list or kinds[-1] is Ellipsis:
    kinds = (kinds[0],) * len(content)
  if len(content) != len(kinds):
    raise _error(where, f'{len(kinds)} values', content)
  return origin(
    convert(value, kind, f'{where}[{place}]')
    for place, (value, kind) in enumerate(zip(content, kinds, strict=True))
  )


def _record(content: Any, kind: Any, where: str) -> Any:
  if not isinstance(content, dict):
    raise _error(where, 'an object', content)
  hints = typing.get_type_hints(kind)
  if dataclasses.is_dataclass(kind):
    fields = {field.name: field for field in dataclasses.fields(kind)}
    missing = dataclasses.MISSING
    required = {
      name
      for name, field in fields.items()
      if field.default is missing and field.default_factory is missing
    }
  else:
    fields = dict.fromkeys(kind._fields)
    required = fields.keys() - kind._field_defaults.keys()
  for name in fields:
    if name in required and name not in content:
      raise ValueError(f'{f"{where}.{name}".lstrip(".")} is missing')
  return kind(
    **{
      name: convert(content[name], hints[name], f'{where}.{name}'.lstrip('.'))
      for name in fields
      if name in content
    }
  )


def _error(where: str, expected: str, content: Any) -> ValueError:
  shown = repr(content)
  shown = shown if len(shown) <= 40 else f'{shown[:37]}...'
  return ValueError(f'{where or "it"} must be {expected}, not {shown}')
