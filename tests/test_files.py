"""Files that are written whole, and csv and JSON that are read or refused."""

import csv
import dataclasses
import errno
import gzip
import json
import os
import pathlib
from typing import Literal, NamedTuple

import hypothesis
import pytest
from hypothesis import strategies

from pnx_jax.errors import UserError
from pnx_jax.formats import files, limits, names, typed_json


def test_file_and_folder_are_synced_around_the_rename(tmp_path, monkeypatch):
  calls = []
  real_open, opened = os.open, {}

  def recorded_open(path, *arguments, **keywords):
    descriptor = real_open(path, *arguments, **keywords)
    opened[descriptor] = path
    return descriptor

  def recorded_fsync(descriptor):
    is_folder = opened.get(descriptor) == tmp_path
    calls.append('sync folder' if is_folder else 'sync file')

  real_replace = pathlib.Path.replace

  def recorded_replace(self, target):
    calls.append('rename')
    return real_replace(self, target)

  monkeypatch.setattr(os, 'open', recorded_open)
  monkeypatch.setattr(os, 'fsync', recorded_fsync)
  monkeypatch.setattr(pathlib.Path, 'replace', recorded_replace)
  files.write(tmp_path / 'a', 'content')
  assert calls == ['sync file', 'rename', 'sync folder']
  assert (tmp_path / 'a').read_text() == 'content'


def test_an_error_keeps_the_old_file_and_leaves_no_other(tmp_path):
  path = tmp_path / 'new' / 'a'
  files.write(path, 'old')
  with pytest.raises(ZeroDivisionError), files.atomic(path) as file:
    file.write(b'new')
    raise ZeroDivisionError
  assert path.read_text() == 'old'
  assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_is_one_sentence(tmp_path, monkeypatch):
  def full(descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(UserError, match=r'cannot write .*/a: No space left'):
    files.write(tmp_path / 'a', 'content')
  assert not list(tmp_path.iterdir())


def test_a_link_left_in_the_way_is_not_followed(tmp_path):
  (tmp_path / 'foreign').write_text('foreign')
  (tmp_path / '.a.partial').symlink_to(tmp_path / 'foreign')
  files.write(tmp_path / 'a', 'ours')
  assert (tmp_path / 'foreign').read_text() == 'foreign'
  assert (tmp_path / 'a').read_text() == 'ours'


@hypothesis.settings(
  max_examples=60,
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
  strategies.lists(
    strategies.text(strategies.characters(exclude_categories=['C', 'Z']))
    | strategies.sampled_from(
      [
        '=1+1',
        '-1',
        '+x',
        '@sum',
        '\N{FULLWIDTH EQUALS SIGN}1',
        "'",
        "'=x",
        "''-1",
        ' a ',
        'a,"b"',
        "-'",
      ]
    ),
    min_size=2,
    max_size=2,
  )
)
def test_cells_come_back_as_they_were_and_are_never_formulas(tmp_path, row):
  path = tmp_path / 'a.csv'
  files.write_csv(path, ('id', 'text'), [row])
  (read,) = files.read_csv(path, ('text', 'id'), remedy='')
  assert list(read.values()) == row
  with path.open(newline='') as file:
    _, cells = csv.reader(file)
  assert not [cell for cell in cells if cell.startswith(('=', '+', '-', '@'))]


def test_numbers_and_tables_for_other_programs_are_not_escaped(tmp_path):
  files.write_csv(tmp_path / 'a.csv', ('n', 'x'), [(-1, -0.5)])
  files.write_csv(tmp_path / 'b.csv', ('n', 'x'), [('-1', '=')], escape=False)
  assert (tmp_path / 'a.csv').read_text() == 'n,x\n-1,-0.5\n'
  assert (tmp_path / 'b.csv').read_text() == 'n,x\n-1,=\n'


def test_what_cannot_be_shown_is_written_out(tmp_path):
  files.write_csv(tmp_path / 'a.csv', ('id',), [('\udcfc\x1b[2J\n',)])
  assert (tmp_path / 'a.csv').read_text() == 'id\n\\udcfc\\x1b[2J\\n\n'


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('id,n\na,1\nb', 'line 3: 1 cells instead of 2'),
    ('id,n\na,1\nb,2', 'cut off in its last line'),
    ('id,n\na,1,2\n', 'line 2: 3 cells'),
    ('id\na\n', "no column 'n'"),
    ('', "no column 'id'"),
    ('id,n\n"a,1\n', 'damaged: unexpected end'),
    (b'id,n\n\xff,1\n', "damaged: 'utf-8'"),
    (None, 'cannot read .* No such file'),
  ],
)
def test_a_damaged_table_is_refused(tmp_path, content, message):
  path = tmp_path / 'a.csv'
  if content is not None:
    path.write_bytes(
      content if isinstance(content, bytes) else content.encode()
    )
  with pytest.raises(UserError, match=message) as error:
    files.read_csv(path, ('id', 'n'), remedy='write it again')
  assert 'write it again' in str(error.value)


