"""Exports an evaluated run as one folder that needs no pnx_jax.

python -m pnx_jax.export --workdir=runs/resunet --output=model
"""

from collections.abc import Sequence

from pnx_jax.cli import Parser, one_line
from pnx_jax.export.export import COMPUTE_DTYPES, export
from pnx_jax.storage import local


def main(arguments: Sequence[str] | None = None) -> None:
  """Parses the command line, exports, and lists the files."""
  parser = Parser('pnx_jax.export', __doc__, buckets=['workdir', 'output'])
  parser.add_argument('--workdir', required=True, help='an evaluated run')
  parser.add_argument('--output', required=True, help='a new folder')
  parser.add_argument(
    '--compute_dtype',
    choices=COMPUTE_DTYPES,
    default=COMPUTE_DTYPES[0],
    help='bfloat16 is faster on GPU and TPU, slower on CPU',
  )
  parser.add_argument(
    '--accept_edited',
    action='store_true',
    help='export a run that was edited after its evaluation; the card says so',
  )
  with one_line():
    flags = parser.parse(arguments)
    with local.working_copy(flags.output, lock='export') as copy:
      export(
        local.fetched(flags.workdir),
        copy.path,
        compute_dtype=flags.compute_dtype,
        accept_edited=flags.accept_edited,
      )
      for path in sorted(copy.path.iterdir()):
        print(
          f'{path.stat().st_size / 1e6:10.3f} MB  {local.origin(f"{path}")}'
        )


if __name__ == '__main__':
  main()
