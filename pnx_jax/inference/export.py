"""The old place of `python -m pnx_jax.export`."""

from pnx_jax.cli import one_line
from pnx_jax.errors import UserError

if __name__ == '__main__':
  with one_line():
    raise UserError(
      '`python -m pnx_jax.inference.export` is now `python -m pnx_jax.export`; '
      'its flags are the same'
    )