@pytest.mark.parametrize(
  'content',
  [
    b'a,b c\n\nd, "e"\n',
    b'\xef\xbb\xbfa;b c\r\nd;e\r\n',
    'a\tb c\nd\te\n'.encode('utf-16'),
    'a,b c\nd,\N{NO-BREAK SPACE}e\n'.encode(),
  ],
)
@pytest.mark.parametrize('name', ['a.csv', 'a.csv.gz', 'A.CSV.GZ'])
@pytest.mark.parametrize('gzipped', [False, True])
def test_csv_files_as_users_have_them(tmp_path, content, name, gzipped):
  path = tmp_path / name
  path.write_bytes(gzip.compress(content) if gzipped else content)
  rows = [row for _, row in files.csv_rows(path)]
  assert rows == [['a', 'b c'], ['d', 'e']]


def test_what_is_not_a_csv_names_the_line(tmp_path, monkeypatch):
  (tmp_path / 'latin.csv').write_bytes(b'a,b\n' * 9999 + b'M\xfcller,b\n')
  with pytest.raises(UserError, match=r'not a csv file in UTF-8, near line'):
    list(files.csv_rows(tmp_path / 'latin.csv'))
  (tmp_path / 'quote.csv').write_text('a,b\n"c,d\n')
  with pytest.raises(UserError, match=r'not a csv file, near line 2'):
    list(files.csv_rows(tmp_path / 'quote.csv'))
  (tmp_path / 'bomb.csv').write_bytes(gzip.compress(b'a,b\n' + bytes(5000)))
  monkeypatch.setattr(limits, 'MOST_LINE', 4000)
  with pytest.raises(UserError, match='more than 4,000 characters'):
    list(files.csv_rows(tmp_path / 'bomb.csv'))
  whole = gzip.compress(b'a,b\n' * 9999)
  (tmp_path / 'cut.csv.gz').write_bytes(whole[:-20])
  with pytest.raises(UserError, match='not a csv file'):
    list(files.csv_rows(tmp_path / 'cut.csv.gz'))


class Pair(NamedTuple):
  low: float
  high: float | None


@dataclasses.dataclass(frozen=True)
class Settings:
  name: str
  count: int
  kind: Literal['a', 'b']
  pairs: tuple[Pair, ...]
  sizes: dict[str, int]
  fixed: tuple[int, str] = (1, 'x')


VALID = {
  'name': 'n',
  'count': 3,
  'kind': 'b',
  'pairs': [{'low': 1, 'high': None}, {'low': 0.5, 'high': 2.5}],
  'sizes': {'x': 1},
  'of a later version': None,
}


def test_json_becomes_typed_values(tmp_path):
  files.write_json(tmp_path / 'a.json', VALID)
  loaded = typed_json.load(tmp_path / 'a.json', Settings, remedy='')
  assert loaded == Settings(
    'n', 3, 'b', (Pair(1.0, None), Pair(0.5, 2.5)), {'x': 1}
  )
  assert type(loaded.pairs[0].low) is float


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'count': True}, 'count must be int, not True'),
    ({'count': 1.5}, 'count must be int'),
    ({'count': 1 << 63}, 'count must be int'),
    ({'name': None}, 'name must be str, not None'),
    ({'kind': 'c'}, "kind must be one of 'a', 'b', not 'c'"),
    ({'pairs': [{'low': 'x', 'high': 1}]}, r'pairs\[0\].low must be float'),
    ({'pairs': [{'low': 1}]}, r'pairs\[0\].high is missing'),
    ({'pairs': {}}, 'pairs must be a list'),
    ({'sizes': {'x': 'y'}}, 'sizes.x must be int'),
    ({'fixed': [1]}, 'fixed must be 2 values'),
  ],
)
def test_json_of_other_types_is_refused(tmp_path, change, message):
  files.write_json(tmp_path / 'a.json', VALID | change)
  with pytest.raises(UserError, match=f'a.json is damaged: {message}'):
    typed_json.load(tmp_path / 'a.json', Settings, remedy='')


@pytest.mark.parametrize(
  'content',
  [
    *(b'', b'{"name":', b'\xff', b'[' * 100_000, b'{"low": NaN, "high": 1}'),
    b'{"low": 1, "high": 1, "low": 2}',
    b'{"low": 1, "high": %d}' % 10**400,
  ],
)
def test_what_is_not_json_is_refused(tmp_path, content):
  (tmp_path / 'a.json').write_bytes(content)
  with pytest.raises(UserError, match=r'a\.json is damaged: .*; do something'):
    typed_json.load(tmp_path / 'a.json', Pair, remedy='do something')


def test_names_of_files_are_safe_and_their_own():
  for name in ('1.2.840.10008', 'a-b_c.d'):
    assert names.safe_name(name) == name
  odd = ['../a', '.../a', '-a', 'a/b', 'a\\b', 'a\n', 'ä', '', '.', 'x' * 300]
  made = [names.safe_name(name) for name in odd]
  assert len(set(made)) == len(odd)
  for name in made:
    assert name.isascii() and name.isprintable() and len(name) < 80
    assert name[0] not in '.-' and '/' not in name and '\\' not in name
  json.dumps(made)
