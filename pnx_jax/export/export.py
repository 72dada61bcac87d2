"""Exports an evaluated run as one folder that needs no pnx_jax.

The folder holds the networks as StableHLO for CPU, CUDA and TPU
(`jax.export`), their weights as arrays, all settings in model.json, predict.py,
which needs no package but jax and what jax installs, and a model card.
"""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
from typing import Any

import jax
import jax.export
import numpy as np

from pnx_jax.errors import UserError
from pnx_jax.export import model_card, standalone
from pnx_jax.formats import folders
from pnx_jax.prediction import deployment, exported
from pnx_jax.prediction.deployment import Deployment
from pnx_jax.prediction.network import Network, Probabilities, predict
from pnx_jax.training import run_files

PLATFORMS = ('cpu', 'cuda', 'tpu')
COMPUTE_DTYPES = ('float32', 'bfloat16')


def export(
  run: str | os.PathLike[str],
  output: str | os.PathLike[str],
  *,
  compute_dtype: str = COMPUTE_DTYPES[0],
  accept_edited: bool = False,
) -> None:
  """Writes the folder `output`, which appears when it is complete.

  Args:
    run: workdir of an evaluated run.
    output: a new or empty folder.
    compute_dtype: what the networks compute in, on every platform.
    accept_edited: export a run whose files were edited after its evaluation
      sealed them; settings and model card name them.

  Raises:
    UserError: the run was not evaluated or was edited, or the folder cannot be
      written.
  """
  output = pathlib.Path(output).absolute()
  if output.exists() and (not output.is_dir() or any(output.iterdir())):
    raise UserError(f'{output} exists and is not empty; choose another')
  folders.check_not_mounted(output)
  content = files(run, compute_dtype=compute_dtype, accept_edited=accept_edited)
  with folders.appearing(output) as folder:
    for name, data in content.items():
      (folder / name).write_bytes(data)


def files(
  run: str | os.PathLike[str],
  *,
  compute_dtype: str = COMPUTE_DTYPES[0],
  accept_edited: bool = False,
) -> dict[str, bytes]:
  """The content of an export by file name; see `export`."""
  deployed = Deployment.load(run, accept_edited=accept_edited)
  ensemble = deployment.load(run, accept_edited=accept_edited)
  content, members, known = {}, [], {}
  for number, network in enumerate(ensemble.networks):
    # Folds and checkpoints of one run share a program.
    kind = (network.model, network.image_size)
    if kind not in known:
      known[kind] = f'network_{len(known)}.stablehlo'
      content[known[kind]] = program(
        portable(network, compute_dtype), image_size=ensemble.image_size
      ).serialize()
    weights = f'weights_{number}.npz'
    content[weights] = _npz(named(network.variables))
    members.append({'program': known[kind], 'weights': weights})

  settings = {
    'format': exported.FORMAT,
    'notice': model_card.NOTICE,
    'name': pathlib.Path(run).absolute().name,
    'version': ensemble.version,
    'rules_version': ensemble.rules_version,
    'data': ensemble.data,
    'seal': ensemble.seal,
    'image_size': ensemble.image_size,
    'window': ensemble.window,
    'rules': dataclasses.asdict(ensemble.postprocess),
    'flip': deployed.flip,
    'scales': deployed.scales,
    'image_probability': ensemble.networks[0].image_probability,
    'members': members,
    'folds': deployed.folds,
    'runs': len(deployed.runs),
    'compute_dtype': compute_dtype,
    'platforms': PLATFORMS,
    'commit': run_files.commit(),
    'jax': jax.__version__,
    'files': {
      name: exported.sha256(data) for name, data in sorted(content.items())
    },
  }
  content['predict.py'] = pathlib.Path(standalone.__file__).read_bytes()
  content['README.md'] = model_card.render(
    run, settings, ensemble.networks
  ).encode()
  # The last one: without it the others are not an export.
  text = json.dumps(exported.seal(settings), indent=2, allow_nan=False)
  content[exported.SETTINGS] = f'{text}\n'.encode()
  return content


def program(network: Network, *, image_size: int) -> jax.export.Exported:
  """A network with its augmentation as a program that takes named weights.

  Args:
    network: which; its weights are not in the program.
    image_size: S of the uint8[B, S, S, 1] that it takes, for any B.
  """
  weights = named(network.variables)
  structure = jax.tree.structure(network.variables)

  def named_predict(weights_by_name: dict[str, Any], images) -> Probabilities:
    leaves = [weights_by_name[name] for name in weights]
    variables = jax.tree.unflatten(structure, leaves)
    return predict(variables, images, **network.options())

  (batch,) = jax.export.symbolic_shape('batch')
  images = jax.ShapeDtypeStruct((batch, image_size, image_size, 1), np.uint8)
  with _no_source_paths():
    return jax.export.export(jax.jit(named_predict), platforms=PLATFORMS)(
      jax.eval_shape(lambda: weights), images
    )


def portable(network: Network, compute_dtype: str) -> Network:
  """The network in a form that every platform runs well."""
  model = network.model.with_style(
    dtype=np.dtype(compute_dtype), platform='any', remat=False
  )
  return dataclasses.replace(network, model=model)


def named(variables: Any) -> dict[str, np.ndarray]:
  """The arrays of a tree by their path, in the order of its leaves."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(variables)
  return {
    '/'.join(key.key for key in path): np.asarray(leaf) for path, leaf in leaves
  }


def _npz(arrays) -> bytes:
  file = io.BytesIO()
  np.savez(file, **arrays)
  return file.getvalue()


@contextlib.contextmanager
def _no_source_paths():
  """Leaves the paths of this machine's files out of a program."""
  limit = jax.config.jax_traceback_in_locations_limit
  jax.config.update('jax_traceback_in_locations_limit', 0)
  try:
    yield
  finally:
    jax.config.update('jax_traceback_in_locations_limit', limit)
