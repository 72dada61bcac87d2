r"""What a TPU's compiler says of training and prediction, without a TPU.

    python -m benchmarks.tpu --recipes=resunet:resnet34 --sizes=256,512 --parts

Compiles for one chip of `--topology` with libtpu (`pip install '.[tpu]'`,
Python 3.12 or later; minutes a program) and prints the compiler's estimate of
cycles, the bytes it counts, and the memory that the chip needs. The estimate of
the time of a step is the larger of cycles / clock and bytes / bandwidth.
Nothing is run. The compiler's count of bytes is high: each word that a gather
reads counts as a tile, and arrays that stay on the chip count, too. The bytes
of arrays are those of operands and results in the chip's main memory, each
once an operation; so are the bytes of a part.

    python -m benchmarks.tpu --forms

compiles single layers instead, forward and all gradients in bfloat16, in the
forms of a GPU (XLA's own), of a TPU and of a CPU.
"""

import collections
import functools
import importlib.util
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

# Before JAX starts: no chip is opened, so other processes' locks do not matter.
os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
os.environ['JAX_PLATFORMS'] = 'cpu'

import jax
import jax.numpy as jnp
from absl import app, flags
from jax.experimental import topologies

from benchmarks import layers, programs, roofline
from pnx_jax.config import Config
from pnx_jax.prediction import network as networks
from pnx_jax.training import experiment, sharding, train_state

_RECIPES = flags.DEFINE_list(
  'recipes',
  'resunet:resnet34,efficientnet_unet:lite0,efficientnet_unet:b4,'
  'resunet:se_resnext50,unet,resunet,unetpp:resnet34',
  'Files of configs/, with their variants.',
)
_SIZES = flags.DEFINE_list('sizes', '256,512', 'Sides of the image.')
_STRIDES = flags.DEFINE_list('output_strides', '1,2', 'Of the decoder.')
_MODES = flags.DEFINE_list('modes', 'train,predict', 'What is compiled.')
_BATCH = flags.DEFINE_integer('batch_size', 16, 'Images per chip.')
_WIDTH = flags.DEFINE_integer('width', 0, "Instead of the recipe's.")
_TOPOLOGY = flags.DEFINE_string('topology', 'v5e:2x2', 'Of the chips.')
_FORMS = flags.DEFINE_bool('forms', False, 'Single layers, in three forms.')
_PARTS = flags.DEFINE_bool('parts', False, 'Also print the parts.')
_HLO_DIR = flags.DEFINE_string('hlo_dir', '', 'Where to keep the programs.')

# Name of a v5e chip; its clock in Hz, and bytes per second of its memory.
CHIP, CLOCK, BANDWIDTH = 'TPU v5 lite', 1.5e9, 819e9
# Type, sizes, order of the axes, tile and memory space of an array; spaces
# other than 0 are on the chip.
_ARRAY = re.compile(
  r'\b(pred|bf16|[fsu]\d+)\[([\d,]*)\](?:\{([\d,]*)'
  r'(?::(?:T\(([\d,]+)\))?(?:\([\d,]+\))*(?:S\((\d)\))?[^}]*)?\})?'
)


def missing() -> str:
  """Why nothing can be compiled here; '' where it can."""
  if sys.version_info < (3, 12):
    return 'libtpu needs Python 3.12 or later'
  if importlib.util.find_spec('libtpu') is None:
    return "libtpu is not installed: pip install '.[tpu]'"
  return ''


def mesh(topology: str, chips: int | None = None) -> jax.sharding.Mesh:
  """The first chips of a topology, which need not be there."""
  description = topologies.get_topology_desc(topology, platform='tpu')
  return sharding.mesh(list(description.devices)[:chips])


def compiled_training(
  config: Config, devices: jax.sharding.Mesh
) -> jax.stages.Compiled:
  """The training step of a config, compiled for the chips of a mesh."""
  step, state = programs.training_step(config, platform='tpu')
  whole = sharding.replicated(devices)
  state = train_state.abstract(state, jax.random.key(0, impl='rbg'), whole)
  return (
    jax.jit(step, donate_argnums=0, out_shardings=whole)
    .lower(state, _batch(config, devices))
    .compile()
  )


