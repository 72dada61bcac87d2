"""Every public name of pnx_jax has a known type."""

import json
import os
import pathlib
import subprocess
import sys

# CLU declares no types, so pyright does not know what these derive from.
CLU_CLASSES = {
  f'pnx_jax.metrics.dice.{name}'
  for name in ('MeanDice', 'PositiveDice', 'SegmentationMetrics')
}
ROOT = pathlib.Path(__file__).parent.parent


def test_every_public_name_has_a_known_type():
  command = [sys.executable, '-m', 'basedpyright', '--outputjson']
  command += ['--verifytypes', 'pnx_jax', '--ignoreexternal']
  # It looks for packages where the first `python` of PATH has them.
  folder = pathlib.Path(sys.executable).absolute().parent
  search = os.pathsep.join([str(folder), os.environ.get('PATH', '')])
  found = subprocess.run(
    command,
    capture_output=True,
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT), 'PATH': search},
  )
  types = json.loads(found.stdout)['typeCompleteness']
  unknown = sorted(
    f'{symbol["name"]}: {problem["message"]}'
    for symbol in types['symbols']
    if symbol['isExported'] and not symbol['isTypeKnown']
    for problem in symbol['diagnostics']
    if not (symbol['name'] in CLU_CLASSES and 'class' in problem['message'])
  )
  assert not unknown, '\n'.join(unknown)
  assert len(types['symbols']) > 1000
