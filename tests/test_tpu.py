"""The training step as a TPU's compiler sees it; no TPU is needed."""

import importlib
import re
import subprocess
import sys

import pytest

from benchmarks import tpu

# Both in processes of their own: libtpu reads its settings when JAX starts.
STEP = """
import functools, sys
import jax
from absl import flags
from benchmarks import programs, tpu
from pnx_jax.models import cpu
from pnx_jax.training import experiment, train_state

class Refused(Exception):
  pass

def refuse(*arguments, **options):
  raise Refused

flags.FLAGS(['test'])
topology, recipe, encoder = sys.argv[1:]
devices = tpu.mesh(topology)
config = programs.config_of(
  recipe, image_size=32, batch_size=devices.size,
  **{
    'model.encoder': encoder, 'model.width': 4, 'model.depth': 2,
    'model.output_stride': 2,
  },
)
for name in cpu.__all__:
  setattr(cpu, name, refuse)
try:
  jax.eval_shape(
    functools.partial(
      train_state.init_variables,
      model=experiment.network(config, platform='cpu'), image_size=32,
    ),
    jax.random.key(0),
  )
  raise AssertionError('A network for a CPU has none of its forms.')
except Refused:
  pass
print(tpu.compiled_training(config, devices).as_text())
"""
CALLBACK = """
import jax
import jax.numpy as jnp
from benchmarks import tpu
from pnx_jax.training import sharding

def planted(x):
  jax.debug.callback(print, x.sum())
  return 2 * x

whole = sharding.replicated(tpu.mesh('v5e:2x2'))
x = jax.ShapeDtypeStruct((8, 128), jnp.float32, sharding=whole)
print(jax.jit(planted, out_shardings=whole).lower(x).compile().as_text())
"""


def printed(program, *arguments):
  """What a program prints, where libtpu is."""
  reason = tpu.missing()
  if reason:
    pytest.skip(reason)
  done = subprocess.run(
    [sys.executable, '-c', program, *arguments], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return done.stdout


def calls_the_host(program):
  """Whether a program sends to its host or waits for it while it runs."""
  return bool(re.search(r'is_host_transfer=true| (in|out)feed\(', program))


# On 4 chips, and on 64 of 16 hosts: depthwise, groups, weights of channels.
@pytest.mark.parametrize(
  ('topology', 'recipe', 'encoder'),
  [
    ('v5e:2x2', 'efficientnet_unet', '_tiny_efficientnet'),
    ('v5e:8x8', 'resunet', '_tiny_se_resnext'),
  ],
)
def test_a_step_for_tpu(topology, recipe, encoder):
  """Traced while every form of a CPU is refused."""
  program = printed(STEP, topology, recipe, encoder)
  assert re.search(r' all-reduce(-start)?\(', program)
  assert not calls_the_host(program)
  assert 'f64[' not in program
  # Image and label are read together, and nothing else by index.
  assert len(re.findall(r' gather\(', program)) == 1
  assert ' scatter(' not in program


def test_a_callback_is_seen():
  assert calls_the_host(printed(CALLBACK))


def test_parts_of_a_program():
  """Cycles and bytes of a program written by hand, loops included."""
  array = 'f32[8,128]{1,0:T(8,128)}'
  decoder = 'jit(f)/jvp(Segmenter)/decoder/decoder.block/stride2/conv1/add'
  lines = [
    '%body (p: f32[8,128]) -> f32[8,128] {',
    f'  %p = {array} parameter(0)',
    f'  ROOT %two = {array} fusion(%p), '
    'metadata={op_name="jit(f)/vmap()/add"}, '
    'backend_config={"estimated_cycles":"10"}',
    '}',
    'ENTRY %main (x: f32[8,16]) -> f32[8,128] {',
    '  %x = f32[8,16]{1,0:T(8,128)} parameter(0)',
    '  %one = f32[8,128]{1,0:T(8,128)S(1)} fusion(%x), '
    f'metadata={{op_name="{decoder}"}}, '
    'backend_config={"estimated_cycles":"7"}',
    f'  %ahead = (f32[4,128]{{1,0:T(8,128)S(1)}}, {array}, u32[]{{:S(2)}}) '
    'slice-start(%x), slice={[0:4], [0:128]}',
    f'  ROOT %loop = {array} while(%one), condition=%c, body=%body, '
    'backend_config={"known_trip_count":{"n":"3"}}',
    '}',
  ]
  hlo = '\n'.join(lines)
  # 16 values are padded to 128 lanes; what lies on the chip moves no bytes.
  assert tpu.by_part(hlo) == {
    'decoder, stride 2': (7, 4096),
    'augmentation': (30, 3 * 2 * 4096),
    'prefetches': (0, 4096),
  }


def test_without_libtpu_the_reason_is_told(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  assert 'pip install' in tpu.missing() or 'Python 3.12' in tpu.missing()
