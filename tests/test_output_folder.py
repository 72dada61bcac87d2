"""Whose files lie in an output folder: ours are written, others never."""

import json
import os

import pytest
from output_files import folder_contents

from pnx_jax.errors import UserError
from pnx_jax.inference import output_folder
from pnx_jax.inference.journal import Journal
from pnx_jax.inference.output_folder import MARK
from pnx_jax.inference.readings import Reading

PLACES = (
  *('readings.jsonl', 'worklist.csv', 'worklist.html', 'not_assessed.csv'),
  *('masks/masks.csv', 'readings-1-of-2.jsonl'),
)


def _line(name):
  reading = Reading(name=name, path=f'{name}.dcm', image_id=name)
  return json.dumps(reading.__dict__) + '\n'


def test_a_new_folder_is_marked_and_ours_from_then_on(tmp_path):
  folder = tmp_path / 'new' / 'out'
  output_folder.claim(folder)
  assert [path.name for path in folder.iterdir()] == [MARK]
  for name in PLACES:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text('of an earlier run')
  output_folder.claim(folder)
  assert (folder / 'worklist.csv').read_text() == 'of an earlier run'


@pytest.mark.parametrize('place', PLACES)
def test_a_foreign_file_in_our_place_is_refused_by_name(tmp_path, place):
  (tmp_path / place).parent.mkdir(exist_ok=True)
  (tmp_path / place).write_text('{"of": "somebody else"}\nwithout an end')
  before = folder_contents(tmp_path)
  with pytest.raises(UserError, match=f'{place} was not written by --mode=pre'):
    output_folder.claim(tmp_path)
  assert folder_contents(tmp_path) == before


@pytest.mark.parametrize('place', [*PLACES, 'masks', 'pictures', MARK])
@pytest.mark.parametrize('marked', [True, False])
def test_a_link_in_our_place_is_refused(tmp_path, place, marked):
  if marked and place != MARK:
    output_folder.claim(tmp_path / 'out')
  elsewhere = tmp_path / 'elsewhere'
  if place in ('masks', 'pictures'):
    elsewhere.mkdir()
  else:
    elsewhere.write_text('')
  link = tmp_path / 'out' / place
  link.parent.mkdir(parents=True, exist_ok=True)
  link.symlink_to(elsewhere)
  with pytest.raises(UserError, match=f'{place} was not written by'):
    output_folder.claim(tmp_path / 'out')


def test_other_foreign_files_are_left_alone(tmp_path):
  for name in (
    *('notes.txt', 'masks/mine.png', '.worklist.csv', 'report.csv'),
    'readings-of-mine-of-2.jsonl',
  ):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(name)
  before = folder_contents(tmp_path)
  output_folder.claim(tmp_path)
  assert [path.name for path in output_folder.written(tmp_path)] == ['masks']
  with Journal(tmp_path):
    pass
  assert folder_contents(tmp_path).items() >= before.items()


def test_an_unmarked_folder_is_ours_where_its_journal_parses(tmp_path):
  journal, table = tmp_path / 'readings.jsonl', tmp_path / 'worklist.csv'
  table.write_text('of an old version')
  old = json.loads(_line('b'))
  del old['digest']  # Which older versions did not write.
  for text in (_line('a'), f'{json.dumps(old)}\n', _line('a') + '{"name": "to'):
    journal.write_text(text)
    output_folder.claim(tmp_path)
    (tmp_path / MARK).unlink()
  for text in (_line('a') + '{}\n', '[]\n', '{"name": "torn', '\n'):
    journal.write_text(text)
    with pytest.raises(UserError, match=r'readings\.jsonl was not written by'):
      output_folder.claim(tmp_path)
    assert journal.read_text() == text


def test_an_empty_journal_makes_no_table_ours(tmp_path):
  (tmp_path / 'readings.jsonl').touch()
  output_folder.claim(tmp_path)
  (tmp_path / MARK).unlink()
  (tmp_path / 'worklist.csv').write_text('of somebody else')
  with pytest.raises(UserError, match=r'worklist\.csv was not written by'):
    output_folder.claim(tmp_path)


def test_a_file_is_not_an_output_folder(tmp_path):
  (tmp_path / 'out').write_text('')
  with pytest.raises(
    UserError, match=r'output_dir=.*out is a file; name a fol'
  ):
    output_folder.claim(tmp_path / 'out')


def test_partial_files_of_others_are_not_written_through(
  predict, five_films, tmp_path
):
  victim, out = tmp_path / 'victim', tmp_path / 'out'
  victim.write_text('untouched')
  (out / 'masks').mkdir(parents=True)
  (out / 'pictures').mkdir()
  for name in (*PLACES, 'pictures/a.jpg'):
    folder, _, file = name.rpartition('/')
    for partial in (f'.{file}.partial', f'{file}.partial'):
      os.symlink(victim, out / folder / partial)
  predict(five_films / 'a.dcm')
  assert victim.read_text() == 'untouched'
  assert 'image_id' in (out / 'worklist.csv').read_text()