def compiled_prediction(
  config: Config, devices: jax.sharding.Mesh
) -> jax.stages.Compiled:
  """The prediction of a batch with its mirror image, compiled likewise."""
  model = experiment.network(config, platform='tpu')
  whole = sharding.replicated(devices)
  init = functools.partial(
    train_state.init_variables, model=model, image_size=config.image_size
  )
  variables = train_state.abstract(init, jax.random.key(0), whole)
  predict = functools.partial(
    networks.predict,
    model=model,
    image_size=config.image_size,
    image_probability='presence_head',
    flip=True,
    scales=(1.0,),
  )
  image = _batch(config, devices)['image']
  return jax.jit(predict, out_shardings=whole).lower(variables, image).compile()


def _batch(
  config: Config, devices: jax.sharding.Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
  size = config.image_size
  split = sharding.split(devices)

  def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(
      (config.batch_size, *shape), dtype, sharding=split
    )

  return {
    'image': array(jnp.uint8, size, size, 1),
    'label': array(jnp.bool_, size, size, 1),
    'valid': array(jnp.bool_),
    'index': array(jnp.int32),
  }


def by_part(hlo: str) -> dict[str, tuple[int, int]]:
  """Estimated cycles and bytes of an optimized program, by part of the step.

  Loops count as often as they run, where that is known, and of a `conditional`
  all branches, of which a step runs one.
  """
  computations, entry = _computations(hlo)
  found: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])

  def add(name: str, times: int) -> None:
    results = {}
    for line in computations[name]:
      definition = re.match(r'\s*(?:ROOT )?%([\w.\-]+) = (.*)$', line)
      if not definition:
        continue
      text = definition[2]
      operation = re.search(
        r'(?:^|\s)([a-z][\w\-]*)\(%|\s([a-z][\w\-]*)\(', text
      )
      kind = operation and (operation[1] or operation[2])
      start = operation.start() if operation else len(text)
      results[definition[1]] = _bytes(text[:start])
      if kind in ('copy-start', 'slice-start'):
        # Of source and destination, that on the chip is as large as the copy.
        found['prefetches'][1] += times * _bytes(text[:start], on_chip=True)
        continue
      if kind == 'while':
        trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', text)
        body = re.search(r'body=%([\w.\-]+)', text)
        add(body[1], times * int(trips[1]) if trips else times)
        continue
      if kind in ('call', 'conditional'):
        for called in re.findall(
          r'(?:to_apply|_computation)=%([\w.\-]+)', text
        ):
          add(called, times)
        continue
      cycles = re.search(r'"estimated_cycles":"(\d+)"', text)
      if not cycles:
        continue
      part = part_of(text)
      operands = re.findall(r'%([\w.\-]+)', text[start:].split(')', 1)[0])
      moved = results[definition[1]] + sum(results.get(o, 0) for o in operands)
      found[part][0] += times * int(cycles[1])
      found[part][1] += times * moved

  add(entry, 1)
  return {part: (cycles, moved) for part, (cycles, moved) in found.items()}


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
  """The lines of each computation of a module, and the name of its entry."""
  computations: dict[str, list[str]] = {}
  entry = name = ''
  for line in hlo.splitlines():
    begin = re.match(r'(ENTRY )?%([\w.\-]+) \(.*\{$', line)
    if begin:
      name = begin[2]
      computations[name] = []
      entry = name if begin[1] else entry
    elif name:
      computations[name].append(line)
  return computations, entry


def _bytes(text: str, *, on_chip: bool = False) -> int:
  """Bytes in main memory, as tiles of the chip, of the arrays in a text.

  Or those in the vector memory that is `on_chip`.
  """
  total = 0
  for kind, sizes, order, tile, space in _ARRAY.findall(text):
    if space not in (('1',) if on_chip else ('', '0')):
      continue
    padded = [int(size) for size in sizes.split(',') if size]
    axes = [int(axis) for axis in order.split(',') if axis]
    tiles = [int(side) for side in tile.split(',') if side]
    # The layout lists axes from the innermost on, the tile ends with it.
    for axis, side in zip(axes, reversed(tiles), strict=False):
      padded[axis] = math.ceil(padded[axis] / side) * side
    total += roofline.bytes_of(kind) * math.prod(padded)
  return total


