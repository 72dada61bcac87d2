"""A DICOM file, of which the header is read first and the pixels if wanted."""

import contextlib
import io
import os
import stat
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import pydicom
from pydicom import filereader, uid
from pydicom.dataset import FileDataset, FileMetaDataset

from pnx_jax.formats import limits
from pnx_jax.formats.refusals import UnusableDicom

MARK = b'DICM'  # at byte 128
# Of these pydicom knows whether they are explicit and little-endian.
_EXPLICIT_LITTLE = frozenset(
  syntax
  for syntax in uid.AllTransferSyntaxes
  if not syntax.is_implicit_VR and syntax.is_little_endian
)
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_LAST_PIXELS = _PIXELS[-1]
_CHUNK = 1 << 20


class DicomFile:
  """An open file.

  Attributes:
    dataset: All elements before the pixel data.
    has_pixels: Whether there are pixel data behind them.
  """

  def __init__(self, file: BinaryIO):
    """Reads the elements before the pixel data.

    Raises:
      UnusableDicom: The file is not DICOM, or its header is damaged.
    """
    self._file = file
    self._stream: BinaryIO | _Stream = _bounded(file)
    self.dataset: FileDataset
    self.has_pixels: bool = False
    try:
      self.dataset = self._header()
    except EOFError as error:
      raise UnusableDicom('truncated', told(error)) from error
    except Exception as error:
      if not _has_mark(file):
        raise UnusableDicom('not_dicom', told(error)) from error
      if isinstance(error, UnusableDicom | MemoryError):
        raise
      raise UnusableDicom('undecodable', told(error)) from error
    # Since files without the mark are read, pydicom finds elements in noise.
    if self.dataset.preamble is None and 'SOPClassUID' not in self.dataset:
      raise UnusableDicom('not_dicom', 'no DICM mark at byte 128')

  def add_pixels(self) -> None:
    """Reads the pixel data into the dataset.

    Raises:
      UnusableDicom: The file is too large or ends within them.
    """
    if isinstance(self._stream, _Stream):
      _check_bytes(self._stream.size)
      self._stream.most = self._stream.size
    implicit, little = self.dataset.original_encoding
    rest = filereader.read_dataset(
      self._stream,  # type: ignore[arg-type]
      bool(implicit),
      bool(little),
      stop_when=lambda tag, vr, length: tag > _LAST_PIXELS,
    )
    # pydicom drops compressed pixel data that end too soon.
    if not any(tag in rest for tag in _PIXELS):
      raise UnusableDicom('truncated', 'the file ends within its pixels')
    self.dataset.update(rest)

  def _header(self) -> pydicom.FileDataset:
    stream = self._stream
    preamble = filereader.read_preamble(stream, force=True)  # type: ignore
    meta = filereader.read_dataset(
      stream,  # type: ignore[arg-type]
      is_implicit_VR=False,
      is_little_endian=True,
      stop_when=lambda tag, vr, length: tag >> 16 != 2,
    )
    syntax = meta.get('TransferSyntaxUID')
    if syntax == uid.DeflatedExplicitVRLittleEndian:
      self._stream = stream = _bounded(io.BytesIO(_inflated(self._file)))
    elif str(syntax) not in _EXPLICIT_LITTLE or self._has_command_set():
      stream.seek(0)
      return filereader.read_partial(
        stream,  # type: ignore[arg-type]
        stop_when=self._stop,
        force=True,
      )
    dataset = filereader.read_dataset(
      stream,  # type: ignore[arg-type]
      is_implicit_VR=False,
      is_little_endian=True,
      stop_when=self._stop,
    )
    made = FileDataset(
      '', dataset, preamble, FileMetaDataset(meta), False, True
    )
    made.set_original_encoding(False, True, dataset.original_character_set)
    return made

  def _has_command_set(self) -> bool:
    place = self._stream.tell()
    group = self._stream.read(2)
    self._stream.seek(place)
    return group == b'\0\0'

  def _stop(self, tag: int, vr: str | None, length: int) -> bool:
    self.has_pixels = tag in _PIXELS
    return self.has_pixels


