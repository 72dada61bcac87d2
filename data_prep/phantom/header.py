"""A phantom as a DICOM file like those of the challenge."""

import uuid

import cv2
import numpy as np
import pydicom
from pydicom import dataelem, encaps, uid

from data_prep.phantom.anatomy import Patient, Pose

_JPEG_QUALITY = 92
_FILM_MM = 146  # width of a film whose pixels are 0.143 mm at 1024


def dataset(
  image: np.ndarray, patient: Patient, pose: Pose, random
) -> pydicom.Dataset:
  """The file of a film, uint8[S, S], with identifiers drawn by `random`."""
  study, series, image_id, person = (
    uuid.UUID(bytes=random.bytes(16), version=4) for _ in range(4)
  )
  result = _described(image, patient, pose)
  # As in the challenge: another person for every image.
  result.PatientName = result.PatientID = str(person)
  result.StudyInstanceUID = f'2.25.{study.int}'
  result.SeriesInstanceUID = f'2.25.{series.int}'
  result.SOPInstanceUID = f'2.25.{image_id.int}'
  result.file_meta = pydicom.dataset.FileMetaDataset()
  result.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
  _, data = cv2.imencode(
    '.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
  )
  result.PixelData = encaps.encapsulate([data.tobytes()])
  return result


def _described(image: np.ndarray, patient, pose) -> pydicom.Dataset:
  """A header with the attributes, and the oddities, of the challenge's."""
  dataset = pydicom.Dataset()
  dataset.SpecificCharacterSet = 'ISO_IR 100'
  dataset.SOPClassUID = uid.SecondaryCaptureImageStorage
  dataset.StudyDate = '19010101'
  dataset.StudyTime = '000000.00'
  dataset.AccessionNumber = ''
  dataset.SyntheticData = 'YES'
  dataset.Modality = 'CR'
  dataset.ConversionType = 'WSD'
  dataset.ReferringPhysicianName = ''
  view = 'AP' if pose.portable else 'PA'
  dataset.SeriesDescription = f'view: {view}'
  dataset.PatientBirthDate = ''
  dataset.PatientSex = 'F' if patient.female else 'M'
  # The challenge writes a bare number where DICOM asks for `069Y`.
  dataset[0x00101010] = dataelem.DataElement(
    0x00101010,
    'AS',
    str(patient.age),
    validation_mode=pydicom.config.IGNORE,
  )
  dataset.BodyPartExamined = 'CHEST'
  dataset.ViewPosition = view
  dataset.StudyID = ''
  dataset.SeriesNumber = '1'
  dataset.InstanceNumber = '1'
  dataset.PatientOrientation = ''
  dataset.SamplesPerPixel = 1
  dataset.PhotometricInterpretation = 'MONOCHROME2'
  dataset.Rows, dataset.Columns = image.shape
  spacing = f'{_FILM_MM / image.shape[0]:.4g}'
  dataset.PixelSpacing = [spacing, spacing]
  dataset.BitsAllocated = dataset.BitsStored = 8
  dataset.HighBit = 7
  dataset.PixelRepresentation = 0
  dataset.LossyImageCompression = '01'
  dataset.LossyImageCompressionMethod = 'ISO_10918_1'
  return dataset
