"""What limits the slowest operations of a compiled step.

Time of each operation comes from a profiler trace, its bytes from the shapes
it reads and writes, its multiplications from the convolutions inside it.
"""

import collections
import glob
import math
import re
import tempfile

import jax

# bfloat16 operations and bytes of memory per second, dense.
PEAKS = {
  'H200': (989e12, 4.8e12),
  'H100': (989e12, 3.35e12),
  'A100': (312e12, 2.0e12),
}
_BYTES = {'pred': 1, 's8': 1, 'u8': 1}
_BYTES |= dict.fromkeys(('bf16', 'f16', 's16', 'u16'), 2)
_BYTES |= dict.fromkeys(('s64', 'u64', 'f64'), 8)
_SHAPE = re.compile(r'\b(pred|bf16|[fsu]\d+)\[([\d,]*)\]')
_DEFINITION = re.compile(r'^\s*(?:ROOT )?%?([\w.\-]+) = (.*)$')


def peaks(device_kind):
  """Operations and bytes per second of a device, or None."""
  known = [peak for name, peak in PEAKS.items() if name in device_kind]
  return known[0] if known else None


def bytes_of(kind):
  """Bytes per value of a type as HLO text names it."""
  return _BYTES.get(kind, 4)


def shapes(text):
  """`[(bytes per value, (sizes...)), ...]` of the shapes in HLO text."""
  return [
    (bytes_of(kind), tuple(int(n) for n in sizes.split(',') if n))
    for kind, sizes in _SHAPE.findall(text)
  ]


def operations(hlo):
  """Bytes and floating-point operations of each instruction, by name."""
  results, bodies, flops, inside = {}, {}, collections.Counter(), None
  for line in hlo.splitlines():
    computation = re.match(r'^%?([\w.\-]+) .*\{$', line)
    if computation:
      inside = computation[1]
    definition = _DEFINITION.match(line)
    if not definition:
      continue
    name, text = definition.groups()
    head = text.split(', metadata=')[0]
    results[name] = shapes(re.split(r'\s[\w\-]+\(', head)[0])
    bodies[name] = head
    flops[inside] += convolution_flops(head, results)
    flops[name] += convolution_flops(head, results)
  moved = {}
  for name, head in bodies.items():
    operands = re.findall(r'%([\w.\-]+)', head.split('), ')[0])
    involved = [
      shape
      for operand in (name, *operands)
      for shape in results.get(operand, [])
    ]
    moved[name] = sum(size * math.prod(shape) for size, shape in involved)
    called = re.search(r'calls=%?([\w.\-]+)', head)
    if called:
      flops[name] += flops[called[1]]
  return moved, flops


def convolution_flops(head, results):
  """2 x multiply-adds of a convolution or of cuDNN's call; else 0."""
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', head)
  operands = re.findall(r'%([\w.\-]+)', head.split('), ')[0])
  if not labels or len(operands) < 2:
    return 0
  left, right = (results[operand][0][1] for operand in operands[:2])
  result = shapes(head)[0][1]
  if 'BackwardFilter' in head:
    output, kernel = right, result
  elif 'BackwardInput' in head:
    output, kernel = left, right
  else:
    output, kernel = result, right
  return (
    2 * math.prod(output) * math.prod(kernel) / kernel[labels[2].index('o')]
  )


def seconds(run, steps):
  """Mean seconds per step of each instruction in `steps` calls of `run`."""
  total = collections.Counter()
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      run(steps)
    (path,) = glob.glob(f'{folder}/**/*.xplane.pb', recursive=True)
    for plane in jax.profiler.ProfileData.from_file(path).planes:
      for line in plane.lines:
        for event in line.events:
          name = dict(event.stats).get('hlo_op')
          if name:
            total[name] += event.duration_ns / 1e9 / steps
  return total


def memory_needed(program):
  """Bytes of a compiled program's arguments, results and what is between."""
  memory = program.memory_analysis()
  return (
    memory.argument_size_in_bytes
    + memory.temp_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
  )


def report(run, hlo, *, device_kind, steps=3, slowest=5):
  """Prints the slowest operations with what they reach of the peaks."""
  moved, flops = operations(hlo)
  times = seconds(run, steps)
  whole = sum(times.values())
  peak = peaks(device_kind)
  print('operation                       share     ms   TFLOP/s   GB/s  limit')
  for name, time in times.most_common(slowest):
    rate, traffic = flops[name] / time, moved.get(name, 0) / time
    limit = ''
    if peak:
      share = {'compute': rate / peak[0], 'memory': traffic / peak[1]}
      bound = max(share, key=share.get)
      limit = f'{share[bound]:.0%} of {bound}'
    print(
      f'{name[:30]:30} {time / whole:6.1%} {1e3 * time:6.2f} '
      f'{rate / 1e12:9.2f} {traffic / 1e9:6.0f}  {limit}'
    )
