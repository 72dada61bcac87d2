"""A film that was seen is refused under any id, size and compression."""

import shutil

import cv2
import dicom_files
import numpy as np
import pytest
import small_run

from configs import default
from data_prep import dataset
from data_prep.request import Request
from pnx_jax.errors import UserError
from pnx_jax.evaluation.evaluate import evaluate
from pnx_jax.formats import dicom
from pnx_jax.input import pipeline
from pnx_jax.training import run_files, run_seal, seen_films
from pnx_jax.training.seen_films import SeenFilm
from pnx_jax.training.train import train


def print_of(seed, *, changed=0):
  """A fingerprint, some bits of which may be others."""
  bits = np.random.default_rng(seed).random(1024) < 0.5
  bits[:changed] ^= True
  return np.packbits(bits).tobytes().hex()


def test_films_are_the_same_by_id_content_or_patient():
  seen = [
    SeenFilm('a', print_of(0), 'ann'),
    SeenFilm('b', print_of(1), 'bob'),
    SeenFilm('old'),
  ]
  others = [
    SeenFilm('a'),
    SeenFilm('copy', print_of(1, changed=30), 'someone'),
    SeenFilm('next', print_of(2), 'ann'),
    SeenFilm('new', print_of(3), 'cy'),
    SeenFilm('unknown'),
  ]
  found = seen_films.overlap(seen, others)
  assert found.films == (('a', 'a'), ('b', 'copy'))
  assert found.patients == (('a', 'next'),)
  assert str(found) == (
    '2 films (a) and the patients of 1 films (next, with a there)'
  )
  assert not seen_films.overlap(seen, others[3:])


def test_a_list_tells_uses_apart_and_old_lists_are_as_they_were(tmp_path):
  config = default.get_config()
  films = [
    SeenFilm('b', print_of(1), 'bob'),
    SeenFilm('c', print_of(2), use=seen_films.UNLABELED),
    SeenFilm('a', '', 'ann', use=seen_films.VALIDATED),
  ]
  run_files.write(tmp_path, config, films)
  assert set(run_files.seen(tmp_path, 0)) == set(films)
  assert run_files.trained_on(tmp_path, 0) == {'b'}
  kept = (tmp_path / 'fold0' / 'trained_on.json').read_bytes()
  assert run_files.check_same_images(tmp_path, 0, films) == sorted(films)
  run_files.write(tmp_path, config, films[::-1])
  assert (tmp_path / 'fold0' / 'trained_on.json').read_bytes() == kept
  assert seen_films.to_json([SeenFilm('z'), 'y']) == ['y', 'z']
  changed = [SeenFilm('b', print_of(1, changed=1), 'bob'), *films[1:]]
  digests = {seen_films.digest(x) for x in (films, changed, ['b', 'c', 'a'])}
  assert len(digests) == 3


def test_a_list_states_copies_of_test_films_that_were_kept(tmp_path):
  films = [SeenFilm('a', print_of(0)), SeenFilm('b', test_copy=True)]
  run_files.write(tmp_path, default.get_config(), films)
  text = (tmp_path / 'fold0' / 'trained_on.json').read_text()
  assert text.count('"test_copy": true') == 1
  assert set(run_files.seen(tmp_path, 0)) == set(films)


@pytest.mark.parametrize('use', seen_films.USES)
def test_a_run_does_not_resume_with_other_films_of_any_use(tmp_path, use):
  first = {
    use: SeenFilm(use, print_of(n), use=use)
    for n, use in enumerate(seen_films.USES)
  }
  run_files.write(tmp_path, default.get_config(), first.values())
  run_files.check_same_images(tmp_path, 0, first.values())
  for other in (
    SeenFilm('another', print_of(9), use=use),
    SeenFilm(use, print_of(9), use=use),
  ):
    films = [*(first | {use: other}).values()]
    with pytest.raises(UserError, match='began with other') as error:
      run_files.check_same_images(tmp_path, 0, films)
    assert '\n' not in str(error.value)


def test_other_films_under_the_same_ids_do_not_resume(tmp_path, caplog):
  config = default.get_config()
  run_files.write(tmp_path, config, [SeenFilm('a', print_of(0))])
  # Compressed again.
  similar = [SeenFilm('a', print_of(0, changed=9))]
  assert run_files.check_same_images(tmp_path, 0, similar) == (
    run_files.seen(tmp_path, 0)
  )
  with pytest.raises(UserError, match='other training images'):
    run_files.check_same_images(tmp_path, 0, [SeenFilm('a', print_of(1))])
  # A run of an older version goes on with its list.
  run_files.write(tmp_path, config, ['a'])
  with caplog.at_level('INFO', logger='pnx_jax'):
    before = run_files.check_same_images(tmp_path, 0, similar)
  assert before == [SeenFilm('a')]
  assert 'only their ids are compared' in caplog.text


