"""Records a second from emulated buckets, behind a proxy that delays requests.

PYTHONPATH=tests python -m benchmarks.buckets

Needs the emulators of the tests (see tests/bucket_servers.py). The ceiling is
what the emulator itself gives to as many readers, without delay.
"""

import contextlib
import http.client
import multiprocessing
import os
import threading
import time
import urllib.parse
from collections.abc import Iterator
from multiprocessing import connection

import bucket_servers
from absl import app, flags

from pnx_jax.storage.addresses import parse
from pnx_jax.storage.bucket import Bucket
from pnx_jax.storage.ranges import ReadAhead

_RECORDS = flags.DEFINE_integer('records', 600, 'Records that are read.')
_BYTES = flags.DEFINE_integer('bytes', 150_000, 'Size of a record.')
_SHARD = flags.DEFINE_multi_integer(
  'records_per_shard', [1, 40], 'Records in one object.'
)
_IN_FLIGHT = flags.DEFINE_integer('in_flight', 16, 'Reads at a time.')
_DELAYS = flags.DEFINE_multi_integer(
  'milliseconds', [20, 100], 'Delays of each request.'
)

# moto looks at who asks, not at the signature.
_SIGNED = {
  'Authorization': 'AWS4-HMAC-SHA256 Credential=any/20260101/us-east-1/s3/'
  'aws4_request, SignedHeaders=host, Signature=any'
}


class Front:
  """A proxy in a process of its own: Python's lock is not shared with it."""

  def __init__(self, target: int):
    context = multiprocessing.get_context('spawn')
    self._pipe, end = context.Pipe()
    self._process = context.Process(
      target=_serve, args=(target, end), daemon=True
    )
    self._process.start()
    self.target = target
    self.port: int = self._pipe.recv()

  def delay(self, seconds: float) -> None:
    self._pipe.send(seconds)
    self._pipe.recv()


def _serve(target: int, pipe: connection.Connection) -> None:
  proxy = bucket_servers.Proxy(target)
  pipe.send(proxy.port)
  with contextlib.suppress(EOFError):
    while True:
      proxy.latency = pipe.recv()
      proxy.requests = []
      pipe.send(None)


def _places(number: int, per_shard: int) -> tuple[str, int]:
  return f'shard{number // per_shard}', number % per_shard * _BYTES.value


def _ours(bucket: Bucket, per_shard: int) -> float:
  """Returns records a second."""

  def read(number: int) -> bytes:
    key, offset = _places(number, per_shard)
    return bucket.read_range(key, offset, _BYTES.value)

  records = ReadAhead(read, _IN_FLIGHT.value)
  start = time.monotonic()
  records.expect(iter(range(_RECORDS.value)))
  for number in range(_RECORDS.value):
    assert len(records[number]) == _BYTES.value
  return _RECORDS.value / (time.monotonic() - start)


def _ceiling(scheme: str, port: int, per_shard: int) -> float:
  """Returns records a second of plain HTTP requests to the emulator."""
  numbers: Iterator[int] = iter(range(_RECORDS.value))
  guard = threading.Lock()

  def work() -> None:
    client = http.client.HTTPConnection('127.0.0.1', port)
    while True:
      with guard:
        number = next(numbers, None)
      if number is None:
        return
      key, offset = _places(number, per_shard)
      path = (
        f'/storage/v1/b/{bucket_servers.BUCKET}/o/'
        f'{urllib.parse.quote(key, safe="")}?alt=media'
        if scheme == 'gs'
        else f'/{bucket_servers.BUCKET}/{key}'
      )
      last = offset + _BYTES.value - 1
      client.request(
        'GET', path, headers=_SIGNED | {'Range': f'bytes={offset}-{last}'}
      )
      assert len(client.getresponse().read()) == _BYTES.value

  threads = [threading.Thread(target=work) for _ in range(_IN_FLIGHT.value)]
  start = time.monotonic()
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  return _RECORDS.value / (time.monotonic() - start)


def main(_: list[str]) -> None:
  delays = ' | '.join(f'{delay} ms' for delay in _DELAYS.value)
  print(f'| bucket | object | emulator alone | no delay | {delays} |')
  print('|---|---|---|---|' + '---|' * len(_DELAYS.value))
  for scheme in bucket_servers.SCHEMES:
    with bucket_servers.serving(scheme, proxy=Front) as (front, variables):
      os.environ.update(variables)
      bucket = Bucket(parse(f'{scheme}://{bucket_servers.BUCKET}'))
      for per_shard in _SHARD.value:
        for shard in range(-(-_RECORDS.value // per_shard)):
          bucket.write(f'shard{shard}', os.urandom(per_shard * _BYTES.value))
        row = [_ceiling(scheme, front.target, per_shard)]
        for delay in (0, *_DELAYS.value):
          front.delay(delay / 1000)
          row.append(_ours(bucket, per_shard))
        front.delay(0)
        rates = ' | '.join(f'{rate:.0f}/s' for rate in row)
        size = per_shard * _BYTES.value / 1e6
        print(f'| {scheme} | {size:.2g} MB | {rates} |', flush=True)


if __name__ == '__main__':
  app.run(main)