@contextlib.contextmanager
def opened(
  source: str | os.PathLike[str] | bytes, *, pixels: bool = False
) -> Iterator[DicomFile]:
  """Opens a file, or the content of one, and reads its header.

  Args:
    source: The file's path or its content.
    pixels: Whether the pixels are likely to be wanted, too.

  Raises:
    UnusableDicom: The file cannot be read, or is not DICOM.
  """
  if isinstance(source, bytes):
    yield DicomFile(io.BytesIO(source))
    return
  try:
    with _regular(source) as file:
      if pixels and os.fstat(file.fileno()).st_size <= limits.MOST_HEADER_BYTES:
        yield DicomFile(io.BytesIO(file.read()))
      else:
        yield DicomFile(file)
  except OSError as error:
    raise UnusableDicom('unreadable', told(error)) from error


def content(path: str | os.PathLike[str]) -> bytes:
  """Returns the bytes of a file.

  Raises:
    UnusableDicom: The file cannot be read, is too large, or is a pipe.
  """
  try:
    with _regular(path) as file:
      data = file.read(limits.MOST_FILE_BYTES + 1)
  except OSError as error:
    raise UnusableDicom('unreadable', told(error)) from error
  _check_bytes(len(data))
  return data


def told(error: Exception) -> str:
  """What went wrong, but not its text, which may quote a header."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  return type(error).__name__


def _bounded(file: BinaryIO) -> 'BinaryIO | _Stream':
  """Returns what pydicom may read."""
  if (
    isinstance(file, io.BytesIO)
    and file.getbuffer().nbytes <= limits.MOST_HEADER_BYTES
  ):
    return file  # All of it is within the bounds, and fast to read.
  return _Stream(file)


class _Stream:
  """What pydicom reads: never more than there is, nor than is allowed."""

  def __init__(self, file: BinaryIO):
    self._file = file
    self.size = file.seek(0, os.SEEK_END)
    self.most = limits.MOST_HEADER_BYTES
    file.seek(0)

  def read(self, size: int = -1) -> bytes:
    start = self._file.tell()
    end = self.size if size < 0 else min(start + size, self.size)
    if end > self.most:
      raise UnusableDicom(
        'limit', f'its header has more than {self.most:,} bytes'
      )
    return self._file.read(max(end - start, 0))

  def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
    return self._file.seek(offset, whence)

  def tell(self) -> int:
    return self._file.tell()


def _regular(path: str | os.PathLike[str]) -> BinaryIO:
  if not stat.S_ISREG(os.stat(path).st_mode):
    raise UnusableDicom('unreadable', 'neither a file nor a folder')
  return open(path, 'rb')


def _check_bytes(number: int) -> None:
  if number > limits.MOST_FILE_BYTES:
    raise UnusableDicom(
      'limit', f'the file has more than {limits.MOST_FILE_BYTES:,} bytes'
    )


def _has_mark(file: BinaryIO) -> bool:
  file.seek(128)
  return file.read(4) == MARK


def _inflated(file: BinaryIO) -> bytes:
  """Returns what a deflated file holds from the current position on."""
  inflater = zlib.decompressobj(-zlib.MAX_WBITS)
  parts: list[bytes] = []
  left = limits.MOST_FILE_BYTES
  while not inflater.eof:
    data = inflater.unconsumed_tail or file.read(_CHUNK)
    if not data:
      raise UnusableDicom('truncated', 'the deflated part of the file ends')
    parts.append(inflater.decompress(data, _CHUNK))
    left -= len(parts[-1])
    if left < 0:
      raise UnusableDicom(
        'limit', f'inflated it has more than {limits.MOST_FILE_BYTES:,} bytes'
      )
  return b''.join(parts)
