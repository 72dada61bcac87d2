"""Writes an evaluated run down as one folder that needs no pnx_jax.

`python -m pnx_jax.export.export --workdir=runs/resunet --output=model`
leaves the networks as StableHLO for CPU, CUDA and TPU (`jax.export`), their
weights as arrays, all settings in model.json, predict.py, which applies them
with jax and what it brings alone, and a model card.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import os
import pathlib
import shutil

import flax.linen as nn
import jax
import jax.export
import numpy as np

from pnx_jax.cli import one_line
from pnx_jax.errors import UserError
from pnx_jax.export import model_card, standalone
from pnx_jax.prediction import exported, predictor
from pnx_jax.prediction.deployment import Deployment
from pnx_jax.prediction.network import Network, predict
from pnx_jax.training import run_files, sharding

PLATFORMS = ('cpu', 'cuda', 'tpu')
COMPUTE_DTYPES = ('float32', 'bfloat16')


def export(
  run: str | os.PathLike,
  output: str | os.PathLike,
  *,
  compute_dtype: str = COMPUTE_DTYPES[0],
) -> None:
  """Writes the folder `output`, which appears when it is complete.

  Args:
    run: workdir of an evaluated run.
    output: a new or empty folder.
    compute_dtype: what the networks compute in, on every platform.

  Raises:
    UserError: the run was not evaluated, or the folder cannot be written.
  """
  output = pathlib.Path(output).absolute()
  partial = output.with_name(output.name + '.partial')
  try:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
      raise UserError(f'{output} exists and is not empty; choose another')
    content = files(run, compute_dtype=compute_dtype)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, data in content.items():
      (partial / name).write_bytes(data)
    partial.replace(output)
  except OSError as error:
    shutil.rmtree(partial, ignore_errors=True)
    raise UserError(f'cannot write {output}: {error.strerror}') from None


def files(
  run: str | os.PathLike, *, compute_dtype: str = COMPUTE_DTYPES[0]
) -> dict[str, bytes]:
  """The content of an export by file name; see `export`."""
  deployment = Deployment.load(run)
  mesh = sharding.mesh()
  networks = deployment.networks(run, mesh)
  whole = predictor.of(run, deployment, networks)

  content, members, known = {}, [], {}
  for number, network in enumerate(networks):
    # Folds and checkpoints of one run share a program.
    kind = (network.model, network.image_size)
    if kind not in known:
      known[kind] = f'network_{len(known)}.stablehlo'
      content[known[kind]] = program(
        portable(network, compute_dtype), deployment, whole.image_size
      ).serialize()
    weights = f'weights_{number}.npz'
    content[weights] = _npz(named(network.variables))
    members.append({'program': known[kind], 'weights': weights})

  settings = {
    'format': exported.FORMAT,
    'notice': model_card.NOTICE,
    'name': pathlib.Path(run).absolute().name,
    'version': whole.version,
    'rules_version': whole.rules_version,
    'data': whole.data,
    'image_size': whole.image_size,
    'window': whole.window,
    'rules': dataclasses.asdict(whole.postprocess),
    'flip': deployment.flip,
    'scales': deployment.scales,
    'members': members,
    'folds': deployment.folds,
    'runs': len(deployment.runs),
    'compute_dtype': compute_dtype,
    'platforms': PLATFORMS,
    'commit': run_files.commit(),
    'jax': jax.__version__,
    'files': {
      name: exported.sha256(data) for name, data in sorted(content.items())
    },
  }
  content['predict.py'] = pathlib.Path(standalone.__file__).read_bytes()
  content['README.md'] = model_card.render(run, settings, networks).encode()
  # The last one: without it the others are no model.
  text = json.dumps(exported.seal(settings), indent=2, allow_nan=False)
  content[exported.SETTINGS] = f'{text}\n'.encode()
  return content


def program(
  network: Network, deployment: Deployment, image_size: int
) -> jax.export.Exported:
  """A network with its augmentation: named weights and images to an answer.

  Args:
    network: which; its weights are not in the program.
    deployment: how the image is augmented.
    image_size: S of the uint8[B, S, S, 1] it takes, for any B.
  """
  weights = named(network.variables)
  structure = jax.tree.structure(network.variables)

  def answer(weights_by_name, images):
    leaves = [weights_by_name[name] for name in weights]
    variables = jax.tree.unflatten(structure, leaves)
    return predict(
      variables,
      predictor.shrunk(images, network.image_size),
      model=network.model,
      presence=network.presence,
      flip=deployment.flip,
      scales=deployment.scales,
    )

  (batch,) = jax.export.symbolic_shape('batch')
  images = jax.ShapeDtypeStruct((batch, image_size, image_size, 1), np.uint8)
  with _no_source_paths():
    return jax.export.export(jax.jit(answer), platforms=PLATFORMS)(
      jax.eval_shape(lambda: weights), images
    )


def portable(network: Network, compute_dtype: str) -> Network:
  """The network in a form that every platform runs well."""

  def changed(part: nn.Module) -> nn.Module:
    return part.clone(
      style=dataclasses.replace(
        part.style, dtype=np.dtype(compute_dtype), portable=True, remat=False
      )
    )

  whole = network.model
  return dataclasses.replace(
    network,
    model=whole.clone(
      encoder=changed(whole.encoder), decoder=changed(whole.decoder)
    ),
  )


def named(variables) -> dict[str, np.ndarray]:
  """Arrays by their path in the tree, in the order of its leaves."""
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
  """A program tells nothing of the machine it was written on."""
  limit = jax.config.jax_traceback_in_locations_limit
  jax.config.update('jax_traceback_in_locations_limit', 0)
  try:
    yield
  finally:
    jax.config.update('jax_traceback_in_locations_limit', limit)


def main(arguments=None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
  parser.add_argument('--workdir', required=True, help='an evaluated run')
  parser.add_argument('--output', required=True, help='a new folder')
  parser.add_argument(
    '--compute_dtype',
    choices=COMPUTE_DTYPES,
    default=COMPUTE_DTYPES[0],
    help='bfloat16 is faster on GPU and TPU, slower on CPU',
  )
  flags = parser.parse_args(arguments)
  with one_line():
    export(flags.workdir, flags.output, compute_dtype=flags.compute_dtype)
  for path in sorted(pathlib.Path(flags.output).iterdir()):
    print(f'{path.stat().st_size / 1e6:10.3f} MB  {path}')


if __name__ == '__main__':
  main()
