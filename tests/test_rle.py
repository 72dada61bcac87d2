import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from pnx_jax.formats import rle

masks = hnp.arrays(
  bool,
  hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
  elements=st.booleans(),
)


def coco_counts(mask):
  """The uncompressed COCO counts: ours plus the trailing gap."""
  text = rle.encode(mask)
  counts = [] if text == rle.EMPTY else [int(word) for word in text.split()]
  return [*counts, mask.size - sum(counts)]


# pycocotools has not followed NumPy 2 yet.
@pytest.mark.filterwarnings('ignore:__array__:DeprecationWarning')
@given(masks)
@settings(deadline=None)
def test_encode_agrees_with_pycocotools(mask):
  height, width = mask.shape
  ours = {'size': [height, width], 'counts': coco_counts(mask)}
  oracle = coco.encode(np.asfortranarray(mask.view(np.uint8)))
  decoded = coco.decode(coco.frPyObjects(ours, height, width))
  np.testing.assert_array_equal(decoded, mask)
  np.testing.assert_array_equal(coco.decode(oracle), mask)


@given(masks)
@settings(deadline=None)
def test_decode_inverts_encode(mask):
  decoded = rle.decode(rle.encode(mask), *mask.shape)
  assert decoded.dtype == bool
  np.testing.assert_array_equal(decoded, mask)


@pytest.mark.parametrize(
  'pixels',
  [
    [(0, 0)],
    [(4, 3)],
    [(0, 0), (4, 3)],
    [(4, 0), (0, 1)],
    [(4, 2), (3, 2)],
    [(0, 3), (1, 3)],
  ],
)
def test_first_and_last_pixels_survive(pixels):
  mask = np.zeros((5, 4), bool)
  for pixel in pixels:
    mask[pixel] = True
  np.testing.assert_array_equal(rle.decode(rle.encode(mask), 5, 4), mask)


def test_runs_go_down_the_columns():
  mask = np.zeros((3, 4), bool)
  mask[1:, 1] = True
  mask[0, 2] = True
  assert rle.encode(mask) == '4 3'
  assert rle.encode(np.zeros((3, 4), bool)) == '-1'
  assert rle.encode(np.ones((3, 4), bool)) == '0 12'
  assert not rle.decode(' -1', 3, 4).any()
  assert not rle.decode('', 3, 4).any()


@given(st.lists(hnp.arrays(bool, (4, 5)), max_size=4))
@settings(deadline=None)
def test_union(annotations):
  united = rle.union([rle.encode(mask) for mask in annotations], 4, 5)
  np.testing.assert_array_equal(
    united, np.any([np.zeros((4, 5), bool), *annotations], axis=0)
  )


@pytest.mark.parametrize(
  ('text', 'words'),
  [
    ('1 2 3', ['3 numbers', 'pairs']),
    ('1 -2', ['number 2', "'-2'"]),
    ('1 2 x 4', ['number 3', "'x'"]),
    ('1.0 2', ['number 1', "'1.0'"]),
    ('1_0 2', ['number 1', "'1_0'"]),
    ('1 2 -1', ['number 3', "'-1'"]),
    ('18 2 1 1', ['number 3', 'past the end', '20 pixels']),
    ('0 21', ['number 2', 'past the end']),
    ('99999999999999999999999 1', ['number 1', 'past the end']),
  ],
)
def test_malformed_strings_say_what_and_where(text, words):
  with pytest.raises(ValueError, match='RLE') as error:
    rle.decode(text, 4, 5)
  assert all(word in str(error.value) for word in words), error.value


def test_read_csv(tmp_path):
  expected = {'a': ['0 1', '4 2'], 'b': [], 'c': ['7 1']}
  body = 'a, 0 1\nb, -1\na, 4 2\n\nc,7 1\n'
  plain = tmp_path / 'plain.csv'
  plain.write_text('ImageId, EncodedPixels\n' + body)
  bare = tmp_path / 'bare.csv'
  bare.write_bytes(b'\xef\xbb\xbf' + body.replace('\n', '\r\n').encode())
  zipped = tmp_path / 'zipped.csv.gz'
  zipped.write_bytes(gzip.compress(plain.read_bytes()))
  for path in (plain, bare, zipped):
    assert rle.read_csv(path) == expected
  plain.write_text('ImageId,EncodedPixels\na 0 1\n')
  with pytest.raises(ValueError, match='line 2'):
    rle.read_csv(plain)


def test_real_labels_byte_for_byte(real_data):
  labels = real_data / 'labels' / 'train-rle.csv.gz'
  annotations = rle.read_csv(labels)
  assert len(annotations) == 12047
  assert sum(map(bool, annotations.values())) == 2669
  assert sum(len(rows) or 1 for rows in annotations.values()) == 12954
  singles = [rows[0] for rows in annotations.values() if len(rows) == 1]
  assert len(singles) == 2045
  upper = 0
  for text in singles:
    mask = rle.decode(text, 1024, 1024)
    assert rle.encode(mask) == text
    rows = mask.sum(axis=1)
    upper += (rows @ np.arange(1024)) / rows.sum() < 512
  assert upper / len(singles) > 0.8  # a missing transpose gives 0.59


@pytest.mark.parametrize(
  'negative',
  [
    *('-1', ' -1 ', '', 'nan', 'NaN', '-1.0', '-1.', '0', '0.00', 'None'),
    *('null', 'N/A', '<NA>', '\N{NO-BREAK SPACE}-1'),
  ],
)
def test_negatives_as_tables_in_circulation_write_them(tmp_path, negative):
  path = tmp_path / 'a.csv'
  path.write_text(f'ImageId,EncodedPixels\na,{negative}\nb,0 1\n')
  assert rle.read_csv(path) == {'a': [], 'b': ['0 1']}
  assert rle.is_empty(negative)


def test_numbers_may_stand_apart_by_any_space():
  expected = rle.decode('0 1 2 3', 4, 5)
  for space in ('\N{NO-BREAK SPACE}', '\N{EM SPACE}', '\t', '  '):
    text = '0 1 2 3'.replace(' ', space)
    np.testing.assert_array_equal(rle.decode(text, 4, 5), expected)
  for text in ('0\N{NO-BREAK SPACE}x', '\N{ARABIC-INDIC DIGIT ONE} 1', '0 1.0'):
    with pytest.raises(ValueError, match='RLE number'):
      rle.decode(text, 4, 5)
