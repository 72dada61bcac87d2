"""Films as some makers write them, and files made to do harm."""

import logging
import zipfile
import zlib

import dicom_files
import numpy as np
import pydicom
import pytest
from pydicom import uid

from data_prep import entries, metadata, prepare, view
from pnx_jax.formats import dicom, dicom_header, limits


def shown(made, **keywords):
  return dicom.from_dataset(made, **keywords).pixels


def twelve_bits(**attributes):
  film = np.round(dicom_files.film(64, 64) / 255 * 4095).astype(np.uint16)
  return dicom_files.dataset(film, bits=12, **attributes)


def table(entries, descriptor, *, descriptor_vr='US'):
  item = pydicom.Dataset()
  item.add_new('LUTDescriptor', descriptor_vr, descriptor)
  item.LUTData = [int(entry) for entry in entries]
  item['LUTData'].VR = 'US'
  return item


def with_voi(*items, **attributes):
  return twelve_bits(VOILUTSequence=pydicom.Sequence(items), **attributes)


@pytest.mark.parametrize(
  ('last', 'bits'), [(4095, 12), (3000, 12), (40_000, 16), (255, 8), (1023, 10)]
)
@pytest.mark.parametrize('claimed', [8, 10, 12, 16])
def test_the_largest_entry_of_a_voi_lut_gives_its_depth(last, bits, claimed):
  entries = np.round(np.linspace(0, last, 4096))
  pixels = shown(with_voi(table(entries, [4096, 0, claimed])))
  stored = twelve_bits().pixel_array
  expected = entries[stored] / ((1 << bits) - 1) * 255
  np.testing.assert_allclose(pixels, expected, atol=0.51)
  same = shown(with_voi(table(entries, [4096, 0, bits])))
  np.testing.assert_array_equal(pixels, same)


def test_a_voi_lut_that_claims_sixteen_bits_and_has_twelve():
  rising = np.arange(4096)
  claimed = shown(with_voi(table(rising, [4096, 0, 16])))
  true = shown(with_voi(table(rising, [4096, 0, 12])))
  np.testing.assert_array_equal(claimed, true)
  assert claimed.max() == 255


def test_an_item_without_a_table_is_passed_over():
  window = {'WindowCenter': 1500, 'WindowWidth': 800}
  for attributes in ({}, window):
    plain = shown(twelve_bits(**attributes))
    empty = shown(with_voi(pydicom.Dataset(), **attributes))
    np.testing.assert_array_equal(empty, plain)
  rising = table(np.arange(4096), [4096, 0, 12])
  both = shown(with_voi(pydicom.Dataset(), rising))
  np.testing.assert_array_equal(both, shown(with_voi(rising)))
  modality = twelve_bits(
    ModalityLUTSequence=pydicom.Sequence([pydicom.Dataset()])
  )
  np.testing.assert_array_equal(shown(modality), shown(twelve_bits()))


@pytest.mark.parametrize('keyword', ['ModalityLUTSequence', 'VOILUTSequence'])
def test_a_first_value_below_zero_that_is_written_as_unsigned(keyword):
  values = np.arange(-2048, 2048, dtype=np.int16).reshape(64, 64)
  films = [
    dicom_files.dataset(values, bits=12, **{keyword: pydicom.Sequence([item])})
    for item in (
      table(np.arange(4096), [4096, 2**16 - 2048, 12]),
      table(np.arange(4096), [4096, -2048, 12], descriptor_vr='SS'),
    )
  ]
  unsigned, signed = map(shown, films)
  np.testing.assert_array_equal(unsigned, signed)
  assert np.ptp(unsigned) == 255


@pytest.mark.parametrize('number', [100, 2048])
def test_a_table_with_too_few_entries_is_refused(number):
  words = table(np.arange(number), [4096, 0, 12])
  in_bytes = pydicom.Dataset()
  in_bytes.LUTDescriptor = [4096, 0, 12]
  in_bytes.add_new('LUTData', 'OW', np.arange(number, dtype='<u2').tobytes())
  for item in (words, in_bytes):
    with pytest.raises(dicom.UnusableDicom, match=f'{number} of 4096 entries'):
      shown(with_voi(item))


