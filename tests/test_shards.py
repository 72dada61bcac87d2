"""Several processes that predict the films of one output folder."""

import itertools
import signal

import pytest
from output_files import folder_contents

from pnx_jax.errors import UserError
from pnx_jax.inference import assessment, discovery, journal, worklist
from pnx_jax.inference.shards import Shard

PAIR = Shard(1, 2), Shard(2, 2)


@pytest.fixture
def assessed(monkeypatch):
  """The ids of the films that are assessed, in order."""
  ids = []
  assess = assessment.Assessment.__call__

  def noted(self, film, prediction):
    ids.append(self.sources[film.number].image_id)
    return assess(self, film, prediction)

  monkeypatch.setattr(assessment.Assessment, '__call__', noted)
  return ids


@pytest.fixture
def films_take_turns(monkeypatch):
  """a, c and e belong to the first of two shards, whatever their paths."""

  def takes(self, source):
    return 'abcde'.index(source.image_id) % self.count == self.number - 1

  monkeypatch.setattr(Shard, 'takes', takes)


def without_order(contents):
  """Contents of an output folder; lines of the journal are sorted."""
  lines = contents.pop(journal.NAME).splitlines()
  return contents, sorted(lines)


def test_two_shards_write_the_files_of_one_process(
  predict,
  five_films,
  five_films_predicted,
  films_take_turns,
  assessed,
  tmp_path,
  capsys,
):
  predict(five_films, shard=PAIR[1])
  assert sorted(assessed) == ['b', 'd']
  assert '3 films have no prediction yet' in capsys.readouterr().out
  predict(five_films, shard=PAIR[0])
  assert 'no prediction yet' not in capsys.readouterr().out
  assert sorted(assessed) == list('abcde')
  assert without_order(folder_contents(tmp_path / 'out')) == without_order(
    folder_contents(five_films_predicted[0])
  )


def test_a_shard_that_died_is_resumed_by_the_same_command(
  predict,
  five_films,
  five_films_predicted,
  films_take_turns,
  assessed,
  tmp_path,
  monkeypatch,
):
  append, numbers = journal.Journal.append, itertools.count(1)

  def killed(self, reading):
    if next(numbers) == 2:
      self.path.write_bytes(self.path.read_bytes() + b'{"name": "torn')
      raise KeyboardInterrupt
    append(self, reading)

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(journal.Journal, 'append', killed)
    predict(five_films, shard=PAIR[0])
  out = tmp_path / 'out'
  assert [path.name for path in out.glob('*.jsonl')] == [
    'readings-1-of-2.jsonl'
  ]
  with journal.Journal(out, PAIR[0]) as left:
    [done] = left.readings()
  # The other shard collects what this one left.
  predict(five_films, shard=PAIR[1])
  assert set(predict(five_films, shard=PAIR[0])) == set('abcde')
  assert assessed.count(done.image_id) == 1
  assert without_order(folder_contents(out)) == without_order(
    folder_contents(five_films_predicted[0])
  )


def test_shards_that_run_at_once(
  predict, five_films, five_films_predicted, tmp_path
):
  out = tmp_path / 'out'
  with journal.Journal(out, PAIR[0]):
    with pytest.raises(UserError, match='another run is writing'):
      predict(five_films, shard=PAIR[0])
    with pytest.raises(UserError, match='another run is writing'):
      predict(five_films)
    predict(five_films, shard=PAIR[1])
    assert (out / 'readings-1-of-2.jsonl').exists()
  predict(five_films)
  assert without_order(folder_contents(out)) == without_order(
    folder_contents(five_films_predicted[0])
  )


def test_shards_of_another_count_know_what_is_done(
  predict, five_films, films_take_turns, assessed
):
  predict(five_films, shard=PAIR[0])
  for number in (1, 2, 3):
    predict(five_films, shard=Shard(number, 3))
  assert sorted(assessed) == list('abcde')


def test_a_signal_to_a_shard(predict, five_films, monkeypatch):
  append, numbers = journal.Journal.append, itertools.count(1)

  def interrupted(self, reading):
    append(self, reading)
    if next(numbers) == 1:
      signal.raise_signal(signal.SIGTERM)

  with monkeypatch.context() as patch:
    patch.setattr(journal.Journal, 'append', interrupted)
    some = predict(five_films, shard=Shard(1, 1))
  assert 1 <= len(some) < 5
  assert len(predict(five_films, shard=Shard(1, 1))) == 5


def test_every_film_belongs_to_one_shard(five_films):
  sources = discovery.find([str(five_films)], leave_out='out')
  for count in (1, 2, 3, 16):
    shards = [Shard(number, count) for number in range(1, count + 1)]
    for source in sources:
      assert sum(shard.takes(source) for shard in shards) == 1


@pytest.mark.parametrize('text', ['3', '0/16', '17/16', '1/0', 'a/b', '-1/2'])
def test_what_is_not_a_shard(text):
  with pytest.raises(UserError, match=r'--shard=.* for example --shard=3/16'):
    Shard.parse(text)


def test_a_shard_of_a_slurm_job(monkeypatch):
  assert Shard.parse('3/16') == Shard(3, 16)
  assert Shard.from_slurm() is None
  step = {'SLURM_STEP_NODELIST': 'n', 'SLURM_NTASKS': '2', 'SLURM_PROCID': '1'}
  for name, value in step.items():
    monkeypatch.setenv(name, value)
  assert Shard.from_slurm() == Shard(2, 2)
  array = {'COUNT': '4', 'MIN': '1', 'ID': '4', 'STEP': '1'}
  for name, value in array.items():
    monkeypatch.setenv(f'SLURM_ARRAY_TASK_{name}', value)
  assert Shard.from_slurm() == Shard(8, 8)
  monkeypatch.setenv('SLURM_ARRAY_TASK_ID', '9')
  with pytest.raises(UserError, match='gaps'):
    Shard.from_slurm()


def test_the_worklist_is_in_order_whatever_shard_ended_last(
  predict, five_films, films_take_turns
):
  first = predict(five_films, shard=PAIR[0])
  last = predict(five_films, shard=PAIR[1])
  readings = list(last.values())
  assert readings == worklist.in_order(readings)
  assert first.keys() < last.keys()
