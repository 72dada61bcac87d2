"""A headless Chromium, driven over a pipe by its DevTools protocol."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import time

COMMAND = next(
  filter(None, map(shutil.which, ('chromium', 'chromium-browser'))), None
)
_FLAGS = (
  '--headless=new',
  '--no-sandbox',
  '--disable-gpu',
  '--remote-debugging-pipe',
)
_CODES = {
  'Tab': 9,
  'Enter': 13,
  'Escape': 27,
  'ArrowLeft': 37,
  'ArrowRight': 39,
}


class Chromium:
  """One page; keys and clicks are the browser's own, as a user's are.

  Args:
    profile: a folder of its own.
  """

  def __init__(self, profile):
    theirs_in, self._out = os.pipe()
    read, theirs_out = os.pipe()
    self._in = os.fdopen(read, 'rb')
    # It reads at 3 and writes at 4.
    self._process = subprocess.Popen(
      [
        *('bash', '-c', f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', 'bash'),
        *(COMMAND, *_FLAGS, f'--user-data-dir={profile}'),
      ],
      pass_fds=(theirs_in, theirs_out),
      stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    self._numbers = itertools.count(1)
    self._session = {}
    target = self._do('Target.createTarget', url='about:blank')['targetId']
    attached = self._do('Target.attachToTarget', targetId=target, flatten=True)
    self._session = {'sessionId': attached['sessionId']}
    self.requests = []
    self._do('Network.enable')
    self._do('Page.enable')

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._session = {}
    self._do('Browser.close')
    self._process.wait(30)
    self._in.close()
    os.close(self._out)

  def open(self, path, *, width=1200, height=900):
    self._do(
      'Emulation.setDeviceMetricsOverride',
      width=width,
      height=height,
      deviceScaleFactor=1,
      mobile=False,
    )
    self.requests.clear()
    self._do('Page.navigate', url=path.as_uri())
    assert self.comes_true('document.readyState === "complete"')

  def run(self, expression):
    """The value of a piece of JavaScript."""
    answer = self._do(
      'Runtime.evaluate',
      expression=expression,
      returnByValue=True,
      awaitPromise=True,
    )
    assert 'exceptionDetails' not in answer, answer
    return answer['result'].get('value')

  def comes_true(self, expression, *, seconds=30):
    """Whether it does within that time."""
    end = time.monotonic() + seconds
    while not (true := self.run(expression)) and time.monotonic() < end:
      time.sleep(0.02)
    return true

  def press(self, *keys):
    for key in keys:
      about = {'key': key, 'code': key, 'windowsVirtualKeyCode': _CODES[key]}
      text = {'text': '\r'} if key == 'Enter' else {}
      self._do('Input.dispatchKeyEvent', type='keyDown', **about, **text)
      self._do('Input.dispatchKeyEvent', type='keyUp', **about)

  def click(self, selector):
    x, y = self.run(
      f'{{const one = document.querySelector({selector!r});'
      'one.scrollIntoView({block: "center"});'
      'const box = one.getBoundingClientRect();'
      '[box.x + box.width / 2, box.y + box.height / 2]}'
    )
    for kind in ('mousePressed', 'mouseReleased'):
      self._do(
        'Input.dispatchMouseEvent',
        type=kind,
        x=x,
        y=y,
        button='left',
        clickCount=1,
      )

  def screenshot(self):
    """PNG, as bytes."""
    return base64.b64decode(self._do('Page.captureScreenshot')['data'])

  def _do(self, method, **params):
    number = next(self._numbers)
    message = {'id': number, 'method': method, 'params': params}
    os.write(self._out, json.dumps(message | self._session).encode() + b'\0')
    while True:
      answer = json.loads(self._next())
      if answer.get('method') == 'Network.requestWillBeSent':
        self.requests.append(answer['params']['request']['url'])
      if answer.get('id') == number:
        assert 'error' not in answer, answer
        return answer['result']

  def _next(self):
    message = b''
    while (byte := self._in.read(1)) != b'\0':
      assert byte, 'Chromium has ended'
      message += byte
    return message
