"""Damaged DICOM films: drawn, encoded, changed, and compared with gdcm."""

import io
import pathlib
import tempfile

import cv2
import numpy as np
import pydicom
from pydicom import uid
from pydicom.encaps import encapsulate, get_frame

from pnx_jax import pool
from pnx_jax.formats import dicom, dicom_header, dicom_pixels, refusals

_SIDE = 128


def film(seed: int) -> np.ndarray:
  """A drawing of a chest in 12 bits, u16[S, S]."""
  from data_prep.phantom import generate

  drawn, *_ = generate.draw(
    generate.Job('', seed, seed, 0, 0.5 if seed % 2 else None),
    generate.PhantomSet(1, 0, 0.5, 0, _SIDE),
  )
  low = np.random.default_rng(seed).integers(16, size=drawn.shape)
  return drawn.astype(np.uint16) << 4 | low.astype(np.uint16)


def clean(seed: int, **attributes: str) -> bytes:
  """Returns the file of a film, uncompressed."""
  return as_file(uncompressed(film(seed), **attributes))


def originals() -> list[bytes]:
  """Valid films of every transfer syntax that can be written here."""
  import jpeg_ls
  from openjpeg.utils import encode_array

  twelve = film(1)
  eight = (twelve >> 4).astype(np.uint8)
  _, jpeg = cv2.imencode('.jpg', eight, [cv2.IMWRITE_JPEG_QUALITY, 92])
  streams = [
    (uid.JPEGBaseline8Bit, eight, jpeg.tobytes()),
    (uid.JPEG2000Lossless, twelve, bytes(encode_array(twelve, bits_stored=12))),
    (
      uid.JPEG2000,
      twelve,
      bytes(encode_array(twelve, bits_stored=12, compression_ratios=[8])),
    ),
    (
      uid.JPEGLSLossless,
      twelve,
      bytes(jpeg_ls.encode_buffer(twelve.tobytes(), _SIDE, _SIDE, 1, 12)),
    ),
    (uid.JPEGLosslessSV1, twelve, lossless_jpeg(twelve)),
  ]
  made = []
  for syntax, samples, stream in streams:
    dataset = uncompressed(samples)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([stream])
    dataset['PixelData'].VR = 'OB'
    made.append(dataset)
  for syntax in (
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
  ):
    dataset = uncompressed(twelve)
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == uid.ExplicitVRBigEndian:
      dataset.PixelData = twelve.astype('>u2').tobytes()
    made.append(dataset)
  runs = uncompressed(twelve)
  runs.compress(
    uid.RLELossless, encoding_plugin='pydicom', generate_instance_uid=False
  )
  for number, dataset in enumerate([*made, runs]):
    dataset.PatientID = f'{number}'
  return [*map(as_file, [*made, runs])]


def lossless_jpeg(samples: np.ndarray) -> bytes:
  """A frame that gdcm has encoded."""
  import gdcm

  with tempfile.TemporaryDirectory() as folder:
    path = f'{folder}/film.dcm'
    pathlib.Path(path).write_bytes(as_file(uncompressed(samples)))
    reader = gdcm.ImageReader()
    reader.SetFileName(path)
    reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(
      gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1)
    )
    change.SetInput(reader.GetImage())
    change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(path)
    writer.Write()
    return get_frame(pydicom.dcmread(path).PixelData, 0, number_of_frames=1)


def damaged(original: bytes, rng: np.random.Generator) -> bytes:
  """Returns a file of which some bytes were changed."""
  data = bytearray(original)
  kind = rng.integers(6)
  header = data.find(b'\xe0\x7f\x10\x00')
  header = header if header > 0 else min(len(data), 1500)
  start, end = (132, header) if kind < 3 else (header, len(data))
  match kind:
    case 0 | 3:  # bits
      for _ in range(rng.integers(1, 12)):
        data[rng.integers(start, end)] ^= 1 << rng.integers(8)
    case 1 | 4:  # a length or number
      place = rng.integers(start, max(end - 4, start + 1))
      value = int(rng.choice([0, 1, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]))
      data[place : place + 4] = value.to_bytes(4, 'little')
    case 2:  # twice
      first = rng.integers(start, end)
      last = min(first + int(rng.integers(1, 200)), end)
      data[first:first] = data[first:last]
    case _:  # cut
      del data[rng.integers(start, end) :]
  return bytes(data)