def test_entries_of_a_byte_may_be_written_as_words():
  entries = (np.arange(4096) // 16).astype(np.uint8)
  packed = table(entries.view('<u2'), [4096, 0, 8])
  np.testing.assert_array_equal(
    shown(with_voi(packed)), shown(with_voi(table(entries, [4096, 0, 8])))
  )


@pytest.mark.parametrize(
  'attributes',
  [
    {'RescaleSlope': '1e306', 'RescaleIntercept': '0'},
    {'RescaleSlope': '1e306', 'WindowCenter': '1', 'WindowWidth': '10'},
  ],
)
def test_values_that_are_no_numbers_any_more_are_refused(attributes):
  with pytest.raises(dicom.UnusableDicom, match='not finite'):
    shown(twelve_bits(**attributes))


def test_padding_below_zero_that_is_written_as_unsigned():
  values = np.arange(-2048, 2048, dtype=np.int16).reshape(64, 64)
  values[:16] = -2000
  films = [dicom_files.dataset(values, bits=12) for _ in range(2)]
  films[0].PixelPaddingValue = -2000
  films[1].add_new('PixelPaddingValue', 'US', (1 << 16) - 2000)
  signed, unsigned = map(shown, films)
  np.testing.assert_array_equal(signed, unsigned)
  assert not signed[:16].any()


@pytest.mark.parametrize(
  ('slope', 'intercept', 'same_slope', 'same_intercept'),
  [
    ('', '', 1, 0),
    ('', '-1024', 1, -1024),
    ('2', '', 2, 0),
    ('2', None, 2, 0),
    (None, '100', 1, 100),
    ('0', '0', 1, 0),
  ],
)
def test_rescaling_that_is_empty_or_missing_is_none(
  slope, intercept, same_slope, same_intercept
):
  def made(slope, intercept):
    attributes = {'RescaleSlope': slope, 'RescaleIntercept': intercept}
    return twelve_bits(
      WindowCenter=1000,
      WindowWidth=1500,
      **{
        name: value for name, value in attributes.items() if value is not None
      },
    )

  np.testing.assert_array_equal(
    shown(made(slope, intercept)), shown(made(same_slope, same_intercept))
  )


def test_lower_case_photometric_interpretation():
  for kind in ('MONOCHROME1', 'MONOCHROME2'):
    upper = shown(twelve_bits(PhotometricInterpretation=kind))
    lower = shown(twelve_bits(PhotometricInterpretation=kind.lower() + ' '))
    np.testing.assert_array_equal(lower, upper)
  np.testing.assert_allclose(
    shown(twelve_bits(PhotometricInterpretation='monochrome1')),
    255 - shown(twelve_bits()).astype(int),
    atol=1,
  )


def test_text_of_any_length_is_cut_to_what_its_type_allows(tmp_path):
  long = 'PA' + ' X' * 500_000 + ' LATERAL'
  made = dicom_files.dataset(
    dicom_files.film(),
    ViewPosition=long,
    BodyPartExamined='X' * 30 + 'CHEST',
    Manufacturer='M' * 300,
    PatientSex='F' * 10,
    PatientAge='9' * 300,
  )
  # Of 64 KiB and more only here.
  made.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian
  made.save_as(tmp_path / 'a.dcm', enforce_file_format=True)
  whole = dicom.read(tmp_path / 'a.dcm').header
  assert whole.view == long
  shown = dicom_header.shortened(whole)
  assert shown.view == long[:16]
  assert shown.body_part == 'X' * 16
  assert shown.manufacturer == 'M' * 64
  assert (shown.sex, shown.age) == ('', -1)
  # What a table, a record and a picture hold.
  row = metadata.row(str(tmp_path / 'a.dcm'))
  assert (row.view, row.manufacturer) == (long[:16], 'M' * 64)
  entry = entries.Entry(str(tmp_path / 'a.dcm'), 'a', entries.TRAIN, ())
  assert view.from_film(entry).view == long[:16]
  (prepared,) = prepare.run_batch(
    [(0, entry)],
    options=prepare.RecordOptions(16, 'auto', (), ()),
    folder=tmp_path,
    salt=b'',
  )
  assert prepare.read_record(tmp_path, prepared).view == long[:16]


@pytest.mark.parametrize(
  'attributes',
  [
    {'PixelSpacing': ['1e400', '1']},
    {'PixelSpacing': ['nan', '1']},
    {'PixelSpacing': ['1', 'nan']},
    {'PixelSpacing': ['inf', 'inf']},
    {'PixelSpacing': [0.1, 0.1, 0.1]},
  ],
)
def test_spacing_that_is_not_a_pair_of_lengths(attributes):
  header = dicom.from_dataset(twelve_bits(**attributes)).header
  assert header.pixel_spacing == (-1, -1)
  assert header.pixel_aspect == 1


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(
  'keyword',
  ['NumberOfFrames', 'Rows', 'BitsStored', 'HighBit', 'BitsAllocated'],
)
@pytest.mark.parametrize('value', ['inf', 'nan', 'x', '1e999', '9' * 5000])
def test_numbers_that_are_none_are_refused_or_passed_over(keyword, value):
  made = twelve_bits()
  made[keyword] = pydicom.DataElement(
    keyword, 'LO', value, validation_mode=pydicom.config.IGNORE
  )
  try:
    dicom.from_dataset(made)
  except dicom.UnusableDicom as error:
    assert error.reason in ('empty', 'undecodable', 'limit', 'multi_frame')


def deflated(path, made, payload=None):
  made.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
  made.save_as(path, enforce_file_format=True)
  if payload is not None:
    whole = path.read_bytes()
    start = 144 + int.from_bytes(whole[140:144], 'little')
    path.write_bytes(whole[:start] + payload)
  return path


def test_a_deflated_film(tmp_path):
  plain = shown(twelve_bits())
  path = deflated(tmp_path / 'a.dcm', twelve_bits())
  film = dicom.read(path)
  np.testing.assert_array_equal(film.pixels, plain)
  assert film.header.transfer_syntax == uid.DeflatedExplicitVRLittleEndian
  cut = tmp_path / 'cut.dcm'
  cut.write_bytes(path.read_bytes()[:-200])
  with pytest.raises(dicom.UnusableDicom, match='truncated'):
    dicom.read(cut)


def test_a_deflated_film_that_grows_without_end(tmp_path):
  """A megabyte that inflates to more than any film has."""
  deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
  chunk = bytes(1 << 20)
  parts = [deflater.compress(chunk) for _ in range(300)]
  payload = b''.join([*parts, deflater.flush()])
  path = deflated(tmp_path / 'bomb.dcm', twelve_bits(), payload)
  assert path.stat().st_size < 1 << 20
  for read in (dicom.read, dicom.read_header):
    with pytest.raises(dicom.UnusableDicom) as error:
      read(path)
    assert error.value.reason == 'limit'
    assert f'{limits.MOST_FILE_BYTES:,}' in error.value.detail


def test_the_deflated_part_is_bounded_wherever_its_syntax_stands(tmp_path):
  """Behind a long element of the file's meta information, or without mark."""
  made = twelve_bits()
  made.file_meta.FileMetaInformationVersion = b'\0\1' * 5000
  path = deflated(tmp_path / 'a.dcm', made)
  assert dicom.read(path).pixels.any()
  bare = tmp_path / 'bare.dcm'
  bare.write_bytes(path.read_bytes()[132:])
  assert dicom.read(bare).pixels.any()


def test_a_header_without_end_is_refused(tmp_path, monkeypatch):
  made = twelve_bits()
  made.add_new(0x00091010, 'OB', bytes(5000))
  made.save_as(tmp_path / 'a.dcm', enforce_file_format=True)
  assert dicom.read(tmp_path / 'a.dcm').pixels.any()
  monkeypatch.setattr(limits, 'MOST_HEADER_BYTES', 4000)
  for read in (dicom.read, dicom.read_header):
    with pytest.raises(dicom.UnusableDicom) as error:
      read(tmp_path / 'a.dcm')
    assert (error.value.reason, error.value.detail) == (
      'limit',
      'its header has more than 4,000 bytes',
    )


def test_films_that_claim_too_much_are_refused_before_they_are_read(
  tmp_path, monkeypatch
):
  made = twelve_bits(Rows=65_535, Columns=65_535)
  with pytest.raises(dicom.UnusableDicom, match='limit: 65535 x 65535 pixels'):
    dicom.from_dataset(made)
  path = tmp_path / 'large.dcm'
  twelve_bits().save_as(path, enforce_file_format=True)
  for bound in ('MOST_HEADER_BYTES', 'MOST_FILE_BYTES'):
    monkeypatch.setattr(limits, bound, 1000)
  with pytest.raises(
    dicom.UnusableDicom, match='limit: the file has more than'
  ):
    dicom.read(path)


def test_an_element_that_claims_gigabytes_takes_no_memory(tmp_path):
  """The length of a value is four bytes that may say anything."""
  made = twelve_bits()
  made.add_new(0x00091010, 'OB', b'unusual')
  path = tmp_path / 'a.dcm'
  made.save_as(path, enforce_file_format=True)
  whole = path.read_bytes()
  place = whole.index(b'unusual') - 4
  path.write_bytes(whole[:place] + b'\xf0\xff\xff\xff' + whole[place + 4 :])
  with pytest.raises(dicom.UnusableDicom):
    dicom.read(path)


def test_archives_are_counted(tmp_path, caplog):
  dicom_files.write(tmp_path / 'films' / 'a.dcm', dicom_files.film())
  packed = 'b.dcm.gz', 'c.DCM.GZ', 'IM0001.gz', 'more.tar', 'e.DCM.zst'
  for name in (*packed, 'labels.csv.gz', 'notes.txt'):
    (tmp_path / 'films' / name).write_bytes(b'\x1f\x8b')
  with zipfile.ZipFile(tmp_path / 'films' / 'd.zip', 'w'):
    pass
  with caplog.at_level(logging.WARNING):
    found = list(dicom.find(tmp_path))
  assert len(found) == 1
  assert '6 archives are not read, for example' in caplog.text
  assert 'IM0001.gz: unpack them first' in caplog.text


@pytest.mark.parametrize(
  'window', [{}, {'WindowCenter': 2000.5, 'WindowWidth': 1001}]
)
def test_values_below_the_window_are_dark_after_a_modality_lut(window):
  """Unsigned entries of the table must not wrap around."""
  entries = table(np.arange(4096), [4096, 0, 16])
  through = twelve_bits(
    ModalityLUTSequence=pydicom.Sequence([entries]), **window
  )
  pixels = shown(through)
  np.testing.assert_array_equal(pixels, shown(twelve_bits(**window)))
  stored = through.pixel_array
  assert not pixels[stored <= np.percentile(stored, 0.4)].any()
