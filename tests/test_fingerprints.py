"""Films are recognized by their content, patients by a keyed digest."""

import cv2
import dicom_files
import numpy as np

from data_prep import dataset, near_duplicates
from data_prep.request import Request
from pnx_jax.formats import built_dataset, dicom, fingerprints, schema, tfrecord


def test_copies_are_those_that_differ_by_few_bits():
  random_state = np.random.default_rng(0)
  bits = random_state.random((300, 1024)) < 0.5
  for place, changes in enumerate((0, 20, 140, 160)):
    bits[200 + place] = bits[place]
    changed = random_state.choice(1024, changes, replace=False)
    bits[200 + place, changed] ^= True
  texts = [row.tobytes().hex() for row in np.packbits(bits, axis=1)]
  ours = dict(zip('abcd', texts[:4], strict=True)) | {'unknown': ''}
  theirs = {str(place): text for place, text in enumerate(texts[200:])}
  expected = [('a', '0'), ('b', '1'), ('c', '2')]
  assert fingerprints.copies(ours, theirs) == expected
  assert fingerprints.copies(ours, {}) == fingerprints.copies({}, ours) == []


def test_records_of_one_film_are_alike_whatever_its_size(phantom_films):
  """At two sizes, as JPEG: the fingerprint is not that of the record."""
  films = [
    dicom.read(path).pixels for path in sorted(phantom_films.rglob('*.dcm'))[:3]
  ]
  small = [
    cv2.imdecode(
      cv2.imencode(
        '.jpg', cv2.resize(film, (96, 96), interpolation=cv2.INTER_AREA)
      )[1],
      cv2.IMREAD_GRAYSCALE,
    )
    for film in films
  ]

  def prints(pictures):
    return {
      str(place): near_duplicates.fingerprint(picture).hex()
      for place, picture in enumerate(pictures)
    }

  found = fingerprints.copies(prints(films), prints(small))
  assert found == [('0', '0'), ('1', '1'), ('2', '2')]


def test_one_patient_has_one_digest_in_builds_with_the_same_key(tmp_path):
  for number in range(4):
    film = dicom_files.film(60, 80, seed=number)
    cv2.imwrite(str(tmp_path / f'{number}.png'), film)

  def digests(name, rows, **changes):
    table = tmp_path / f'{name}.csv'
    table.write_text('\n'.join(['path,image_id,patient,label', *rows]))
    dataset.build(
      Request(
        manifest=str(table),
        output_dir=str(tmp_path / name),
        image_size=32,
        num_folds=2,
        **changes,
      )
    )
    source = built_dataset.split_source(tmp_path / name, ['fold0', 'fold1'])
    records = map(tfrecord.parse, source)
    return {record.image_id: record.patient_digest for record in records}

  one = digests('one', ['0.png,a,ann,0', '1.png,b,bob,0'])
  rows = ['2.png,c,bob,0', '3.png,d,cy,0', '0.png,e,,0']
  two = digests('two', rows)
  assert one['b'] == two['c'] != two['d']
  assert one['a'] != one['b'] and 'bob' not in one['b']
  assert two['e'] == schema.Record.patient_digest == ''
  assert (tmp_path / '.patient_key').stat().st_mode & 0o077 == 0
  # Mounted secrets are links.
  (tmp_path / 'key').symlink_to(tmp_path / 'mounted')
  other = digests('three', rows, patient_key=str(tmp_path / 'key'))
  assert set(other.values()) & set(two.values()) == {''}
