"""The tables of an evaluation: damaged, cut or edited ones are one line."""

import json
import subprocess

import pytest

from pnx_jax.errors import UserError
from pnx_jax.formats import evaluation_files, files

ROWS = [
  ('-1.dcm', 4, 0, 1, 0.9, 0.75, 900, 800, 1, 'PA', 'F', 61),
  ('=x.dcm', 4, 0, 0, 0.2, 1.0, 0, 0, '', '', '', ''),
  ('c', 7, 1, 1, 0.4, 0.0, 1200, 0, 2, 'AP', 'M', 0),
]
METRICS = {
  'patient_safe': True,
  'dice': 1.75 / 3,
  'auc': None,
  'num_images': 3,
  'num_positive': 2,
  'intervals': {'dice': [0.2, 0.9], 'auc': None},
}


@pytest.fixture
def path(tmp_path):
  path = tmp_path / 'per_image.csv'
  files.write_csv(path, evaluation_files.PER_IMAGE, ROWS)
  files.write_json(tmp_path / 'metrics.json', METRICS)
  return path


def test_what_was_written_is_read(path):
  table = evaluation_files.read_per_image(path)
  assert table.image_id.tolist() == ['-1.dcm', '=x.dcm', 'c']
  assert table.patient.tolist() == [4, 4, 7]
  assert table.label.tolist() == [True, False, True]
  assert table.probability.tolist() == [0.9, 0.2, 0.4]
  assert table.size_quartile.tolist() == [1, 0, 2]
  assert table.age.tolist() == [61, -1, 0]
  assert table.sex.tolist() == ['F', '', 'M']
  metrics = evaluation_files.read_metrics(path.with_name('metrics.json'))
  assert metrics == METRICS | {'intervals': {'dice': (0.2, 0.9), 'auc': None}}


def _refused(path):
  with pytest.raises(UserError) as caught:
    evaluation_files.read_per_image(path)
  message = str(caught.value)
  assert '\n' not in message and '--mode=eval' in message
  return message


def test_a_file_cut_anywhere_is_refused(path):
  whole = path.read_bytes()
  for length in range(len(whole)):
    path.write_bytes(whole[:length])
    _refused(path)
  path.write_bytes(whole)
  metrics = path.with_name('metrics.json')
  whole = metrics.read_bytes()
  for length in range(len(whole) - 1):  # The last one ends the line.
    metrics.write_bytes(whole[:length])
    assert 'metrics.json' in _refused(path)


def test_missing_rows_are_refused_though_all_lines_are_whole(path):
  lines = path.read_text().splitlines(keepends=True)
  path.write_text(''.join(lines[:-1]))
  assert 'it has 2 rows, metrics.json says 3' in _refused(path)
  path.write_text(''.join([*lines, lines[-1]]))
  assert 'repeats an image' in _refused(path)


@pytest.mark.parametrize(
  ('before', 'after', 'message'),
  [
    (',0.75,', ',0.85,', 'edited: it has .* as mean Dice'),
    ('4,0,1,0.9', '4,0,0,0.9', 'it has 1 positive images'),
    ('4,0,1,0.9', '4,0,2,0.9', "line 2: '2' is not a valid label"),
    ('0.9,', 'nan,', "line 2: 'nan' is not a valid probability"),
    ('0.9,', '1.9,', "'1.9' is not a valid probability"),
    (',900,', ',-900,', "line 2: '-900' is not a valid truth_area"),
    (',900,', ',many,', "'many' is not a valid truth_area"),
    (',PA,', ',PA,PA,', 'line 2: 13 cells instead of 12'),
    ('dice', 'Dice', "no column 'dice'"),
    ('0.9,', '\0,', 'is not a valid probability|damaged'),
  ],
)
def test_a_damaged_cell_is_named(path, before, after, message):
  text = path.read_text()
  assert before in text
  path.write_text(text.replace(before, after, 1))
  _refused(path)
  with pytest.raises(UserError, match=message):
    evaluation_files.read_per_image(path)


@pytest.mark.parametrize(
  'change',
  [
    {'num_images': '3'},
    {'num_images': None},
    {'dice': True},
    {'intervals': {'dice': [0.1]}},
    {'intervals': 3},
    {'auc': 'high'},
    {'auc': [1, 2, 3]},
  ],
)
def test_damaged_metrics_are_refused(path, change):
  metrics = path.with_name('metrics.json')
  metrics.write_text(json.dumps(METRICS | change))
  assert 'metrics.json is damaged' in _refused(path)


def test_a_changed_byte_never_passes_where_there_are_checksums(path):
  evaluation_files.write_checksums(path.parent)
  before = evaluation_files.read_per_image(path)
  assert len(before) == 3
  for name in ('per_image.csv', 'metrics.json', evaluation_files.CHECKSUMS):
    file = path.with_name(name)
    whole = file.read_bytes()
    for place in range(len(whole) - 1):
      damaged = bytearray(whole)
      damaged[place] ^= 1
      file.write_bytes(damaged)
      assert 'was changed' in _refused(path)
    file.write_bytes(whole)
  evaluation_files.read_per_image(path)


def test_the_standard_program_reads_the_checksums(path):
  evaluation_files.write_checksums(path.parent)
  command = ['sha256sum', '--check', evaluation_files.CHECKSUMS]
  subprocess.run(command, cwd=path.parent, check=True)


def test_a_sealed_evaluation_without_checksums_is_refused(path):
  files.write_json(path.with_name('postprocess.json'), {'seal': ''})
  with pytest.raises(UserError, match='SHA256SUMS is missing'):
    evaluation_files.read_per_image(path)
