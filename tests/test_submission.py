"""The submission's writer and its checker."""

import functools
import gzip
import json
import os
import pathlib

import numpy as np
import pytest

from pnx_jax.evaluation import submission
from pnx_jax.formats import rle

REAL = os.environ.get('PNX_REAL_DATA')
HEADER = 'ImageId,EncodedPixels\n'


def _mask(top, left, height=50, width=40):
  mask = np.zeros((submission.SIZE, submission.SIZE), bool)
  mask[top : top + height, left : left + width] = True
  return mask


def _file(folder, text, name='submission.csv'):
  path = folder / name
  path.write_text(text)
  return path


def test_what_is_written_reads_back_without_fault(tmp_path):
  masks = {'b': _mask(0, 0), 'a': _mask(9, 9) & False, 'c,"d': _mask(974, 984)}
  path = tmp_path / 'submission.csv'
  rle.write_csv(path, ((key, rle.encode(masks[key])) for key in masks))
  lines = path.read_bytes().split(b'\n')
  assert lines[0] == b'ImageId,EncodedPixels'
  assert lines[2] == b'a,-1'
  assert len(lines) == 5 and lines[-1] == b''
  faults, scores = submission.check(path)
  assert faults == [] and scores is None
  assert [file.name for file in tmp_path.iterdir()] == ['submission.csv']


def test_scores_equal_the_definition(tmp_path):
  truth = {'a': [_mask(10, 10), _mask(90, 60)], 'b': [], 'c': [_mask(5, 600)]}
  guess = {'a': _mask(10, 30), 'b': _mask(0, 0), 'c': _mask(700, 600)}
  guess['d'] = guess['a']
  truth_rows = [
    (key, rle.encode(mask)) for key in truth for mask in truth[key]
  ] + [('b', ' -1'), ('e', '-1')]
  rle.write_csv(tmp_path / 'truth.csv', truth_rows)
  rows = ((key, rle.encode(mask)) for key, mask in guess.items())
  rle.write_csv(tmp_path / 'guess.csv', rows)
  faults, scores = submission.check(
    tmp_path / 'guess.csv', truth=tmp_path / 'truth.csv'
  )
  union = functools.reduce(np.logical_or, truth['a'])
  expected = 2 * (guess['a'] & union).sum() / (guess['a'].sum() + union.sum())
  assert faults == []
  assert scores == {
    'dice': pytest.approx(expected / 3),
    'dice_positive': pytest.approx(expected / 2),
    'specificity': 0.0,
    'sensitivity': 1.0,
    'all_empty_dice': pytest.approx(1 / 3),
    'num_images': 3,
    'ignored': 1,
  }


FAULTY_ROWS = {
  'a,1 2 3': 'a: RLE has 3 numbers',
  'a,5 2 -4 9': "a: RLE number 3 is '-4'",
  'a,1048570 7': 'a: RLE number 2 (7) reaches past the end',
  'a,one two': "a: RLE number 1 is 'one'",
  'a,10 5\na,14 2': 'a: the masks of its rows overlap',
  'a,-1\nb,-1\na,-1': '1 repeated ids: a',
  'a,5 0 3 0': 'a: an empty mask must be written as -1',
  'b,-1': '1 missing ids: a',
  'a,-1\nc,-1': '1 unknown ids: c',
  'a': 'line 2: expected an image id',
  ',10 5': 'line 2: expected an image id',
}


@pytest.mark.parametrize('rows', FAULTY_ROWS)
def test_faults_are_named(tmp_path, rows):
  sample = _file(tmp_path, f'{HEADER}a,-1\nb,-1\na,-1\n', 'sample.csv')
  faults, _ = submission.check(_file(tmp_path, HEADER + rows), sample=sample)
  assert any(fault.startswith(FAULTY_ROWS[rows]) for fault in faults), faults


@pytest.mark.parametrize(
  'header', ['', 'ImageId, EncodedPixels\n', 'imageid,encodedpixels\n']
)
def test_a_wrong_header_is_a_fault_and_no_row_is_lost(tmp_path, header):
  truth = _file(tmp_path, f'{HEADER}a,-1\nb,-1\n', 'truth.csv')
  path = _file(tmp_path, f'{header}a, -1\nb, -1\n')
  faults, scores = submission.check(path, truth=truth)
  assert [fault[:7] for fault in faults] == ['line 1:']
  assert scores['num_images'] == 2 and scores['dice'] == 1
  assert scores['dice_positive'] is None


def test_an_unreadable_mask_scores_zero(tmp_path):
  truth = _file(tmp_path, f'{HEADER}a,-1\nb,7 9\n', 'truth.csv')
  path = _file(tmp_path, f'{HEADER}a,1 2 3\nb,1 2 3\n')
  faults, scores = submission.check(path, truth=truth)
  assert len(faults) == 2
  assert scores['dice'] == scores['sensitivity'] == scores['specificity'] == 0


def test_repeated_and_overlapping_rows_are_faults_but_score_as_their_union(
  tmp_path,
):
  truth = _file(tmp_path, f'{HEADER}a,10 9\nb,10 9\n', 'truth.csv')
  rows = 'a,10 9\na,10 9\nb,10 5\nb,12 7\n'
  faults, scores = submission.check(_file(tmp_path, HEADER + rows), truth=truth)
  assert faults == [
    '2 repeated ids: a, b',
    'b: the masks of its rows overlap',
  ]
  assert scores['dice'] == 1


def test_the_longest_mask_can_be_read(tmp_path):
  mask = np.zeros((1024, 1024), bool)
  mask[::2] = True
  rle.write_csv(tmp_path / 'long.csv', [('a', rle.encode(mask))])
  assert submission.check(tmp_path / 'long.csv') == ([], None)


