"""No film ends a command, and films beside an odd one come out unchanged."""

import functools
import json
import os
import pathlib
import signal
import stat

import codestreams
import dicom_files
import numpy as np
import pytest
from pydicom import uid

from data_prep import dataset, entries, metadata, prepare, staging, view
from data_prep.request import Request
from pnx_jax import pool
from pnx_jax.errors import UserError
from pnx_jax.formats import built_dataset, refusals, rle, tfrecord

SIZE = 128


def two_frames(film):
  made = dicom_files.dataset(film)
  made.PixelData = 2 * film.tobytes()
  return made


def encoded_at_another_size(film):
  frame = codestreams.jpeg(film[: SIZE // 2].repeat(2, axis=1))
  return codestreams.compressed(uid.JPEGBaseline8Bit, [frame], film)


def long_view(film):
  made = dicom_files.dataset(film, ViewPosition='PA' + ' X' * 500_000)
  made.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian
  return made


def without_size(film):
  return dicom_files.dataset(film, Rows=None, Columns=None)


def one_pixel(film):
  return dicom_files.dataset(film[:1, :1])


def one_row(film):
  return dicom_files.dataset(film[:1])


ODD = {
  '=1+1': two_frames,
  '-1': encoded_at_another_size,
  '@sum': long_view,
  'without size': without_size,
  'one pixel': one_pixel,
  'one row': one_row,
}
REFUSED = {
  '=1+1': 'multi_frame',
  '-1': 'undecodable',
  'without size': 'empty',
  'noise': 'not_dicom',
}
CLEAN = [f'clean{number}' for number in range(6)]


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """Six clean films alone, and the same beside the odd ones."""
  root = tmp_path_factory.mktemp('folders')
  for number, name in enumerate(CLEAN):
    for folder in ('alone', 'beside'):
      film = dicom_files.film(SIZE, SIZE, seed=number)
      path = root / folder / f'{name}.dcm'
      dicom_files.write(path, film, PatientID=name)
  for name, make in ODD.items():
    film = dicom_files.film(SIZE, SIZE, seed=99)
    make(film).save_as(
      root / 'beside' / f'{name}.dcm', enforce_file_format=True
    )
  (root / 'beside' / 'noise.dcm').write_bytes(os.urandom(5000))
  rows = [f'{name},{"3 4" if name[-1] in "024" else "-1"}' for name in CLEAN]
  rows += [f'{name},-1' for name in (*ODD, 'noise')]
  (root / 'rle.csv').write_text('\n'.join(['ImageId,EncodedPixels', *rows, '']))
  return root


def build(root, folder, output_dir, **changes):
  values = {
    'dicom_dir': str(root / folder),
    'rle_csv': str(root / 'rle.csv'),
    'output_dir': str(output_dir),
    'image_size': 32,
    'num_folds': 2,
  }
  return dataset.build(Request(**values | changes))


def records(folder):
  splits = sorted(built_dataset.split_sizes(folder))
  found = map(tfrecord.parse, built_dataset.split_source(folder, splits))
  return {record.image_id: record for record in found}


def test_a_build_leaves_out_what_it_cannot_use(folders, tmp_path):
  build(folders, 'alone', tmp_path / 'alone')
  summary = build(folders, 'beside', tmp_path / 'beside')
  assert summary['rejected_by_reason'] == {
    'empty': 1, 'multi_frame': 1, 'not_dicom': 1, 'undecodable': 1,
  }  # fmt: skip
  alone, beside = records(tmp_path / 'alone'), records(tmp_path / 'beside')
  for name in CLEAN:
    one, other = alone[name], beside[name]
    assert (one.image, one.mask, one.rle) == (
      other.image,
      other.mask,
      other.rle,
    )
  assert beside['@sum'].view == ('PA' + ' X' * 20)[:16]
  assert beside['one pixel'].height == 1
  table = (tmp_path / 'beside' / 'rejected.csv').read_text()
  assert ",'=1+1,multi_frame," in table and ",'-1,undecodable," in table
  folds = built_dataset.folds_of(tmp_path / 'beside')
  assert set(folds) == {*CLEAN, '@sum', 'one pixel', 'one row'}


def test_pictures_of_all_that_can_be_shown(folders, tmp_path):
  annotations = rle.read_csv(folders / 'rle.csv')
  found = entries.find(folders / 'beside', entries.TRAIN, annotations)
  films = [(e.image_id, functools.partial(view.from_film, e)) for e in found]
  written, failures = view.write(films, tmp_path, size=64, columns=4)
  assert written == len(CLEAN) + len(ODD) + 1 - len(REFUSED)
  assert {line.split(': ')[0] for line in failures} == set(REFUSED)
  for line in failures:
    assert line.split(': ')[1] == REFUSED[line.split(': ')[0]]


def test_metadata_of_all_that_have_a_header(folders, tmp_path):
  table, unread = metadata.read_folder(str(folders / 'beside'), 'a.csv', 1)
  assert {row.image_id for row in table} == {*CLEAN, *ODD}
  assert [item.reason for item in unread] == ['not_dicom']
  metadata.write(table, tmp_path / 'a.csv')
  assert "'=1+1," in (tmp_path / 'a.csv').read_text()


def broken(entry, *, options, salt):
  """A defect in the code that prepares a film."""
  if entry.image_id.startswith('clean') and entry.image_id[-1] in '135':
    return {}[entry.image_id]
  return real_prepare(entry, options=options, salt=salt)


real_prepare = prepare._prepare


def test_a_defect_of_this_program_is_named_and_loses_its_film_alone(
  folders, tmp_path, monkeypatch
):
  monkeypatch.setattr(prepare, '_prepare', broken)
  found = entries.find(folders / 'alone', entries.TRAIN, {})
  outcomes = prepare.run_batch(
    list(enumerate(found)),
    options=prepare.RecordOptions(32, 'auto', (), ()),
    folder=tmp_path,
    salt=b'',
  )
  failed = {o.image_id: o for o in outcomes if isinstance(o, entries.Rejection)}
  assert set(failed) == {'clean1', 'clean3', 'clean5'}
  assert failed['clean1'].reason == 'internal_error'
  assert failed['clean1'].detail.startswith('KeyError in test_one_bad_film.py')


def test_the_same_defect_in_many_films_ends_the_run():
  defects = refusals.Defects()
  for number in range(100):
    defects.check(refusals.Refusal('undecodable', 'alike'))
    defects.check(refusals.Refusal('internal_error', f'TypeError {number}'))
  with pytest.raises(
    UserError, match=r'20 films met KeyError.*not of the films'
  ):
    for _ in range(20):
      defects.check(refusals.Refusal('internal_error', 'KeyError in x.py'))


def interrupt(*_):
  raise KeyboardInterrupt


def kill_some(batch, *, name, **keywords):
  if any(entry.image_id == name for _, entry in batch):
    for place, _ in enumerate(pool.each(batch)):
      if batch[place][1].image_id == name:
        os.kill(os.getpid(), signal.SIGKILL)
  return prepare.run_batch(batch, **keywords)


def test_films_given_up_for_lack_of_memory_are_named_with_the_command(
  folders, tmp_path, monkeypatch
):
  from data_prep import batches

  real = batches._function
  monkeypatch.setattr(
    batches,
    '_function',
    lambda *a: functools.partial(kill_some, name='clean3', **real(*a).keywords),
  )
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(staging, 'publish', interrupt)
    build(folders, 'alone', tmp_path / 'again')
  summary = build(folders, 'alone', tmp_path / 'made')
  assert summary['given_up'] == ['clean3']
  assert summary['rejected_by_reason'] == {'killed': 1}
  assert summary['retry'].startswith('python -m data_prep.build --output_dir=')
  for word in ('--overwrite=True', '--gib_per_film=8.0', '--num_workers=1'):
    assert word in summary['retry'].split()
  from data_prep import report

  last = report.text(summary, 'made').splitlines()[-1]
  assert '1 films were given up' in last and summary['retry'] in last
  made = json.loads((tmp_path / 'made' / 'build.json').read_text())
  assert made['retry'] == summary['retry']
  # A build that resumes tries them again.
  monkeypatch.setattr(batches, '_function', real)
  resumed = build(folders, 'alone', tmp_path / 'again')
  assert resumed['given_up'] == []
  assert resumed['written'] == made['written'] + 1


def test_films_that_are_tried_again_replace_no_finished_records(tmp_path):
  """Memory was short for the first and the last film of a batch."""
  films = [(n, entries.Entry(f'{n}.dcm', f'{n}', 'train')) for n in range(3)]

  def outcome(entry, reason):
    return entries.reject(entry, reason, '')

  prepare.save(
    films,
    [
      outcome(entry, reason)
      for (_, entry), reason in zip(
        films, ('memory', 'modality', 'memory'), strict=True
      )
    ],
    tmp_path,
  )
  again = [films[0], films[2]]
  prepare.save(again, [outcome(e, 'empty') for _, e in again], tmp_path)
  found = prepare.finished(tmp_path)
  assert [found[f'{n}.dcm'].reason for n in range(3)] == [
    *('empty', 'modality', 'empty')
  ]


def test_the_working_folder_is_private(tmp_path):
  with staging.folder(tmp_path / 'siim') as folder:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (folder / 'salt').touch(mode=0o644)  # As older versions made it.
    staging.secret(folder / 'salt')
    for name in ('salt', 'lock'):
      assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_a_mounted_key_is_read_as_it_is(tmp_path, monkeypatch):
  path = tmp_path / 'key'
  path.write_bytes(bytes(range(32)))
  found = staging.secret(path)
  path.chmod(0o444)
  monkeypatch.setattr(os, 'access', lambda *_: False)  # Root may write all.
  assert staging.secret(path) == found
  assert stat.S_IMODE(path.stat().st_mode) == 0o444
  (tmp_path / 'empty').touch()
  with pytest.raises(UserError, match='is empty'):
    staging.secret(tmp_path / 'empty')


def test_a_working_folder_that_others_could_fill_is_not_used(tmp_path):
  hidden = tmp_path / '.siim.building'
  hidden.mkdir()
  hidden.chmod(0o777)
  with (
    pytest.raises(UserError, match='others can write to it'),
    staging.folder(tmp_path / 'siim'),
  ):
    pass
  hidden.rmdir()
  (tmp_path / 'elsewhere').mkdir()
  hidden.symlink_to(tmp_path / 'elsewhere')
  with (
    pytest.raises(UserError, match='is not a folder'),
    staging.folder(tmp_path / 'siim'),
  ):
    pass


def test_a_mounted_disk_is_refused_before_films_are_read(
  folders, tmp_path, monkeypatch
):
  monkeypatch.setattr(pathlib.Path, 'is_mount', lambda path: True)
  with pytest.raises(UserError, match='a disk is mounted'):
    build(folders, 'alone', tmp_path)


@pytest.mark.parametrize('name', ['lock', 'salt'])
def test_links_in_the_working_folder_are_not_followed(tmp_path, name):
  (tmp_path / 'precious').write_text('content')
  hidden = tmp_path / '.siim.building'
  hidden.mkdir(mode=0o700)
  (hidden / name).symlink_to(tmp_path / 'precious')
  with (
    pytest.raises((OSError, UserError)),
    staging.folder(tmp_path / 'siim') as folder,
  ):
    staging.secret(folder / 'salt')
  assert (tmp_path / 'precious').read_text() == 'content'


class Opens:
  """A pickle that leaves a file when it is loaded."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return open, (self.path, 'w')


def test_no_pickle_is_read_from_the_working_folder(folders, tmp_path):
  import pickle

  hidden = tmp_path / '.made.building'
  hidden.mkdir(mode=0o700)
  payload = pickle.dumps([Opens(str(tmp_path / 'was run'))])
  (hidden / '00000000-00000005.index').write_bytes(payload)
  (hidden / '00000000-00000005.records').write_bytes(payload)
  build(folders, 'alone', tmp_path / 'made')
  with staging.folder(tmp_path / 'made') as folder:
    (folder / '00000000-00000005.index').write_bytes(payload)
    with pytest.raises(UserError, match=r'\.index is damaged'):
      prepare.finished(folder)
  assert not (tmp_path / 'was run').exists()


def test_names_of_pictures_stay_in_their_folder(tmp_path):
  image = np.zeros((64, 64), np.uint8)
  made = functools.partial(
    view.Case, image=image, mask=None, image_id='x', view='', sex='', age=-1,
    pixel_spacing=(-1, -1), spacing_plane='', mirrored=False,
  )  # fmt: skip
  out = tmp_path / 'deep' / 'out'
  ids = '../../escaped', 'a/b', 'plain', 'plain', 'plain_2', 'contact_sheet_1'
  films = [(image_id, made) for image_id in ids]
  written, failures = view.write(films, out, size=64, columns=2)
  assert (written, failures) == (6, [])
  names = {path.name for path in out.iterdir()}
  assert len(names) == 7
  assert {'plain.png', 'plain_2.png', 'plain_2_2.png'} <= names
  assert 'contact_sheet_1_2.png' in names
  assert sorted(os.listdir(tmp_path)) == ['deep']


def test_a_header_nested_beyond_reason(tmp_path):
  path = dicom_files.write(tmp_path / 'a.dcm', dicom_files.film())
  whole = path.read_bytes()
  place = whole.index(b'\xe0\x7f\x10\0')
  sequence = b'\x40\0\x75\x02SQ\0\0' + b'\xff' * 4
  item = b'\xfe\xff\0\xe0' + b'\xff' * 4
  path.write_bytes(whole[:place] + 5000 * (sequence + item) + whole[place:])
  assert metadata.row(str(path)).reason == 'undecodable'
  entry = entries.Entry(str(path), 'a', entries.TRAIN, ())
  with pytest.raises(
    refusals.UnusableFilm, match='undecodable: RecursionError'
  ):
    view.from_film(entry)
