import numpy as np

from pnx_jax.formats import dicom


def test_monochrome1_is_the_negative_of_the_same_stored_pixels(real_data):
  # The two files hold the same stored pixels under the two interpretations.
  folder = real_data / 'dicom_matrix'
  inverted = dicom.read(folder / 'monochrome1_jpeg_baseline.dcm').pixels
  twin = dicom.read(folder / 'monochrome2_twin_jpeg_baseline.dcm').pixels
  difference = inverted.astype(int) - (255 - twin.astype(int))
  assert np.abs(difference).max() <= 1