def test_transposed_and_small_masks_are_faults(tmp_path):
  rng = np.random.default_rng(0)
  upright = [_mask(*rng.integers((0, 0), (500, 900))) for _ in range(20)]
  for name, masks in {'up': upright, 'side': [m.T for m in upright]}.items():
    rows = [(f'{name}{i}', rle.encode(m)) for i, m in enumerate(masks)]
    rle.write_csv(tmp_path / name, rows)
  assert submission.check(tmp_path / 'up')[0] == []
  (fault,) = submission.check(tmp_path / 'side')[0]
  assert fault.startswith('the masks look transposed: of 20 centroids')
  low = [_mask(row, 100) for row in range(500, 900, 40)]
  half = [
    (f'up{i}', rle.encode(m[::2, ::2])) for i, m in enumerate(upright + low)
  ]
  rle.write_csv(tmp_path / 'half', half)
  (fault,), _ = submission.check(tmp_path / 'half')
  assert fault.startswith('the masks look like those of smaller images')
  (fault,), scores = submission.check(tmp_path / 'up', truth=tmp_path / 'half')
  assert fault.startswith(f'the masks of {tmp_path / "half"} look like those')
  assert scores['num_images'] == 20


def test_a_mistake_is_one_line(tmp_path, capsys):
  other = _file(tmp_path, 'id,label,score\n1,2,3\n', 'other.csv')
  binary = tmp_path / 'binary.csv'
  binary.write_bytes(bytes(range(128, 256)))
  good = _file(tmp_path, f'{HEADER}a,-1\n')
  strange = _file(tmp_path, f'{HEADER}x,-1\n', 'strange.csv')
  bad = _file(tmp_path, f'{HEADER}a,1 2 3\n', 'bad.csv')
  for arguments in (
    [f'--check={other}'],
    [f'--check={binary}'],
    [f'--check={tmp_path / "absent.csv"}'],
    [f'--check={good}', f'--truth={binary}'],
    [f'--check={good}', f'--truth={bad}'],
    [f'--check={good}', f'--truth={strange}'],
    [f'--check={good}', f'--sample={strange}'],
    [f'--chec={tmp_path / "good.csv"}'],
    [f'--check={good}', f'--unknown={tmp_path}'],
    [f'--check={good}', str(tmp_path)],
  ):
    with pytest.raises(SystemExit) as ended:
      submission.main(arguments)
    assert ended.value.code == 2
    output, message = capsys.readouterr()
    assert output == '' and message.count('\n') == 1, message
    assert message.startswith('error: ') and 'usage' not in message


def test_scores_of_an_empty_submission_are_null(tmp_path):
  truth = _file(tmp_path, f'{HEADER}x,-1\n', 'truth.csv')
  (fault,), scores = submission.check(_file(tmp_path, HEADER), truth=truth)
  assert fault == 'there is no row with an image id and a mask'
  assert scores['dice'] is None and scores['num_images'] == 0


def test_the_command_prints_scores_as_json_and_faults_apart(tmp_path, capsys):
  truth = _file(tmp_path, f'{HEADER}a,-1\n', 'truth.csv')
  path = _file(tmp_path, f'{HEADER}a,-1\nb,-1\n')
  assert submission.main([f'--check={path}', f'--truth={truth}']) == 0
  output, message = capsys.readouterr()
  assert json.loads(output)['ignored'] == 1
  assert message == (
    f'scored the 1 ids that are annotated in {truth}; ignored the 1 others\n'
  )
  assert submission.main([f'--check={path}', f'--sample={truth}']) == 1
  output, message = capsys.readouterr()
  assert output == '' and '1 unknown ids: b' in message


KNOWN_SCORES = {
  'tybrad11_v1': 1082 / 1372,
  'tybrad11_v2': 0.4607,
  'tybrad11_v5': 0.8114,
  'tybrad11_v10': 0.8312,
  'n01z3_se154_nf8_0.5_1000_0': 0.8746,
}


@pytest.mark.skipif(not REAL, reason='PNX_REAL_DATA is not set')
@pytest.mark.parametrize('name', KNOWN_SCORES)
def test_real_submissions_have_their_known_scores(name):
  labels = pathlib.Path(REAL) / 'labels'
  path = labels / 'submissions' / f'{name}.csv.gz'
  truth = labels / 'train-rle.csv.gz'
  faults, scores = submission.check(path, truth=truth)
  assert faults == []
  assert scores['dice'] == pytest.approx(KNOWN_SCORES[name], abs=5e-5)
  assert scores['num_images'] == 1372
  assert scores['all_empty_dice'] == 1082 / 1372
  sample = labels / 'stage_1_sample_submission.csv.gz'
  assert len(submission.check(path, sample=sample)[0]) == scores['ignored']


@pytest.mark.skipif(not REAL, reason='PNX_REAL_DATA is not set')
def test_a_transposed_real_submission_is_a_fault(tmp_path):
  folder = pathlib.Path(REAL) / 'labels' / 'submissions'
  path = folder / 'n01z3_se154_nf8_0.5_1000_0.csv.gz'
  size = submission.SIZE
  rows = []
  with gzip.open(path, 'rt') as file:
    for line in file.readlines()[1:]:
      image_id, row = line.split(',')
      rows.append((image_id, rle.encode(rle.decode(row, size, size).T)))
  rle.write_csv(tmp_path / 'sideways.csv', rows)
  (fault,) = submission.check(tmp_path / 'sideways.csv')[0]
  assert 'look transposed' in fault