def part_of(text: str) -> str:
  """The part of the network or of the step that an operation belongs to."""
  path = re.search(r'op_name="([^"]*)"', text)
  name = path[1] if path else ''
  if 'Segmenter' not in name:
    return 'augmentation' if 'vmap' in name else 'loss, optimizer, other'
  decoder = re.search(r'/decoder/.*?stride(\d+)', name)
  if decoder:
    return f'decoder, stride {decoder[1]}'
  if '/mask' in name:
    return 'mask heads'
  if 'encoder/' in name:
    stage = re.search(r'encoder/(layer\d|level\d|blocks_\d+|\w+)', name)
    return f'encoder, {stage[1].rstrip("_")}' if stage else 'encoder'
  return 'presence head, other'


def forms(devices: jax.sharding.Mesh) -> None:
  """Prints the cycles of single layers with their gradients."""
  whole = sharding.replicated(devices)
  print('| layer | of a GPU | of a TPU | of a CPU |\n|---|---|---|---|')
  for name, (function, arrays) in layers.operations().items():
    shapes = [
      jax.ShapeDtypeStruct(
        array.shape,
        jnp.bfloat16 if array.ndim > 1 else jnp.float32,
        sharding=whole,
      )
      for array in arrays
    ]
    cells = []
    for platform in ('gpu', 'tpu', 'cpu'):
      both = layers.with_gradients(function, platform)
      program = jax.jit(both, out_shardings=whole).lower(*shapes).compile()
      parts = by_part(program.as_text()).values()
      cells.append(f'{sum(cycles for cycles, _ in parts) / 1e6:.2f}')
    print(f'| {name} | {" | ".join(cells)} |', flush=True)


def _rows() -> Iterator[tuple[str, str, int, int]]:
  for recipe in _RECIPES.value:
    for size in map(int, _SIZES.value):
      for stride in map(int, _STRIDES.value):
        for mode in _MODES.value:
          yield recipe, mode, size, stride


def main(_: Any) -> None:
  reason = missing()
  if reason:
    sys.exit(f'error: {reason}')
  devices = mesh(_TOPOLOGY.value, 1)
  chip = devices.devices.item().device_kind
  if chip != CHIP:
    sys.exit(
      f'error: the clock and bandwidth here are of a v5e, not of a {chip}'
    )
  if _FORMS.value:
    forms(devices)
    return
  kinds: dict[str, Callable[..., jax.stages.Compiled]] = {
    'train': compiled_training,
    'predict': compiled_prediction,
  }
  print(
    '| recipe | mode | side | stride | width | M cycles | GiB moved | '
    'GiB of arrays | GiB memory | estimate, ms | compiled in, s |\n'
    '|---|---|---|---|---|---|---|---|---|---|---|'
  )
  for recipe, mode, size, stride in _rows():
    config = programs.config_of(
      recipe,
      **{
        'image_size': size,
        'batch_size': _BATCH.value,
        'model.output_stride': stride,
        'augmentation.crop_size': 0,
        **({'model.width': _WIDTH.value} if _WIDTH.value else {}),
      },
    )
    start = time.perf_counter()
    program = kinds[mode](config, devices)
    seconds = time.perf_counter() - start
    hlo = program.as_text()
    parts = by_part(hlo)
    cycles, of_arrays = map(sum, zip(*parts.values(), strict=True))
    moved = program.cost_analysis()['bytes accessed']
    needed = roofline.memory_needed(program)
    estimate = max(cycles / CLOCK, moved / BANDWIDTH)
    width = config.model.width
    print(
      f'| {recipe} | {mode} | {size} | {stride} | {width} | '
      f'{cycles / 1e6:.1f} | {moved / 2**30:.1f} | {of_arrays / 2**30:.1f} | '
      f'{needed / 2**30:.2f} | {1e3 * estimate:.1f} | {seconds:.0f} |',
      flush=True,
    )
    if _HLO_DIR.value:
      name = f'{recipe}_{mode}_{size}_{stride}_{width}.hlo'.replace(':', '_')
      with open(os.path.join(_HLO_DIR.value, name), 'w') as file:
        file.write(hlo)
    if _PARTS.value:
      for part, (cost, size_moved) in sorted(
        parts.items(), key=lambda item: -item[1][0]
      ):
        print(
          f'|   {part} | | | | | {cost / 1e6:.2f} ({cost / cycles:.0%}) | | '
          f'{size_moved / 2**30:.2f} | | | |'
        )


if __name__ == '__main__':
  app.run(main)
