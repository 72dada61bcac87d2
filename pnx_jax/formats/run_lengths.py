"""What a frame of DICOM's run lengths holds, before it is decompressed.

A frame is a header of 64 bytes, with the number of segments and where each
begins, and a segment of run lengths for each byte of a pixel (PS3.5, annex G).
"""

import numpy as np

_HEADER_BYTES = 64
_MOST_SEGMENTS = 15


def starts(data: bytes) -> bool:
  """Returns whether a frame may begin here."""
  header = _header(data)
  return (
    header.size == 1 + _MOST_SEGMENTS
    and 1 <= header[0] <= _MOST_SEGMENTS
    and header[1] == _HEADER_BYTES
  )


def count_joined(data: bytes, num_pixels: int) -> int:
  """Returns how many frames of so many pixels are in one piece.

  They follow one another, or their pixels are in the same segments. Zeros at
  the end are padding.
  """
  count = 0
  while starts(data):
    header = _header(data)
    last = header[header[0]]  # where the last segment begins
    if last < _HEADER_BYTES:
      break  # A damaged header, which its decoder refuses.
    data = data[last:]
    while data.strip(b'\0') and not starts(data):
      length = _encoded_length(data, num_pixels)
      if not length:
        break
      count += 1
      data = data[length:]
      following = data.lstrip(b'\0')  # A header begins with another byte.
      data = following if starts(following) else data
  return max(1, count)


def _header(data: bytes) -> np.ndarray:
  return np.frombuffer(
    data[:_HEADER_BYTES], '<u4', min(len(data), _HEADER_BYTES) // 4
  )


def _encoded_length(segment: bytes, num_pixels: int) -> int:
  """Returns how many bytes encode so many pixels, 0 where there are fewer."""
  place = decoded = 0
  while decoded < num_pixels:
    if place >= len(segment):
      return 0
    code = segment[place]
    if code < 128:
      place, decoded = place + code + 2, decoded + code + 1
    elif code > 128:
      place, decoded = place + 2, decoded + 257 - code
    else:
      place += 1
  return min(place, len(segment))
