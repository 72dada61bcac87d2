"""The order of a worklist, and the side it names."""

import dataclasses

import dicom_files
import numpy as np

from pnx_jax.case import Case
from pnx_jax.formats import dicom
from pnx_jax.inference import worklist
from pnx_jax.inference.readings import Reading


def test_priority_is_probability_then_area():
  def reading(name, **fields):
    return Reading(name=name, path=name, image_id=name, **fields)

  ordered = worklist.in_order(
    [
      reading('z', reason='turned'),
      reading('low', probability=0.1, area=9),
      reading('y', reason='blank'),
      reading('small', probability=0.9, area=1),
      reading('large', probability=0.9, area=5),
      reading('zero', probability=0.0),
    ]
  )
  names = [one.name for one in ordered]
  assert names == ['large', 'small', 'low', 'zero', 'y', 'z']


def test_a_film_stored_mirrored_has_its_side_all_the_same(tmp_path):
  """The side is the patient's; the mask stays on the stored pixels."""
  mask = np.zeros((60, 60), bool)
  mask[10:20, 5:15] = True
  film = Case(
    image=mask,
    mask=mask,
    image_id='',
    view='PA',
    sex='',
    age=-1,
    pixel_spacing=(-1.0, -1.0),
    spacing_plane='',
  )
  assert film.sides == ['right']
  assert dataclasses.replace(film, mirrored=True).sides == ['left']
  for value, mirrored in (
    (['L', 'F'], False),
    (['R', 'F'], True),
    (['RP', 'FL'], True),
    ('R', False),
    (['', 'F'], False),
    (None, False),
  ):
    attributes = {} if value is None else {'PatientOrientation': value}
    path = dicom_files.write(
      tmp_path / 'f.dcm', dicom_files.film(), **attributes
    )
    assert dicom.read_header(path).mirrored == mirrored, value
