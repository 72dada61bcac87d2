"""Peak memory of the largest film that is read, and of one that is refused.

  python -m benchmarks.large_films

One film has as many pixels of 16 bits as are allowed; the other is a deflated
file of 1 MB that inflates to 1 GB. Each is read by a process of its own, whose
peak of resident memory is printed beside that before the film is read.
"""

import pathlib
import subprocess
import sys
import tempfile
import zlib

import numpy as np
from pydicom import uid

from benchmarks import damaged_films, memory
from pnx_jax.formats import dicom, limits

_INFLATED = 1 << 30
_READ = 'import benchmarks.large_films as b, sys; b.read(sys.argv[1])'


def film(side: int, syntax: uid.UID) -> bytes:
  """Returns a DICOM file of noise."""
  noise = np.random.default_rng(0).integers(4096, size=(side, side))
  made = damaged_films.uncompressed(noise.astype(np.uint16))
  made.file_meta.TransferSyntaxUID = syntax
  return damaged_films.as_file(made)


def bomb() -> bytes:
  """Returns a small deflated file that inflates to a GB of zeros."""
  whole = film(8, uid.DeflatedExplicitVRLittleEndian)
  # The group of meta information says how long it is, at a fixed place.
  length = int.from_bytes(whole[140:144], 'little')
  head, deflated = whole[: 144 + length], whole[144 + length :]
  content = zlib.decompress(deflated, -zlib.MAX_WBITS)
  compressor = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
  parts = [head, compressor.compress(content)]
  zeros = bytes(1 << 20)
  parts += [compressor.compress(zeros) for _ in range(_INFLATED >> 20)]
  return b''.join([*parts, compressor.flush()])


def read(path: str) -> None:
  """Reads a film; prints the outcome and the memory."""
  before = memory.peak_megabytes()
  try:
    outcome = f'{dicom.read(path).pixels.size:,} pixels'
  except dicom.UnusableDicom as error:
    outcome = f'refused: {error}'
  print(f'{outcome}; {memory.peak_megabytes():.0f} MB, before {before:.0f} MB')


def main() -> None:
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'film.dcm'
    side = int(limits.MOST_PIXELS**0.5)
    for name, content in (
      ('largest', film(side, uid.ExplicitVRLittleEndian)),
      ('deflated', bomb()),
    ):
      path.write_bytes(content)
      print(f'{name} ({len(content) / 1e6:.0f} MB): ', end='', flush=True)
      subprocess.run([sys.executable, '-c', _READ, str(path)], check=True)


if __name__ == '__main__':
  main()
