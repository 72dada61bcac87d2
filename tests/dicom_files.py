"""Small DICOM files for tests."""

import io
import time
import warnings

import numpy as np
import pydicom
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate


class Hangs:
  """The path of a file that takes a minute to be opened."""

  def __fspath__(self):
    time.sleep(60)


def film(height=32, width=32, *, seed=0):
  """A smooth picture, uint8[H, W], unlike that of another seed."""
  waves = np.random.default_rng(seed).normal(size=(5, 3))
  y, x = np.mgrid[:height, :width] / max(height, width)
  picture = sum(np.sin(4 * (a * x + b * y) + 6 * c) for a, b, c in waves)
  picture = (picture - picture.min()) / np.ptp(picture)
  return (picture * 255).astype(np.uint8)


def dataset(pixels, *, jpeg=False, bits=None, **attributes):
  """A radiograph of Kaggle's kind; `None` removes an attribute."""
  pixels = np.asarray(pixels)
  made = pydicom.Dataset()
  made.file_meta = pydicom.dataset.FileMetaDataset()
  made.file_meta.TransferSyntaxUID = (
    uid.JPEGBaseline8Bit if jpeg else uid.ExplicitVRLittleEndian
  )
  made.SOPClassUID = uid.SecondaryCaptureImageStorage
  made.SOPInstanceUID = uid.generate_uid(entropy_srcs=['film'])
  made.Modality = 'CR'
  made.BodyPartExamined = 'CHEST'
  made.ViewPosition = 'PA'
  made.PatientID = 'somebody'
  made.PatientSex = 'F'
  made.PatientAge = '069Y'
  made.PixelSpacing = [0.2, 0.2]
  made.SamplesPerPixel = 1
  made.PhotometricInterpretation = 'MONOCHROME2'
  made.Rows, made.Columns = pixels.shape[:2]
  made.BitsAllocated = pixels.dtype.itemsize * 8
  made.BitsStored = bits or made.BitsAllocated
  made.HighBit = made.BitsStored - 1
  made.PixelRepresentation = int(pixels.dtype.kind == 'i')
  if jpeg:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'JPEG', quality=95)
    made.PixelData = encapsulate([buffer.getvalue()])
    made['PixelData'].VR = 'OB'
  else:
    made.PixelData = pixels.tobytes()
    made['PixelData'].VR = 'OW'
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # pydicom's, of values not in the standard
    for keyword, value in attributes.items():
      if value is None:
        delattr(made, keyword)
      else:
        setattr(made, keyword, value)
  return made


def write(path, pixels, **keywords):
  """Writes a radiograph and returns its path."""
  path.parent.mkdir(parents=True, exist_ok=True)
  dataset(pixels, **keywords).save_as(path, enforce_file_format=True)
  return path
