"""Compressed frames for tests, and DICOM files that hold them."""

import io

import jpeg_ls
import numpy as np
from dicom_files import dataset
from openjpeg.utils import encode_array
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate, get_frame


def jpeg(samples, *, quality=95):
  buffer = io.BytesIO()
  Image.fromarray(samples).save(buffer, 'JPEG', quality=quality)
  return buffer.getvalue()


def jpeg_2000(samples, bits):
  """A lossless frame of `bits` bits, signed like the samples."""
  return bytes(encode_array(samples, bits_stored=bits))


def jpeg_ls_frame(samples, bits):
  rows, columns = samples.shape
  return bytes(jpeg_ls.encode_buffer(samples.tobytes(), rows, columns, 1, bits))


def lossless_jpeg(samples, bits):
  """Process 14, first-order prediction, each difference in 5 bits plus it."""
  values = samples.astype(np.int64) & ((1 << bits) - 1)
  predicted = np.empty_like(values)
  predicted[:, 1:] = values[:, :-1]
  predicted[1:, 0] = values[:-1, 0]
  predicted[0, 0] = 1 << (bits - 1)
  words = []
  for difference in ((values - predicted + 32768) % 65536 - 32768).ravel():
    size = int(abs(difference)).bit_length()
    words.append(f'{size:05b}')
    if 0 < size < 16:
      low = difference if difference > 0 else difference + (1 << size) - 1
      words.append(f'{low:0{size}b}')
  text = ''.join(words)
  text += '1' * (-len(text) % 8)
  data = int(text, 2).to_bytes(len(text) // 8).replace(b'\xff', b'\xff\0')
  height, width = samples.shape
  return b''.join([
    b'\xff\xd8\xff\xc3\0\x0b',
    bytes([bits]) + height.to_bytes(2) + width.to_bytes(2) + b'\1\1\x11\0',
    b'\xff\xc4\0\x24\0' + bytes(4) + b'\x11' + bytes(11) + bytes(range(17)),
    b'\xff\xda\0\x08\1\1\0\1\0\0',
    data,
    b'\xff\xd9',
  ])  # fmt: skip


def run_lengths(samples):
  made = dataset(samples)
  made.compress(uid.RLELossless, encoding_plugin='pydicom')
  return get_frame(made.PixelData, 0, number_of_frames=1)


ENCODERS = {
  uid.JPEG2000Lossless: jpeg_2000,
  uid.JPEGLSLossless: jpeg_ls_frame,
  uid.JPEGLosslessSV1: lossless_jpeg,
}


def compressed(syntax, frames, like, *, bits=None, **attributes):
  """A film whose header is that of the samples `like`.

  Args:
    syntax: Transfer syntax UID.
    frames: Encoded frames, bytes each.
    like: Samples of the size and type that the header describes.
    bits: BitsStored.
    **attributes: As for `dicom_files.dataset`.
  """
  made = dataset(like, bits=bits, **attributes)
  made.file_meta.TransferSyntaxUID = syntax
  made.PixelData = encapsulate(list(frames))
  made['PixelData'].VR = 'OB'
  return made
