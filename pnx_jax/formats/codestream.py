"""What a compressed frame says about itself, before it is decompressed."""

from typing import NamedTuple

import numpy as np

JPEG, JPEG_LOSSLESS, JPEG_LS, JPEG_2000 = 'jpeg', 'lossless', 'ls', '2000'

_JPEG_START = b'\xff\xd8\xff'
_END = 0xFFD9  # of JPEG and JPEG 2000
_JPEG_2000_START = b'\xff\x4f\xff\x51'
_JP2_START = b'\x00\x00\x00\x0cjP  '
_BARE_STARTS = _JPEG_START, _JPEG_2000_START, _JP2_START.lstrip(b'\0')
_MOST_PADDING = 16
_LOSSLESS = (0xC3, 0xC7, 0xCB, 0xCF)
# Frame headers of Huffman and arithmetic coding; C4, C8 and CC are others.
_FRAMES = (*(n for n in range(0xC0, 0xD0) if n not in (0xC4, 0xC8, 0xCC)), 0xF7)
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))


class Frame(NamedTuple):
  """The header of a compressed frame.

  Attributes:
    kind: Which of this module's codes.
    height: Rows.
    width: Columns.
    components: Samples per pixel.
    precision: Bits per sample.
  """

  kind: str
  height: int
  width: int
  components: int
  precision: int


def starts(data: bytes) -> bool:
  """Returns whether a JPEG or JPEG 2000 frame begins here."""
  return data.startswith((_JPEG_START, _JPEG_2000_START, _JP2_START))


def count_joined(data: bytes) -> int:
  """Returns how many frames follow one another in one piece.

  Within a frame the mark of its end cannot be followed by that of a start;
  between two frames there may be zeros.
  """
  return 1 + sum(
    data[end : end + _MOST_PADDING].lstrip(b'\0').startswith(_BARE_STARTS)
    for first in (0, 1)  # Words at even and at odd places.
    for end in first + 2 + 2 * np.flatnonzero(_words(data, first) == _END)
  )


def _words(data: bytes, first: int) -> np.ndarray:
  return np.frombuffer(data, '>u2', (len(data) - first) // 2, first)


def parse(data: bytes) -> Frame:
  """Returns the header of a frame.

  Raises:
    ValueError: There is none.
  """
  if data.startswith(_JPEG_START):
    return _jpeg(data)
  if data.startswith(_JP2_START):
    data = data[_boxed(data) :]
  if data.startswith(_JPEG_2000_START):
    return _jpeg_2000(data)
  raise ValueError('neither a JPEG nor a JPEG 2000 frame')


def _jpeg(data: bytes) -> Frame:
  place = 2
  while place + 10 <= len(data):
    if data[place] != 0xFF:
      break
    marker = data[place + 1]
    if marker == 0xFF:  # padding
      place += 1
    elif marker in _WITHOUT_LENGTH:
      place += 2
    elif marker in _FRAMES:
      kind = JPEG_LS if marker == 0xF7 else JPEG
      kind = JPEG_LOSSLESS if marker in _LOSSLESS else kind
      height, width = _short(data, place + 5), _short(data, place + 7)
      return Frame(kind, height, width, data[place + 9], data[place + 4])
    else:
      place += 2 + max(_short(data, place + 2), 2)
  raise ValueError('a JPEG frame without a header')


def _jpeg_2000(data: bytes) -> Frame:
  if len(data) < 43:
    raise ValueError('a JPEG 2000 frame without a header')
  right, bottom, left, top = (
    int.from_bytes(data[place : place + 4]) for place in (8, 12, 16, 20)
  )
  precision = (data[42] & 0x7F) + 1
  components = _short(data, 40)
  return Frame(JPEG_2000, bottom - top, right - left, components, precision)


def _boxed(data: bytes) -> int:
  """Returns where the codestream in a JP2 file starts."""
  place = 12
  while place + 8 <= len(data):
    length = int.from_bytes(data[place : place + 4])
    if data[place + 4 : place + 8] == b'jp2c':
      return place + 8
    if length < 8:
      break
    place += length
  raise ValueError('a JP2 file without a codestream')


def _short(data: bytes, place: int) -> int:
  return int.from_bytes(data[place : place + 2])
