"""Stored values of every compression, also where header and frame differ."""

import io

import codestreams
import dicom_files
import numpy as np
import pytest
from codestreams import ENCODERS, compressed
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate

from pnx_jax.formats import dicom, dicom_header, dicom_pixels

SYNTAXES = list(ENCODERS)
SHAPE = 40, 60


def samples(bits, *, signed=False, seed=0):
  """All values that the bits can express, smooth enough for any codec."""
  low = -(1 << (bits - 1)) if signed else 0
  film = dicom_files.film(*SHAPE, seed=seed) / 255
  values = np.round(film * ((1 << bits) - 1)).astype(np.int64) + low
  kind = 'i' if signed else 'u'
  return values.astype(f'{kind}{1 if bits <= 8 else 2}')


def decoded(dataset):
  return dicom_pixels.decode(dataset, dicom_header.parse(dataset))


def refused(dataset):
  with pytest.raises(dicom.UnusableDicom) as error:
    dicom.from_dataset(dataset)
  return error.value.reason, error.value.detail


@pytest.mark.parametrize('bits', [8, 12, 16])
@pytest.mark.parametrize('syntax', SYNTAXES, ids=lambda syntax: syntax.name)
def test_unsigned_values(syntax, bits):
  values = samples(bits)
  frame = ENCODERS[syntax](values, bits)
  made = compressed(syntax, [frame], values, bits=bits)
  np.testing.assert_array_equal(decoded(made), values)


@pytest.mark.parametrize('bits', [8, 10, 12, 16])
def test_signed_values(bits):
  """JPEG-LS and lossless JPEG have no sign: they hold two's complement."""
  values = samples(bits, signed=True)
  bare = values.view(f'u{values.dtype.itemsize}') & ((1 << bits) - 1)
  for syntax, frame in (
    (uid.JPEG2000Lossless, codestreams.jpeg_2000(values, bits)),
    (uid.JPEG2000Lossless, codestreams.jpeg_2000(bare, bits)),
    (uid.JPEGLSLossless, codestreams.jpeg_ls_frame(bare, bits)),
    (uid.JPEGLosslessSV1, codestreams.lossless_jpeg(bare, bits)),
  ):
    made = compressed(syntax, [frame], values, bits=bits)
    np.testing.assert_array_equal(decoded(made), values, err_msg=syntax.name)


def test_a_signed_frame_under_an_unsigned_header():
  values = samples(12, signed=True)
  frame = codestreams.jpeg_2000(values, 12)
  made = compressed(
    uid.JPEG2000Lossless, [frame], values, bits=12, PixelRepresentation=0
  )
  np.testing.assert_array_equal(decoded(made), values & 0xFFF)


def all_ways(stored, *, bits, high_bit, signed):
  """A film of 16 allocated bits in every way to store it."""
  header = {
    'bits': bits,
    'HighBit': high_bit,
    'PixelRepresentation': int(signed),
  }
  yield 'native', dicom_files.dataset(stored, **header)
  big = dicom_files.dataset(stored, **header)
  big.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian
  big.PixelData = stored.astype('>u2').tobytes()
  yield 'big-endian', big
  frame = codestreams.run_lengths(stored)
  yield 'RLE', compressed(uid.RLELossless, [frame], stored, **header)
  for syntax, encode in ENCODERS.items():
    frame = encode(stored, 16)
    yield syntax.name, compressed(syntax, [frame], stored, **header)


@pytest.mark.parametrize('signed', [False, True])
@pytest.mark.parametrize('high_bit', [11, 13, 15])
def test_bits_outside_of_those_stored_are_not_part_of_a_value(high_bit, signed):
  """Overlay bits around 12 stored ones (PS3.5, 8.1.1)."""
  values = samples(12, signed=signed)
  shift = high_bit - 11
  noise = np.random.default_rng(0).integers(0, 1 << 16, SHAPE, np.uint16)
  inside = np.uint16(0xFFF << shift & 0xFFFF)
  bits = (values.view(np.uint16) << shift & inside) | (noise & ~inside)
  for name, made in all_ways(bits, bits=12, high_bit=high_bit, signed=signed):
    np.testing.assert_array_equal(decoded(made), values, err_msg=name)


