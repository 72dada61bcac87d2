"""The old place of `python -m pnx_jax.triage`."""

from pnx_jax.cli import one_line
from pnx_jax.errors import UserError

if __name__ == '__main__':
  with one_line():
    raise UserError(
      '`python -m pnx_jax.inference.triage` is now `python -m pnx_jax.triage`; '
      'its flags are the same'
    )