def test_a_run_lists_what_it_was_trained_on_and_chosen_by(
  trained_run, dataset_dir
):
  films = run_files.seen(trained_run, 0)
  for use, splits in (
    (seen_films.TRAINED, ['fold1', 'fold2']),
    (seen_films.VALIDATED, ['fold0']),
  ):
    records = pipeline.Dataset(dataset_dir, splits).records
    expected = {(r.image_id, r.fingerprint, r.patient_digest) for r in records}
    assert all(fingerprint and digest for _, fingerprint, digest in expected)
    assert expected == {
      (film.image_id, film.fingerprint, film.patient_digest)
      for film in films
      if film.use == use
    }
  assert run_seal.check(trained_run, 0) == []


@pytest.mark.parametrize('what', ['fingerprint', 'patient_digest'])
def test_weights_that_have_seen_a_copy_or_patient_held_out_here_are_refused(
  trained_run, dataset_dir, tmp_path, what
):
  held_out = pipeline.Dataset(dataset_dir, ['fold0']).records[0]
  other = shutil.copytree(trained_run, tmp_path / 'other')
  film = SeenFilm('another id', **{what: getattr(held_out, what)})
  run_files.write(other, run_files.load(other), ['elsewhere', film])
  config = small_run.config(dataset_dir, init_from=str(other))
  with pytest.raises(UserError, match='that are held out here') as caught:
    train(config, tmp_path / 'run')
  assert 'another id there' in str(caught.value)
  assert not (tmp_path / 'run').exists()


@pytest.fixture(scope='module')
def other_films(phantom_films, dataset_dir, tmp_path_factory):
  """Builds a dataset of other films and, perhaps, of a copy of one."""
  folder = tmp_path_factory.mktemp('other_films')
  for number in range(6):
    film = dicom_files.film(96, 96, seed=100 + number)
    cv2.imwrite(str(folder / f'{number}.png'), film)

  def build(name, split):
    rows = [f'{number}.png,p{number},0' for number in range(6)]
    if split:
      image_id = pipeline.Dataset(dataset_dir, [split]).records[0].image_id
      path = next(phantom_films.rglob(f'{image_id}.dcm'))
      small = cv2.resize(
        dicom.read(path).pixels, (80, 80), interpolation=cv2.INTER_AREA
      )
      jpeg = [cv2.IMWRITE_JPEG_QUALITY, 70]
      cv2.imwrite(str(folder / 'renamed.jpg'), small, jpeg)
      rows.append('renamed.jpg,q,1')
    table = folder / f'{name}.csv'
    table.write_text('\n'.join(['path,patient,label', *rows]))
    dataset.build(
      Request(
        manifest=str(table),
        output_dir=str(folder / name),
        image_size=32,
        num_folds=2,
      )
    )
    return str(folder / name)

  return build


@pytest.mark.parametrize('split', ['fold1', 'fold0', ''])
def test_a_copy_of_a_film_is_no_external_validation(
  evaluated_run, other_films, tmp_path, split
):
  """As a smaller JPEG of another name; of the training or the validation."""
  run = shutil.copytree(evaluated_run, tmp_path / 'run')
  data_dir = other_films(f'with_{split or "none"}', split)
  changes = {'eval.bootstrap': 10, 'eval.num_overlays': 0}
  config = small_run.config(data_dir, **changes)
  if split:
    with pytest.raises(UserError, match=r'1 films \(renamed, .* there\)'):
      evaluate(config, run)
  else:
    assert evaluate(config, run)['num_images'] == 6


def test_an_ensemble_with_a_network_that_has_seen_a_copy_is_refused(
  evaluated_run, dataset_dir, tmp_path
):
  run = shutil.copytree(evaluated_run, tmp_path / 'run')
  second = shutil.copytree(evaluated_run, tmp_path / 'second')
  held_out = pipeline.Dataset(dataset_dir, ['fold0']).records[0]
  film = SeenFilm('another id', fingerprint=held_out.fingerprint)
  seen = [*run_files.seen(second, 0), film]
  run_files.write(second, run_files.load(second), seen)
  small_run.seal(second)
  config = small_run.config(dataset_dir, **{'eval.ensemble': str(second)})
  with pytest.raises(UserError, match='another id there'):
    evaluate(config, run)
