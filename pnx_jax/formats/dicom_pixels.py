"""Stored pixel values of a DICOM file.

JPEG is decompressed by Pillow, lossless JPEG by gdcm, JPEG-LS by pyjpegls,
JPEG 2000 by OpenJPEG, run lengths by pydicom: damaged files can make gdcm end
the process, and other decoders of lossless JPEG are GPL.
"""

import io
from collections.abc import Callable

import numpy as np
import pydicom
from PIL import Image
from pydicom import encaps, uid
from pydicom import pixels as pydicom_pixels

from pnx_jax.formats import codestream, dicom_header, run_lengths
from pnx_jax.formats.refusals import UnusableDicom

_Pixels = np.ndarray[tuple[int, ...], np.dtype[np.integer]]

_LOSSLESS_JPEG_SYNTAX = uid.JPEGLosslessSV1
_STILL_IMAGES = (
  *uid.JPEGTransferSyntaxes,
  *uid.JPEGLSTransferSyntaxes,
  *uid.JPEG2000TransferSyntaxes,
)


def decode(dataset: pydicom.Dataset, header: dicom_header.Header) -> _Pixels:
  """Returns the stored values, int[H, W].

  Bits outside of BitsStored are not part of them (PS3.5, 8.1.1).

  Raises:
    UnusableDicom: There are too few or too many, or they cannot be decoded.
  """
  allocated = dicom_header.integer(dataset.get('BitsAllocated'))
  stored = header.bits_stored
  if allocated not in (8, 16, 32) or stored > allocated:
    raise UnusableDicom(
      'undecodable', f'{stored} bits stored in {allocated} allocated'
    )
  syntax = dataset.file_meta.TransferSyntaxUID
  if syntax == uid.RLELossless:
    bits, precision = _run_lengths(dataset, header, allocated), allocated
  elif syntax.is_compressed and syntax != uid.DeflatedExplicitVRLittleEndian:
    bits, precision = _codestream(dataset, header, allocated)
  else:
    bits, precision = _native(dataset, header, allocated), allocated
  if bits.shape != (header.height, header.width):
    height, width = bits.shape
    raise UnusableDicom(
      'undecodable',
      f'decodes to {height} x {width} pixels, the header says '
      f'{header.height} x {header.width}',
    )
  high_bit = dicom_header.integer(dataset.get('HighBit'), stored - 1)
  if high_bit < stored - 1:
    raise UnusableDicom(
      'undecodable', f'{stored} bits stored, the highest of them bit {high_bit}'
    )
  signed = bool(dicom_header.integer(dataset.get('PixelRepresentation')))
  return stored_values(
    bits, precision=precision, stored=stored, high_bit=high_bit, signed=signed
  )


def stored_values(
  bits: np.ndarray, *, precision: int, stored: int, high_bit: int, signed: bool
) -> _Pixels:
  """Returns the values that samples stand for.

  Args:
    bits: Unsigned integers of `precision` bits.
    precision: How many bits a sample has as it was encoded.
    stored: How many of them belong to the value, if there are as many.
    high_bit: The highest one of these; the lowest `stored` bits are taken
      where that cannot be.
    signed: Whether values are in two's complement.
  """
  used = min(precision, stored)
  shift = high_bit + 1 - stored
  if not 0 <= shift <= precision - stored:
    shift = 0
  width = 8 * bits.dtype.itemsize
  if used < width:
    bits = (bits >> shift if shift else bits) & ((1 << used) - 1)
  if not signed:
    return bits
  values = bits.view(f'i{bits.dtype.itemsize}')
  if used < width:
    values = (values << (width - used)) >> (width - used)
  return values