def test_a_high_bit_that_cannot_be():
  """Above the allocated bits it is ignored; the stored bits must fit below."""
  values = samples(12)
  made = dicom_files.dataset(values, bits=12, HighBit=40)
  np.testing.assert_array_equal(decoded(made), values)
  for high_bit in (0, 7, 10):
    reason, detail = refused(
      dicom_files.dataset(values, bits=12, HighBit=high_bit)
    )
    assert reason == 'undecodable'
    assert detail == f'12 bits stored, the highest of them bit {high_bit}'


@pytest.mark.parametrize('syntax', SYNTAXES, ids=lambda syntax: syntax.name)
def test_a_precision_below_that_of_the_header_is_read_as_it_is(syntax):
  values = samples(10)
  frame = ENCODERS[syntax](values, 10)
  made = compressed(syntax, [frame], values, bits=12)
  np.testing.assert_array_equal(decoded(made), values)


@pytest.mark.parametrize('syntax', SYNTAXES, ids=lambda syntax: syntax.name)
def test_a_precision_above_the_allocated_bits_is_refused(syntax):
  frame = ENCODERS[syntax](samples(12), 12)
  made = compressed(syntax, [frame], samples(8))
  reason, detail = refused(made)
  assert reason == 'undecodable'
  assert '12 bits per pixel' in detail and 'allocates 8' in detail


@pytest.mark.parametrize(
  'syntax', [*SYNTAXES, uid.JPEGBaseline8Bit], ids=lambda syntax: syntax.name
)
def test_a_frame_of_another_size_is_refused(syntax):
  """The same number of pixels, or not."""
  encode = ENCODERS.get(syntax, lambda values, bits: codestreams.jpeg(values))
  for shape in ((60, 40), (48, 50), (40, 61)):
    values = dicom_files.film(*shape)
    made = compressed(syntax, [encode(values, 8)], dicom_files.film(*SHAPE))
    assert refused(made) == (
      'undecodable',
      f'the frame has {shape[0]} x {shape[1]} pixels, the header says 40 x 60',
    )


def test_a_color_frame_under_a_gray_header_is_refused():
  film = dicom_files.film(*SHAPE)
  frame = codestreams.jpeg(np.stack([film] * 3, -1))
  reason, detail = refused(compressed(uid.JPEGBaseline8Bit, [frame], film))
  assert (reason, detail) == ('color', '3 components in the frame')


def test_a_frame_in_a_jp2_file_and_one_of_another_syntax():
  values = samples(8)
  stream = codestreams.jpeg_2000(values, 8)
  jp2 = io.BytesIO()
  Image.fromarray(values).save(jp2, 'JPEG2000', no_jp2=False)
  for syntax, frame in (
    (uid.JPEG2000, jp2.getvalue()),
    (uid.JPEGBaseline8Bit, stream),
    (uid.JPEG2000, codestreams.jpeg_ls_frame(values, 8)),
  ):
    made = compressed(syntax, [frame], values)
    np.testing.assert_array_equal(decoded(made), values)
  empty_boxes = jp2.getvalue()[:12] + bytes(40)
  made = compressed(uid.JPEG2000, [empty_boxes], values)
  assert refused(made) == ('undecodable', 'a JP2 file without a codestream')


@pytest.mark.parametrize('said', [None, 1, '0', ''])
def test_several_frames_are_refused_whatever_the_header_says(said):
  values = samples(12)
  header = {} if said is None else {'NumberOfFrames': said}
  two = dicom_files.dataset(values, bits=12, **header)
  two.PixelData = 2 * values.tobytes()
  made = [two]
  for syntax, encode in ENCODERS.items():
    frames = [encode(values, 12)] * 2
    with_offsets = compressed(syntax, frames, values, bits=12, **header)
    without = compressed(syntax, frames, values, bits=12, **header)
    without.PixelData = encapsulate(frames, has_bot=False)
    made += [with_offsets, without]
    for padding in (b'', b'\0', b'\0\0\0'):
      joined = [padding.join(frames)]
      made.append(compressed(syntax, joined, values, bits=12, **header))
  frames = [codestreams.run_lengths(values)] * 2
  long = codestreams.run_lengths(np.vstack([values, values]))
  for pieces in (frames, [b''.join(frames)], [b'\0\0'.join(frames)], [long]):
    film = compressed(uid.RLELossless, pieces, values, bits=12, **header)
    film.PixelData = encapsulate(pieces, has_bot=False)
    made.append(film)
  for film in made:
    reason, detail = refused(film)
    assert reason == 'multi_frame'
    expected = 'the header says 1' if said == 1 else 'says nothing of frames'
    assert 'pixel data of 2 frames' in detail and expected in detail


