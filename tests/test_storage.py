import concurrent.futures
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time

import bucket_servers
import pytest

from data_prep import manifest_reader
from pnx_jax.errors import UserError
from pnx_jax.storage import (
  addresses,
  bucket,
  heartbeat,
  lease,
  local,
  marker,
)
from pnx_jax.storage.addresses import Address
from pnx_jax.storage.bucket import Bucket
from pnx_jax.storage.published import Folder

pytestmark = pytest.mark.skipif(
  bucket_servers.missing() is not None and os.environ.get('CI') != 'true',
  reason=f'{bucket_servers.missing()} is not installed',
)


@pytest.fixture(scope='module', params=bucket_servers.SCHEMES)
def emulator(request):
  with (
    bucket_servers.serving(request.param) as (proxy, variables),
    bucket_servers.environment(variables),
  ):
    proxy.scheme = request.param
    yield proxy
  bucket._open.cache_clear()


@pytest.fixture
def folder(emulator, request, tmp_path, monkeypatch) -> Address:
  """An address of its own for each test."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setattr(bucket, '_deadline_seconds', 5.0)
  local._slot.cache_clear()
  local.fetched.cache_clear()
  yield Address(emulator.scheme, bucket_servers.BUCKET, request.node.name)
  emulator.reset()


def files_in(path):
  return {
    file.relative_to(path).as_posix(): file.read_text()
    for file in path.rglob('*')
    if file.is_file()
  }


def write(folder, **files):
  for name, text in files.items():
    path = folder.path / name.replace('__', '/')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_folder_is_read_as_it_was_last_published(folder, tmp_path):
  one, other = (Folder(folder, tmp_path / name) for name in ('one', 'other'))
  write(one, a='1', b__c='2', gone='3')
  one.publish()
  other.fetch()
  assert files_in(other.path) == {'a': '1', 'b/c': '2', 'gone': '3'}

  write(one, a='changed', new='4')
  (one.path / 'gone').unlink()
  one.publish()
  other.fetch()
  assert files_in(other.path) == {'a': 'changed', 'b/c': '2', 'new': '4'}
  # People and other programs find each file under its own name.
  keys = Bucket(folder).keys(folder.key)
  names = {key[len(folder.key) + 1 :] for key in keys}
  assert {'a', 'b/c', 'new', marker.NAME} <= names and 'gone' not in names
  assert Bucket(folder).read((folder / 'a').key).content == b'changed'


def test_a_publication_that_was_interrupted_changes_nothing(folder, tmp_path):
  one, other = (Folder(folder, tmp_path / name) for name in ('one', 'other'))
  write(one, a='1', b='2')
  one.publish()

  def killed(*_):
    raise KeyboardInterrupt

  write(one, a='changed', new='3')
  one._check = killed
  with pytest.raises(KeyboardInterrupt):
    one.publish()
  one._check, calls = (lambda: killed() if calls else calls.append(1)), []
  with pytest.raises(KeyboardInterrupt):  # All is uploaded but the marker.
    one.publish()
  other.fetch()
  assert files_in(other.path) == {'a': '1', 'b': '2'}
  # The next process publishes over what remained.
  write(other, new='5')
  other.publish()
  one.fetch()
  assert files_in(one.path) == {'a': '1', 'b': '2', 'new': '5'}


def test_several_publish_into_one_folder_at_once(folder, tmp_path):
  folders = [Folder(folder, tmp_path / f'{n}') for n in range(4)]
  for number, each in enumerate(folders):
    write(each, **{f'own{number}': f'{number}', 'same': 'x'})
  with concurrent.futures.ThreadPoolExecutor() as pool:
    list(pool.map(Folder.publish, folders))
  folders[0].fetch()
  own = {f'own{number}': f'{number}' for number in range(4)}
  assert files_in(folders[0].path) == own | {'same': 'x'}


def test_damage_in_the_bucket_is_one_line(folder, tmp_path):
  one = Folder(folder, tmp_path / 'one')
  write(one, a='1')
  one.publish()
  Bucket(folder).write((folder / 'a').key, b'2')
  with pytest.raises(UserError, match='a is missing or damaged'):
    Folder(folder, tmp_path / 'other').fetch()
  Bucket(folder).write((folder / marker.NAME).key, b'{"format": 1}')
  with pytest.raises(UserError, match=r'published.json is damaged'):
    Folder(folder, tmp_path / 'other').fetch()
  listed = {'format': 1, 'files': {'../a': {'size': 1, 'sha256': ''}}}
  Bucket(folder).write((folder / marker.NAME).key, json.dumps(listed).encode())
  with pytest.raises(UserError, match=r"'\.\./a'"):
    Folder(folder, tmp_path / 'other').fetch()


def test_one_of_many_writers_meets_the_condition(folder):
  found = Bucket(folder)
  before = found.read(folder.key)
  assert before.content is None
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    texts = [f'{number}'.encode() for number in range(8)]
    written = list(
      pool.map(
        lambda text: found.write_if(folder.key, text, before.generation), texts
      )
    )
  (winner,) = [n for n, generation in enumerate(written) if generation]
  now = found.read(folder.key)
  assert now.content == texts[winner] and now.generation == written[winner]


@pytest.fixture
def short_heartbeats(monkeypatch):
  monkeypatch.setattr(heartbeat, 'SECONDS', 0.2)


def test_a_lease_ends_when_its_holder_is_silent(folder, short_heartbeats):
  with (
    lease.held(folder),
    pytest.raises(UserError, match='is held by process'),
  ):
    lease.Lease(folder)
  start = time.monotonic()
  holder = lease.Lease(folder)  # Given back: nobody waits.
  assert time.monotonic() - start < 0.5
  holder.check()
  with lease.held(folder) as second:  # The first one gave no sign of life ...
    with pytest.raises(UserError, match='another process took'):
      holder.check()  # ... and went on.
    second.check()


def test_a_holder_that_was_overtaken_publishes_nothing(
  folder, short_heartbeats, monkeypatch, tmp_path
):
  with monkeypatch.context() as patch:  # As if its machine had stopped.
    patch.setattr(heartbeat, 'repeating', contextlib.nullcontext)
    stack = contextlib.ExitStack()
    first = local.working_copy(str(folder), lock='fold0')
    copy = stack.enter_context(first)
  with local.working_copy(str(folder), lock='fold0') as second:
    (second.path / 'a').write_text('taken over')
  (copy.path / 'a').write_text('late')
  with pytest.raises(UserError, match='another process took'):
    stack.close()
  assert Folder(folder, tmp_path / 'x').fetch().files['a'].size == 10


def test_a_slow_bucket_is_asked_again_until_the_deadline(
  emulator, folder, monkeypatch
):
  found = Bucket(folder)
  found.write(folder.key, b'1')
  failures = iter([503, 503, 500])
  emulator.status = lambda *_: next(failures, None)
  assert found.read(folder.key).content == b'1'

  emulator.status = lambda *_: 503
  monkeypatch.setattr(bucket, '_deadline_seconds', 1.0)
  start = time.monotonic()
  with pytest.raises(UserError, match=r'cannot read .* within 1 s') as error:
    found.read(folder.key)
  assert time.monotonic() - start < 3 and '\n' not in str(error.value)


def test_a_missing_bucket_and_a_missing_object_differ(folder, tmp_path):
  with pytest.raises(UserError, match='there is no object'):
    local.fetched(str(folder / 'nothing'))
  nowhere = folder._replace(bucket='nosuchbucket')
  for use in (
    lambda: local.fetched(str(nowhere / 'nothing')),
    lambda: Folder(nowhere, tmp_path / 'x').fetch(),
    lambda: Bucket(nowhere).write('a', b''),
    lambda: lease.Lease(nowhere / 'lock'),
  ):
    with pytest.raises(UserError, match=r'there is no bucket .*nosuchbucket'):
      use()


def test_a_bucket_that_must_not_be_written_is_one_line(emulator, folder):
  emulator.status = lambda method, _: None if method == 'GET' else 403
  with (
    pytest.raises(UserError, match=r'refuses to write.*credentials'),
    local.working_copy(str(folder), lock='fold0'),
  ):
    pass


CREDENTIALS = (
  *('GOOGLE_AUTH_TOKEN_FOR_TESTING', 'GOOGLE_APPLICATION_CREDENTIALS'),
  *('AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY', 'AWS_PROFILE'),
)
FETCH = """
import sys
from pnx_jax import cli
from pnx_jax.storage import local
with cli.one_line():
  local.fetched(sys.argv[1])
