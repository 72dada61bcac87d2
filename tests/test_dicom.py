"""Which files are read, as what, and why others are not."""

import pathlib

import dicom_files
import numpy as np
import pydicom
import pytest
from pydicom import data as pydicom_data
from pydicom import uid

from pnx_jax.formats import dicom

# The height and width, or the reason. Modality and body part are let pass.
PYDICOM = {
  '693_J2KI.dcm': (512, 512),
  'CT_small.dcm': (128, 128),
  'ExplVR_BigEnd.dcm': 'color',
  'ExplVR_BigEndNoMeta.dcm': 'no_pixels',
  'ExplVR_LitEndNoMeta.dcm': 'no_pixels',
  'GDCMJ2K_TextGBR.dcm': 'color',
  'J2K_pixelrep_mismatch.dcm': (512, 512),
  'JPEG-lossy.dcm': 'undecodable',  # 12-bit JPEG: no decoder does it right
  'JPEG2000-embedded-sequence-delimiter.dcm': 'undecodable',
  'JPEG2000.dcm': (1024, 256),
  'JPEGLSNearLossless_08.dcm': (45, 10),
  'JPEGLSNearLossless_16.dcm': (50, 10),
  'JPGExtended.dcm': 'undecodable',
  'MR_small.dcm': (64, 64),
  'MR_small_RLE.dcm': (64, 64),
  'MR_small_bigendian.dcm': (64, 64),
  'MR_small_expb.dcm': (64, 64),
  'MR_small_implicit.dcm': (64, 64),
  'MR_small_jp2klossless.dcm': (64, 64),
  'MR_small_jpeg_ls_lossless.dcm': (64, 64),
  'MR_small_padded.dcm': (64, 64),
  'MR_truncated.dcm': 'truncated',
  'README.txt': 'not_dicom',
  'SC_rgb_gdcm_KY.dcm': 'color',
  'SC_rgb_jls_lossy_line.dcm': 'color',
  'SC_rgb_jpeg_dcmtk.dcm': 'color',
  'SC_rgb_jpeg_gdcm.dcm': 'color',
  'SC_rgb_rle.dcm': 'color',
  'SC_rgb_rle_2frame.dcm': 'multi_frame',
  'SC_rgb_rle_32bit_2frame.dcm': 'multi_frame',
  'SC_ybr_full_422_uncompressed.dcm': 'color',
  'UN_sequence.dcm': 'no_pixels',
  'badVR.dcm': 'undecodable',  # 32 bits
  'examples_overlay.dcm': (300, 484),
  'examples_palette.dcm': 'color',
  'examples_ybr_color.dcm': 'multi_frame',
  'image_dfl.dcm': (512, 512),
  'liver_1frame.dcm': 'undecodable',  # 1 bit
  'meta_missing_tsyntax.dcm': 'empty',
  'nested_priv_SQ.dcm': 'empty',
  'no_meta_group_length.dcm': 'no_pixels',
  'reportsi.dcm': 'no_pixels',
  'rtdose.dcm': 'multi_frame',
  'rtdose_rle_1frame.dcm': 'undecodable',  # 32 bits
  'rtplan_truncated.dcm': 'no_pixels',
  'rtstruct.dcm': 'no_pixels',
  'waveform_ecg.dcm': 'no_pixels',
  'zipMR.gz': 'not_dicom',
  'SC_rgb_small_odd_big_endian.dcm': 'color',
  'SC_rgb_small_odd_jpeg.dcm': 'color',
  'SC_jpeg_no_color_transform.dcm': 'color',
  'SC_rgb_dcmtk_+eb+cy+np.dcm': 'color',
  'SC_rgb_rle_16bit_2frame.dcm': 'multi_frame',
  'SC_rgb_rle_32bit.dcm': 'color',
  'empty_charset_LEI.dcm': 'no_pixels',
  'examples_jpeg2k.dcm': 'color',
  'examples_rgb_color.dcm': 'color',
  'liver_expb_1frame.dcm': 'undecodable',
  'no_meta.dcm': 'not_dicom',
  'priv_SQ.dcm': 'no_pixels',
  'reportsi_with_empty_number_tags.dcm': 'no_pixels',
  'rtdose_1frame.dcm': 'undecodable',
  'rtdose_expb_1frame.dcm': 'undecodable',
  'rtdose_rle.dcm': 'multi_frame',
  'rtplan.dcm': 'no_pixels',
  'rtplan.dump': 'not_dicom',
  'test-SR.dcm': 'no_pixels',
  'test_PN.json': 'not_dicom',
  'dicomdirtests/77654033/CR1/6154': (16, 16),
  'dicomdirtests/DICOMDIR': 'no_pixels',
  'dicomdirtests/DICOMDIR-bigEnd': 'no_pixels',
}
# As a build takes them.
MATRIX = {
  'cr_monochrome1_15bit_jpeg2000_spacing0.dcm': (1955, 1841),
  'cr_monochrome1_jpeg_lossless_modality_lut.dcm': (1576, 1976),
  'dx_implicit_vr_8bit.dcm': (1024, 1024),
  'dx_monochrome1_12bit_jpeg2000_lossless.dcm': (2128, 2000),
  'monochrome1_jpeg_baseline.dcm': (1024, 1024),
  'monochrome2_twin_jpeg_baseline.dcm': (1024, 1024),
  'truncated_pixels_mr.dcm': 'modality',
  'wrong_modality_ct.dcm': 'modality',
}
ANYTHING = {'accept_modality': (), 'accept_body_part': ()}