def test_fragments_are_not_read_as_pixels(tmp_path):
  """Under a transfer syntax without compression; they may be long enough."""
  noise = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
  frame = codestreams.jpeg_ls_frame(noise, 8)
  made = compressed(uid.JPEGLSLossless, [frame + bytes(2000)], noise)
  made['PixelData'].is_undefined_length = True
  np.testing.assert_array_equal(decoded(made), noise)
  made.save_as(tmp_path / 'a.dcm', enforce_file_format=True)
  content = (tmp_path / 'a.dcm').read_bytes()
  syntax = uid.JPEGLSLossless.encode()
  native = uid.ExplicitVRLittleEndian.encode().ljust(len(syntax), b'\0')
  assert content.count(syntax) == 1
  (tmp_path / 'a.dcm').write_bytes(content.replace(syntax, native))
  with pytest.raises(dicom.UnusableDicom, match='pixels are compressed'):
    dicom.read(tmp_path / 'a.dcm')


@pytest.mark.parametrize('syntax', SYNTAXES, ids=lambda syntax: syntax.name)
def test_a_frame_in_several_fragments_is_one(syntax):
  values = samples(12)
  frame = ENCODERS[syntax](values, 12)
  made = compressed(syntax, [frame], values, bits=12)
  made.PixelData = encapsulate([frame], fragments_per_frame=3, has_bot=False)
  np.testing.assert_array_equal(decoded(made), values)


@pytest.mark.parametrize('more', [0, 1, SHAPE[0] - 1])
def test_run_lengths_with_padding_or_a_part_of_a_frame_more(more):
  values = samples(12)
  frame = codestreams.run_lengths(np.vstack([values, values[:more]]))
  frame += bytes(0 if more else 1000)
  made = compressed(uid.RLELossless, [frame], values, bits=12)
  plain = dicom_files.dataset(values, bits=12)
  np.testing.assert_array_equal(
    dicom.from_dataset(made).pixels, dicom.from_dataset(plain).pixels
  )


def test_run_lengths_whose_last_segment_begins_in_the_header_are_refused():
  values = samples(12)
  frame = bytearray(codestreams.run_lengths(values))
  frame[8:12] = bytes(4)  # Where the second of two segments begins.
  made = compressed(uid.RLELossless, [bytes(frame)], values, bits=12)
  assert refused(made)[0] == 'undecodable'


@pytest.mark.parametrize('extra', [1, 2, 100, 2 * 40 * 60 - 1])
def test_bytes_behind_the_pixels_are_passed_over(extra):
  values = samples(12)
  made = dicom_files.dataset(values, bits=12)
  made.PixelData += bytes(extra)
  np.testing.assert_array_equal(decoded(made), values)


@pytest.mark.parametrize(
  ('allocated', 'stored'), [(12, 12), (8, 12), (1, 1), (64, 16), (0, 8)]
)
def test_bits_that_cannot_be(allocated, stored):
  made = dicom_files.dataset(samples(12), bits=12)
  made.BitsAllocated, made.BitsStored = allocated, stored
  assert refused(made)[0] == 'undecodable'


def test_sixteen_bits_stored_in_thirty_two():
  values = samples(16, signed=True)
  made = dicom_files.dataset(values)
  made.BitsAllocated = 32
  made.PixelData = values.astype(np.int32).tobytes()
  np.testing.assert_array_equal(decoded(made), values)


def test_big_endian_bytes_in_words():
  values = samples(8)
  made = dicom_files.dataset(values)
  made.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian
  made.PixelData = values.reshape(-1, 2)[:, ::-1].tobytes()
  np.testing.assert_array_equal(decoded(made), values)
