"""The training step as a TPU's compiler sees it; no TPU is needed."""

import importlib
import re
import subprocess
import sys

import pytest

from benchmarks import tpu

# In a process of its own: libtpu reads its settings when JAX starts.
PROGRAM = """
import sys
from absl import flags
from benchmarks import programs, tpu
flags.FLAGS(['test'])
devices = tpu.mesh(sys.argv[1])
config = programs.config_of(
  'resunet', image_size=32, batch_size=devices.size,
  **{'model.width': 4, 'model.depth': 2, 'model.output_stride': 2},
)
print(tpu.compiled_training(config, devices).as_text())
"""


@pytest.fixture(scope='module', params=['v5e:2x2', 'v5e:8x8'])
def program(request):
  """The optimized program of a tiny step on 4 chips, or on 64 of 16 hosts."""
  reason = tpu.missing()
  if reason:
    pytest.skip(reason)
  done = subprocess.run(
    [sys.executable, '-c', PROGRAM, request.param],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return done.stdout


def test_a_step_for_tpu(program):
  assert re.search(r' all-reduce(-start)?\(', program)
  for callback in ('outfeed', 'infeed', 'xla_python', 'host_callback'):
    assert callback not in program
  assert 'f64[' not in program
  # Image and label are read together, and nothing else by index.
  assert len(re.findall(r' gather\(', program)) == 1
  assert ' scatter(' not in program


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
    f'  ROOT %loop = {array} while(%one), condition=%c, body=%body, '
    'backend_config={"known_trip_count":{"n":"3"}}',
    '}',
  ]
  hlo = '\n'.join(lines)
  # 16 values are padded to 128 lanes; what lies on the chip moves no bytes.
  assert tpu.by_part(hlo) == {
    'decoder, stride 2': (7, 4096),
    'augmentation': (30, 3 * 2 * 4096),
  }


def test_without_libtpu_the_reason_is_told(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  assert 'pip install' in tpu.missing() or 'Python 3.12' in tpu.missing()