def pydicom_file(name):
  folder = pathlib.Path(pydicom_data.__file__).parent
  return folder / 'test_files' / name


def outcome(path, **accept):
  try:
    film = dicom.read(path, **accept)
  except dicom.UnusableDicom as error:
    assert error.detail
    assert '\n' not in error.detail
    return error.reason
  assert film.pixels.dtype == np.uint8
  assert (film.header.height, film.header.width) == film.pixels.shape
  return film.pixels.shape


@pytest.mark.parametrize('name', PYDICOM)
def test_files_of_pydicom(name):
  assert outcome(pydicom_file(name), **ANYTHING) == PYDICOM[name]


@pytest.mark.parametrize('name', MATRIX)
def test_one_file_per_difficulty(real_data, name):
  assert outcome(real_data / 'dicom_matrix' / name) == MATRIX[name]


def test_the_table_leaves_out_no_file(real_data):
  files = {path.name for path in (real_data / 'dicom_matrix').iterdir()}
  assert files == set(MATRIX)
  truncated = real_data / 'dicom_matrix' / 'truncated_pixels_mr.dcm'
  assert outcome(truncated, accept_modality=()) == 'truncated'


def test_files_that_are_none(real_data, tmp_path):
  for path in (real_data / 'kaggle_sample' / '__MACOSX').rglob('*.dcm'):
    assert outcome(path) == 'not_dicom'
  assert outcome(tmp_path / 'nowhere.dcm') == 'unreadable'
  (tmp_path / 'empty.dcm').touch()
  assert outcome(tmp_path / 'empty.dcm') == 'not_dicom'
  (tmp_path / 'noise.dcm').write_bytes(np.random.default_rng(0).bytes(5000))
  assert outcome(tmp_path / 'noise.dcm') == 'not_dicom'


def test_every_syntax_gives_the_same_pixels():
  reference = dicom.read(pydicom_file('MR_small.dcm'), **ANYTHING).pixels
  for name in PYDICOM:
    if name.startswith('MR_small_'):
      same = dicom.read(pydicom_file(name), **ANYTHING).pixels
      np.testing.assert_array_equal(same, reference, err_msg=name)


@pytest.mark.parametrize(
  ('change', 'reason'),
  [
    ({'Modality': 'CT'}, 'modality'),
    ({'Modality': None}, 'modality'),
    ({'BodyPartExamined': 'HAND'}, 'body_part'),
    ({'BodyPartExamined': 'Port Chest'}, (32, 32)),
    ({'BodyPartExamined': None}, (32, 32)),
    ({'PixelData': None}, 'no_pixels'),
    ({'PixelData': b''}, 'empty'),
    ({'PixelData': b'1234'}, 'truncated'),
    ({'Rows': 0}, 'empty'),
    ({'Rows': None}, 'empty'),
    ({'NumberOfFrames': 2}, 'multi_frame'),
    ({'PhotometricInterpretation': 'PALETTE COLOR'}, 'color'),
    ({'BitsAllocated': 32, 'BitsStored': 32}, 'undecodable'),
  ],
)
def test_refusals(tmp_path, change, reason):
  path = dicom_files.write(tmp_path / 'a.dcm', dicom_files.film(), **change)
  assert outcome(path) == reason