def _native(
  dataset: pydicom.Dataset, header: dicom_header.Header, allocated: int
) -> np.ndarray:
  data: bytes = dataset.PixelData
  if dataset['PixelData'].is_undefined_length:
    name = dataset.file_meta.TransferSyntaxUID.name
    raise UnusableDicom('undecodable', f'{name}, but its pixels are compressed')
  needed = header.height * header.width * allocated // 8
  if len(data) < needed:
    raise UnusableDicom('truncated', f'{len(data)} of {needed} bytes of pixels')
  # The value of an element has an even number of bytes.
  padded = needed + needed % 2
  _check_one_frame(dataset, len(data) // needed if len(data) > padded else 1)
  return _by_pydicom(
    dataset.file_meta.TransferSyntaxUID,
    data[:padded],
    header,
    allocated,
    # Bytes of 8-bit pixels may be swapped in big-endian words.
    pixel_vr=dataset['PixelData'].VR,
  )


def _run_lengths(
  dataset: pydicom.Dataset, header: dicom_header.Header, allocated: int
) -> np.ndarray:
  frame = _frame(dataset, run_lengths.starts)
  _check_one_frame(
    dataset, run_lengths.count_joined(frame, header.height * header.width)
  )
  data = encaps.encapsulate([frame])
  return _by_pydicom(uid.RLELossless, data, header, allocated, plugin='pydicom')


def _codestream(
  dataset: pydicom.Dataset, header: dicom_header.Header, allocated: int
) -> tuple[np.ndarray, int]:
  """Returns the samples of a JPEG or JPEG 2000 frame, and their precision.

  Its own first bytes tell which of these it is, as some files name another.
  """
  syntax = dataset.file_meta.TransferSyntaxUID
  if syntax not in _STILL_IMAGES:
    raise UnusableDicom('undecodable', f'no decoder for {syntax.name}')
  data = _frame(dataset, codestream.starts)
  _check_one_frame(dataset, codestream.count_joined(data))
  try:
    found = codestream.parse(data)
  except ValueError as error:
    raise UnusableDicom('undecodable', str(error)) from error
  if found.components != 1:
    raise UnusableDicom('color', f'{found.components} components in the frame')
  if (found.height, found.width) != (header.height, header.width):
    raise UnusableDicom(
      'undecodable',
      f'the frame has {found.height} x {found.width} pixels, the header says '
      f'{header.height} x {header.width}',
    )
  if found.precision > min(allocated, 16):
    raise UnusableDicom(
      'undecodable',
      f'the frame has {found.precision} bits per pixel, the header allocates '
      f'{allocated}',
    )
  try:
    bits = _DECODERS[found.kind](data, found, header)
  except UnusableDicom:
    raise
  except Exception as error:
    # Its text may quote a header.
    reason = 'truncated' if 'truncated' in str(error) else 'undecodable'
    raise UnusableDicom(
      reason, f'JPEG {found.kind}: {type(error).__name__}'
    ) from error
  return bits, found.precision


def _jpeg(
  data: bytes, found: codestream.Frame, header: dicom_header.Header
) -> np.ndarray:
  del header
  if found.precision != 8:
    raise UnusableDicom(
      'undecodable', f'no decoder for lossy JPEG of {found.precision} bits'
    )
  with Image.open(io.BytesIO(data), formats=('JPEG',)) as image:
    return np.asarray(image)


def _jpeg_lossless(
  data: bytes, found: codestream.Frame, header: dicom_header.Header
) -> np.ndarray:
  return _by_pydicom(
    _LOSSLESS_JPEG_SYNTAX,
    encaps.encapsulate([data]),
    header,
    8 if found.precision <= 8 else 16,
    plugin='gdcm',
    stored=found.precision,
  )


def _jpeg_ls(
  data: bytes, found: codestream.Frame, header: dicom_header.Header
) -> np.ndarray:
  import jpeg_ls

  buffer, _ = jpeg_ls.decode_pixel_data(data)
  kind = np.uint8 if found.precision <= 8 else np.uint16
  return np.frombuffer(buffer, kind).reshape(header.height, header.width)


def _jpeg_2000(
  data: bytes, found: codestream.Frame, header: dicom_header.Header
) -> np.ndarray:
  import openjpeg

  del found, header
  decoded = openjpeg.decode(data)
  # Signed samples in two's complement, whatever the header says of signs.
  return decoded.view(f'u{decoded.dtype.itemsize}')


_DECODERS = {
  codestream.JPEG: _jpeg,
  codestream.JPEG_LOSSLESS: _jpeg_lossless,
  codestream.JPEG_LS: _jpeg_ls,
  codestream.JPEG_2000: _jpeg_2000,
}


def _by_pydicom(
  syntax: uid.UID,
  data: bytes,
  header: dicom_header.Header,
  allocated: int,
  *,
  plugin: str = '',
  stored: int = 0,
  pixel_vr: str = 'OW',
) -> np.ndarray:
  """Returns samples of `allocated` bits as unsigned integers, u[H, W]."""
  array, _ = pydicom_pixels.get_decoder(syntax).as_array(
    data,
    raw=True,
    decoding_plugin=plugin,
    rows=header.height,
    columns=header.width,
    number_of_frames=1,
    samples_per_pixel=1,
    photometric_interpretation='MONOCHROME2',
    bits_allocated=allocated,
    bits_stored=stored or allocated,
    pixel_representation=0,
    pixel_keyword='PixelData',
    pixel_vr=pixel_vr,
    correct_unused_bits=False,
  )
  # The byte order of this machine.
  return array.astype(array.dtype.newbyteorder('='), copy=False)


def _frame(dataset: pydicom.Dataset, starts: Callable[[bytes], bool]) -> bytes:
  """Returns the only frame of compressed pixel data.

  Raises:
    UnusableDicom: There are several, or none.
  """
  stream = io.BytesIO(dataset.PixelData)
  offsets = encaps.parse_basic_offsets(stream)
  fragments = [part for part in encaps.generate_fragments(stream) if part]
  if not fragments:
    raise UnusableDicom('truncated', 'no pixels')
  table = dataset.get('ExtendedOffsetTable') or b''  # 8 bytes per frame
  beginnings = sum(map(starts, fragments))
  _check_one_frame(dataset, max(len(offsets), len(table) // 8, beginnings))
  return b''.join(fragments)


def _check_one_frame(dataset: pydicom.Dataset, found: int) -> None:
  if found > 1:
    said = dicom_header.integer(dataset.get('NumberOfFrames'))
    raise UnusableDicom(
      'multi_frame',
      f'pixel data of {found} frames, the header says '
      f'{said or "nothing of frames"}',
    )
