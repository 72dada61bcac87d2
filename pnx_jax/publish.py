"""Copies a local folder into a bucket, so that this program can read it there.

python -m pnx_jax.publish data/siim gs://bucket/siim
"""

import pathlib
from collections.abc import Sequence

from pnx_jax.cli import Parser, one_line
from pnx_jax.errors import UserError
from pnx_jax.storage import lease
from pnx_jax.storage.addresses import parse
from pnx_jax.storage.published import Folder


def main(arguments: Sequence[str] | None = None) -> None:
  """Publishes a folder, unless there is one at the address."""
  with one_line():
    parser = Parser('pnx_jax.publish', __doc__, buckets=['address'])
    parser.add_argument('folder', help='a dataset, a run or an export')
    parser.add_argument('address', help='gs://bucket/folder or s3://...')
    flags = parser.parse(arguments)
    address, path = parse(flags.address), pathlib.Path(flags.folder)
    if not path.is_dir():
      raise UserError(f'there is no folder {path}')
    with lease.held(address / 'publish.lease') as held:
      folder = Folder(address, path, check=held.check)
      if folder.listed().exists:
        raise UserError(f'{address} is published already: choose another')
      folder.publish()
    print(f'Published {path} as {address}.')


if __name__ == '__main__':
  main()