@pytest.mark.parametrize('share', [0.3, 0.6, 0.99])
@pytest.mark.parametrize('jpeg', [False, True])
def test_a_cut_file_is_truncated(tmp_path, jpeg, share):
  whole = dicom_files.write(
    tmp_path / 'whole.dcm', dicom_files.film(256, 256), jpeg=jpeg
  ).read_bytes()
  cut = tmp_path / 'cut.dcm'
  cut.write_bytes(whole[: int(len(whole) * share)])
  assert outcome(cut) == 'truncated'


@pytest.mark.parametrize('share', [0.3, 0.99])
@pytest.mark.parametrize(
  'name',
  ['MR_small_RLE', 'MR_small_jp2klossless'],
)
def test_a_cut_frame_is_refused(tmp_path, name, share):
  made = pydicom.dcmread(pydicom_file(f'{name}.dcm'))
  frame = pydicom.encaps.get_frame(made.PixelData, 0)
  made.PixelData = pydicom.encaps.encapsulate(
    [frame[: int(len(frame) * share)]]
  )
  made.save_as(tmp_path / 'cut.dcm')
  assert outcome(tmp_path / 'cut.dcm', **ANYTHING) == 'undecodable'


def test_a_cut_jpeg_frame_is_truncated(tmp_path):
  made = dicom_files.dataset(dicom_files.film(256, 256), jpeg=True)
  frame = pydicom.encaps.get_frame(made.PixelData, 0)
  made.PixelData = pydicom.encaps.encapsulate([frame[: len(frame) // 2]])
  made.save_as(tmp_path / 'cut.dcm', enforce_file_format=True)
  assert outcome(tmp_path / 'cut.dcm') == 'truncated'


def test_overlays_in_unused_bits_are_cleared(tmp_path):
  pixels = dicom_files.film().astype(np.uint16) << 4
  plain = dicom_files.write(tmp_path / 'plain.dcm', pixels, bits=12)
  overlaid = dicom_files.write(
    tmp_path / 'overlaid.dcm', pixels | (0b1010 << 12), bits=12
  )
  np.testing.assert_array_equal(
    dicom.read(overlaid).pixels, dicom.read(plain).pixels
  )


def test_a_syntax_without_a_decoder(tmp_path):
  path = tmp_path / 'a.dcm'
  made = dicom_files.dataset(dicom_files.film(), jpeg=True)
  made.file_meta.TransferSyntaxUID = uid.MPEG2MPML
  made.save_as(path, enforce_file_format=True)
  assert outcome(path) == 'undecodable'


def test_header(tmp_path):
  path = dicom_files.write(
    tmp_path / 'a.dcm',
    dicom_files.film(20, 10),
    PixelSpacing=None,
    ImagerPixelSpacing=[15, 7.5],
    PatientSex='f',
    Manufacturer='ACME',
  )
  for header in (dicom.read(path).header, dicom.read_header(path)):
    assert (header.height, header.width) == (20, 10)
    assert (header.view, header.sex, header.age) == ('PA', 'F', 69)
    assert header.pixel_spacing == (15, 7.5)
    assert header.spacing_plane == 'detector'
    assert header.pixel_aspect == 2
    assert header.manufacturer == 'ACME'
    assert header.transfer_syntax == uid.ExplicitVRLittleEndian


@pytest.mark.parametrize(
  ('age', 'years'),
  [
    ('069Y', 69),
    ('69', 69),
    ('018M', 1),
    ('030W', 0),
    ('', -1),
    ('old', -1),
    ('9' * 20 + 'Y', -1),
    ('9' * 5000, -1),
    ('1000', -1),
  ],
)
def test_age(tmp_path, age, years):
  path = dicom_files.write(
    tmp_path / 'a.dcm', dicom_files.film(), PatientAge=age
  )
  assert dicom.read_header(path).age == years


@pytest.mark.parametrize('spacing', [[0, 0], [0.2, 0], None])
def test_spacing_that_is_none(tmp_path, spacing):
  path = dicom_files.write(
    tmp_path / 'a.dcm', dicom_files.film(), PixelSpacing=spacing
  )
  header = dicom.read_header(path)
  assert header.pixel_spacing == (-1, -1)
  assert header.spacing_plane == ''
  assert header.pixel_aspect == 1


def test_pixel_aspect_ratio(tmp_path):
  path = dicom_files.write(
    tmp_path / 'a.dcm',
    dicom_files.film(),
    PixelSpacing=None,
    PixelAspectRatio=[3, 2],
  )
  assert dicom.read_header(path).pixel_aspect == 1.5
