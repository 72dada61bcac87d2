"""The order of transforms, against pydicom's own and by hand."""

import dicom_files
import numpy as np
import pydicom
import pytest
from pydicom import pixels as pydicom_pixels

from pnx_jax.formats import grayscale


def stored(bits=12, *, signed=False, shape=(40, 30)):
  low = -(1 << (bits - 1)) if signed else 0
  values = np.random.default_rng(0).integers(0, 1 << bits, shape) + low
  return values.astype(np.int16 if signed else np.uint16)


def lookup_table(values, first, bits):
  item = pydicom.Dataset()
  item.LUTDescriptor = [len(values), first, bits]
  item.LUTData = list(values)
  item['LUTDescriptor'].VR = 'US'
  item['LUTData'].VR = 'US'
  return pydicom.Sequence([item])


def assert_close(actual, expected):
  """Compares with brightness in 0..1, to one gray level."""
  np.testing.assert_allclose(actual, expected * 255, atol=1)


def voi_of_pydicom(pixels, dataset):
  """What pydicom makes of rescale and window, as brightness in 0..1."""
  rescaled = pydicom_pixels.apply_modality_lut(pixels, dataset)
  shown = pydicom_pixels.apply_voi_lut(rescaled, dataset).astype(float)
  # pydicom spreads a window over the rescaled range of the stored bits.
  slope = float(dataset.get('RescaleSlope', 1))
  intercept = float(dataset.get('RescaleIntercept', 0))
  bits, low = dataset.BitsStored, 0
  if dataset.PixelRepresentation:
    low = -(1 << (bits - 1))
  bottom = low * slope + intercept
  top = (low + (1 << bits) - 1) * slope + intercept
  return (shown - bottom) / (top - bottom)


@pytest.mark.parametrize('signed', [False, True])
@pytest.mark.parametrize(
  'change',
  [
    {'WindowCenter': 1000, 'WindowWidth': 900},
    {'WindowCenter': [600, 9], 'WindowWidth': [700, 9]},
    {
      'WindowCenter': 30,
      'WindowWidth': 1500,
      'RescaleSlope': 2,
      'RescaleIntercept': -1024,
    },
    {
      'WindowCenter': 800,
      'WindowWidth': 500,
      'VOILUTFunction': 'LINEAR_EXACT',
    },
    {'WindowCenter': 800, 'WindowWidth': 500, 'VOILUTFunction': 'SIGMOID'},
  ],
)
def test_windows_agree_with_pydicom(change, signed):
  pixels = stored(signed=signed)
  dataset = dicom_files.dataset(pixels, bits=12, **change)
  actual = grayscale.to_uint8(pixels, dataset, window='dicom')
  assert_close(actual, voi_of_pydicom(pixels, dataset))


def test_modality_lut_comes_before_the_window():
  pixels = stored(4)
  table = [int(value) for value in np.arange(16)[::-1] ** 2]
  dataset = dicom_files.dataset(
    pixels,
    bits=4,
    ModalityLUTSequence=lookup_table(table, 0, 16),
    WindowCenter=100.5,
    WindowWidth=101,
  )
  expected = np.clip((np.array(table) - 50) / 100, 0, 1)[pixels]
  assert_close(grayscale.to_uint8(pixels, dataset), expected)


def test_voi_lut_wins_over_the_window():
  pixels = stored(4)
  table = [0, 0, 0, 10, 20, 40, 80, 160, 200, 220, 240, 250, 252, 254, 255, 255]
  dataset = dicom_files.dataset(
    pixels,
    bits=4,
    VOILUTSequence=lookup_table(table, 0, 8),
    WindowCenter=8,
    WindowWidth=2,
  )
  expected = np.array(table)[pixels] / 255
  assert_close(grayscale.to_uint8(pixels, dataset), expected)


@pytest.mark.parametrize('window', grayscale.WINDOWS)
@pytest.mark.parametrize('bits', [8, 12])
def test_monochrome1_twin(window, bits):
  pixels = stored(bits)
  if bits == 8:
    pixels = pixels.astype(np.uint8)
  highest = (1 << bits) - 1
  common = {'bits': bits, 'WindowWidth': highest // 2 + 1}
  one = dicom_files.dataset(pixels, WindowCenter=highest // 3 + 0.5, **common)
  twin = dicom_files.dataset(
    highest - pixels,
    WindowCenter=highest - highest // 3 + 0.5,
    PhotometricInterpretation='MONOCHROME1',
    **common,
  )
  difference = grayscale.to_uint8(pixels, one, window=window).astype(
    int
  ) - grayscale.to_uint8(highest - pixels, twin, window=window)
  assert np.abs(difference).max() <= 1


def test_eight_bits_without_a_window_are_left_alone():
  film = dicom_files.film()
  dataset = dicom_files.dataset(film)
  np.testing.assert_array_equal(grayscale.to_uint8(film, dataset), film)


def test_percentile_spreads_the_middle():
  pixels = stored(12) // 8
  pixels[0, 0] = 4095  # a marker
  dataset = dicom_files.dataset(pixels, bits=12)
  expected = np.clip(
    (pixels - np.percentile(pixels, 0.5))
    / np.ptp(np.percentile(pixels, [0.5, 99.5])),
    0,
    1,
  )
  for window in ('auto', 'percentile'):
    actual = grayscale.to_uint8(pixels, dataset, window=window)
    np.testing.assert_allclose(actual, expected * 255, atol=2)
  full = grayscale.to_uint8(pixels, dataset, window='full')
  assert_close(full, pixels / 4095)


@pytest.mark.parametrize(
  'useless',
  [
    {'WindowCenter': 9000, 'WindowWidth': 10},
    {'WindowCenter': 100, 'WindowWidth': 0},
    {'WindowCenter': '', 'WindowWidth': ''},
  ],
)
def test_auto_sees_through_a_useless_window(useless):
  pixels = stored(12)
  dataset = dicom_files.dataset(pixels, bits=12, **useless)
  plain = dicom_files.dataset(pixels, bits=12)
  np.testing.assert_array_equal(
    grayscale.to_uint8(pixels, dataset), grayscale.to_uint8(pixels, plain)
  )


@pytest.mark.parametrize('photometric', ['MONOCHROME1', 'MONOCHROME2'])
def test_padding_is_black(photometric):
  pixels = stored(12)
  pixels[:, :4] = 4000
  dataset = dicom_files.dataset(
    pixels,
    bits=12,
    PixelPaddingValue=4000,
    PhotometricInterpretation=photometric,
  )
  assert not grayscale.to_uint8(pixels, dataset)[:, :4].any()


def test_values_beyond_the_stored_bits():
  pixels = stored(12)
  dataset = dicom_files.dataset(pixels, bits=10)
  for window in grayscale.WINDOWS:
    shown = grayscale.to_uint8(pixels, dataset, window=window)
    assert shown.max() == 255