"""


def test_without_credentials_a_private_bucket_is_one_line(
  emulator, folder, tmp_path
):
  Bucket(folder).write(folder.key, b'1')
  emulator.private = True
  assert Bucket(folder).read(folder.key).content == b'1'
  # TensorStore keeps credentials as long as a process lives.
  without = {k: v for k, v in os.environ.items() if k not in CREDENTIALS}
  other = {'HOME': str(tmp_path), 'AWS_EC2_METADATA_DISABLED': 'true'}
  done = subprocess.run(
    [sys.executable, '-c', FETCH, str(folder)],
    env=without | other,
    stderr=subprocess.PIPE,
    text=True,
  )
  # TensorStore logs where it looked for them.
  *_, line = done.stderr.strip().splitlines()
  assert done.returncode == 2
  assert line.startswith(f'error: {emulator.scheme}://{bucket_servers.BUCKET} ')
  assert 'give credentials that may' in line


def test_a_manifest_in_a_bucket_names_films_beside_it(folder, tmp_path):
  found = Bucket(folder)
  found.write((folder / 'set/films/a.png').key, b'a')
  found.write((folder / 'masks/a.png').key, b'mask')
  found.write((folder / 'more/b.png').key, b'b')
  elsewhere = f'{folder}/more/b.png'
  local_film = tmp_path / 'c.png'
  text = (
    'path,patient,mask\nfilms/a.png,1,../masks/a.png\n'
    f'{elsewhere},2,\nfilms/gone.png,3,\n{local_film},4,\n'
  )
  found.write((folder / 'set/manifest.csv').key, text.encode())
  manifest = local.fetched(str(folder / 'set/manifest.csv'))
  one, other, gone, here = manifest_reader.read(manifest).entries
  read = [pathlib.Path(path).read_bytes() for path in (one.path, *one.masks)]
  assert read == [b'a', b'mask']
  assert local.origin(other.path) == elsewhere
  assert not os.path.exists(gone.path) and here.path == str(local_film)


def test_an_input_is_a_file_or_all_objects_of_a_folder(folder):
  found = Bucket(folder)
  for name in ('films/a.dcm', 'films/deep/b.dcm', 'table.csv'):
    found.write((folder / name).key, name.encode())
  with open(local.fetched(str(folder / 'table.csv'))) as file:
    assert file.read() == 'table.csv'
  path = local.fetched(str(folder / 'films'))
  assert sorted(os.listdir(path)) == ['a.dcm', 'deep']
  assert local.fetched('/some/path') == '/some/path'
  # What was removed in the bucket is not read from the copy of before.
  found.delete((folder / 'films/a.dcm').key)
  local.fetched.cache_clear()
  assert os.listdir(local.fetched(str(folder / 'films'))) == ['deep']


def test_ranges_are_read(folder):
  found = Bucket(folder)
  found.write(folder.key, bytes(range(200)))
  assert found.read_range(folder.key, 10, 5) == bytes(range(10, 15))
  with pytest.raises(UserError, match='shorter than it was'):
    found.read_range(folder.key, 198, 5)


@pytest.mark.parametrize(
  'text',
  [
    *('gcs://bucket/a', 's3a://bucket/a', 'GS://bucket/a', 'gs:///a', 's3://'),
    *('gs:/bucket/a', 's3:bucket/a', 'gs//bucket/a', 'https://host/bucket/a'),
  ],
)
def test_a_typo_in_an_address_is_one_line(text):
  assert addresses.is_address(text)
  with pytest.raises(UserError, match=f"^'{text}' is not an address: write"):
    addresses.parse(text)


def test_paths_are_no_addresses():
  assert not any(map(addresses.is_address, ('runs/a', '/gs/a', 'C:/a', 'a:b')))
  assert str(addresses.parse('gs://b//x/y/')) == 'gs://b/x/y'
