"""Damaged files are rejected; none ends or stops a build."""

import collections
import functools
import pathlib

import numpy as np
import pytest
from pydicom import data as pydicom_data

from data_prep import entries, prepare
from pnx_jax import pool

TIMES = 500
SECONDS = 20
LOSSLESS_JPEG = b'1.2.840.10008.1.2.4.70'


def damaged(original, random_state):
  """Bytes of a file of which some are flipped, cut out or cut off."""
  data = bytearray(original)
  kind = random_state.integers(4)
  if kind == 0:
    return data[: random_state.integers(len(data))]
  # The header and the pixels alike, though they differ in size.
  end = min(len(data), 3000) if kind == 1 else len(data)
  for _ in range(random_state.integers(1, 30)):
    data[random_state.integers(end)] ^= 1 << random_state.integers(8)
  if kind == 3:
    start = random_state.integers(end)
    del data[start : start + random_state.integers(1, 200)]
  return data


def originals(folder):
  """Small files of every syntax, and real films where there are any."""
  small = pathlib.Path(pydicom_data.__file__).parent / 'test_files'
  files = [
    path
    for path in sorted(small.iterdir())
    if path.name.startswith(('MR_small', 'JPEG', '693', 'image_dfl'))
  ]
  if folder is not None:
    files += sorted((folder / 'siim').rglob('*.dcm'))[:12]
    files += sorted((folder / 'dicom_matrix').glob('*baseline*'))
    files += sorted((folder / 'dicom_matrix').glob('*lossless_modality*'))
  return [path.read_bytes() for path in files]


@pytest.mark.filterwarnings('ignore')
def test_damaged_files(tmp_path, request):
  try:
    folder = request.getfixturevalue('real_data')
  except pytest.skip.Exception:
    folder = None
  files = originals(folder)
  damaged_files = []
  for number in range(TIMES):
    random_state = np.random.default_rng(number)
    path = tmp_path / f'{number}.dcm'
    path.write_bytes(damaged(files[number % len(files)], random_state))
    damaged_files.append(
      entries.Entry(str(path), str(number), entries.TRAIN, ())
    )
  run_batch = functools.partial(
    prepare.run_batch,
    options=prepare.RecordOptions(16, 'auto', (), ()),
    folder=tmp_path,
    salt=b'',
  )
  outcomes = [
    outcome
    for done in pool.run(
      run_batch,
      pool.batches(enumerate(damaged_files), 10),
      num_workers=2,
      on_death=lambda _, source, death: source.path,
      limits=pool.Limits(seconds=SECONDS),
    )
    for outcome in done
  ]
  assert len(outcomes) == TIMES
  # gdcm, the one decoder of lossless JPEG, ends the process now and then.
  ended = [outcome for outcome in outcomes if isinstance(outcome, str)]
  assert all(LOSSLESS_JPEG in pathlib.Path(path).read_bytes() for path in ended)
  reasons = collections.Counter(
    outcome.reason
    for outcome in outcomes
    if isinstance(outcome, entries.Rejection)
  )
  assert {'truncated', 'undecodable', 'no_pixels'} <= set(reasons)
  assert len(outcomes) > reasons.total()  # some survive