def another_decoder(data: bytes) -> np.ndarray | None:
  """Returns what gdcm reads of a file, None where it refuses it."""
  import gdcm

  with tempfile.NamedTemporaryFile(suffix='.dcm') as file:
    file.write(data)
    file.flush()
    reader = gdcm.ImageReader()
    reader.SetFileName(file.name)
    if not reader.Read():
      return None
    image = reader.GetImage()
    columns, rows = image.GetDimensions()[:2]
    kind = image.GetPixelFormat().GetScalarTypeAsString().lower()
    buffer = image.GetBuffer()
  if buffer is None:
    return None
  content = buffer.encode('utf-8', 'surrogateescape')
  try:
    return np.frombuffer(content, np.dtype(kind)).reshape(rows, columns)
  except (TypeError, ValueError):
    return None


def compared(path: str) -> str:
  """Reads a film and compares its stored values with those of gdcm."""
  try:
    data = dicom.content(path)
    film = dicom.read(data, accept_modality=(), accept_body_part=())
  except refusals.UnusableFilm:
    return 'refused'
  dataset = pydicom.dcmread(io.BytesIO(data), force=True)
  stored = dicom_pixels.decode(dataset, dicom_header.parse(dataset))
  other = another_decoder(data)
  if other is None or other.shape != film.pixels.shape:
    return 'right, alone'  # gdcm does not read it, or reads another picture
  if _alike(stored, other, dataset):
    return 'right'
  # Decoders go on differently after damage in a stream without checksums.
  return 'lossy, differs' if _is_lossy(dataset) else 'wrong'


def compared_batch(batch: pool.Batch[str]) -> list[tuple[int, str]]:
  """Returns what `compared` says of the files of a batch."""
  found = []
  for number, path in pool.each(batch):
    outcome = refusals.attempt(compared, path)
    if isinstance(outcome, refusals.Refusal):
      bug = outcome.reason == refusals.INTERNAL_ERROR
      outcome = f'crashed: {outcome.detail}' if bug else 'refused'
    found.append((number, outcome))
  return found


def _alike(
  stored: np.ndarray, other: np.ndarray, dataset: pydicom.Dataset
) -> bool:
  bits = int(dataset.BitsStored)
  most = 2 << max(bits - 8, 0) if _is_lossy(dataset) else 0
  mask = (1 << bits) - 1
  difference = (stored.astype(np.int64) & mask) - (
    other.astype(np.int64) & mask
  )
  return bool(np.abs(difference).max() <= most)


def _is_lossy(dataset: pydicom.Dataset) -> bool:
  syntax = dataset.file_meta.TransferSyntaxUID
  return syntax in (uid.JPEGBaseline8Bit, uid.JPEG2000, uid.JPEGExtended12Bit)


def uncompressed(samples: np.ndarray, **attributes: str) -> pydicom.Dataset:
  """Returns a film of u8[H, W], or of 12 bits in u16[H, W]."""
  made = pydicom.Dataset()
  made.file_meta = pydicom.dataset.FileMetaDataset()
  made.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
  made.SOPClassUID = uid.SecondaryCaptureImageStorage
  made.SOPInstanceUID = '1.2.3'
  made.Modality, made.BodyPartExamined, made.ViewPosition = 'CR', 'CHEST', 'PA'
  made.PatientID = attributes.get('PatientID', 'somebody')
  made.SamplesPerPixel = 1
  made.PhotometricInterpretation = 'MONOCHROME2'
  made.Rows, made.Columns = samples.shape
  made.BitsAllocated = 8 * samples.dtype.itemsize
  made.BitsStored = 8 if samples.dtype == np.uint8 else 12
  made.HighBit = made.BitsStored - 1
  made.PixelRepresentation = 0
  made.PixelSpacing = [0.2, 0.2]
  made.PixelData = samples.tobytes()
  made['PixelData'].VR = 'OW'
  return made


def as_file(made: pydicom.Dataset) -> bytes:
  """Returns the bytes of the file."""
  buffer = io.BytesIO()
  made.save_as(buffer, enforce_file_format=True)
  return buffer.getvalue()
