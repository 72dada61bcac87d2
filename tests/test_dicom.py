import os
import pathlib

import numpy as np
import pytest

from pnx_jax.formats import dicom

REAL = os.environ.get('PNX_REAL_DATA')


@pytest.mark.skipif(not REAL, reason='needs PNX_REAL_DATA')
def test_monochrome1_is_the_negative_of_the_same_stored_pixels():
  # The two files hold the same stored pixels under the two interpretations.
  folder = pathlib.Path(REAL, 'dicom_matrix')
  inverted = dicom.read(folder / 'monochrome1_jpeg_baseline.dcm').pixels
  twin = dicom.read(folder / 'monochrome2_twin_jpeg_baseline.dcm').pixels
  difference = inverted.astype(int) - (255 - twin.astype(int))
  assert np.abs(difference).max() <= 1
