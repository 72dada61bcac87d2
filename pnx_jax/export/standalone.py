"""Reads chest films, letterboxed to the model's square, with this folder alone.

Needs jax with its own numpy and scipy and, to read its programs, flatbuffers:

  python predict.py film.npy ...            # uint8[S, S]; with Pillow, PNG too

  from predict import Model                 # S is `image_size` in model.json
  found = Model('model').predict(image)     # probability, point reached, mask

For research only. Not a medical device.
"""

import hashlib
import json
import pathlib
import sys

import jax
import jax.export
import numpy as np
from scipy import ndimage


class Model:
  """The networks, and the rules of model.json for what they answer."""

  def __init__(self, folder):
    folder = pathlib.Path(folder)
    self.settings = json.loads((folder / 'model.json').read_text())
    checksum = self.settings.pop('checksum')
    text = json.dumps(self.settings, sort_keys=True)
    check(folder / 'model.json', text.encode(), checksum)
    for name, checksum in self.settings['files'].items():
      check(folder / name, (folder / name).read_bytes(), checksum)
    networks, self.members = {}, []
    for member in self.settings['members']:
      name = member['program']
      if name not in networks:
        program = jax.export.deserialize(
          bytearray((folder / name).read_bytes())
        )
        networks[name] = jax.jit(program.call)
      with np.load(folder / member['weights'], allow_pickle=False) as weights:
        self.members.append((networks[name], jax.device_put(dict(weights))))

  def answer(self, images):
    """The mean over all networks for uint8[B, S, S, 1], dense tissue bright.

    `probs` f32[B, 1024, 1024] of every pixel, `probability` f32[B] of a film.
    """
    answers = [network(weights, images) for network, weights in self.members]
    return {
      name: np.mean([answer[name] for answer in answers], axis=0)
      for name in ('probs', 'probability')
    }

  def predict(self, image, inside=True):
    """What uint8[S, S] shows: `probability`, calibrated; `operating_point`, the
    strictest one reached; `mask` bool[1024, 1024], within `inside`, where on
    that square the film lies."""
    answer, post = self.answer(image[None, ..., None]), self.settings['rules']
    probs = answer['probs'][0] * inside
    probability = float(answer['probability'][0])
    large = (probs > post['rule']['top']).sum() > post['rule']['area']
    mask = probs > post['rule']['bottom']
    mask &= large and probability > post['rule']['gate']
    if post['fill_holes']:
      mask = ndimage.binary_fill_holes(mask)
    if post['min_component']:
      region, _ = ndimage.label(mask, np.ones((3, 3)))
      mask &= np.bincount(region.ravel())[region] >= post['min_component']
    odds = 1 / np.clip(probability, 1e-7, 1 - 1e-7) - 1
    calibrated = 1 / (1 + odds ** (1 / post['temperature']))
    strictest = max(
      (p for p in post['operating_points'] if calibrated >= p['threshold']),
      key=lambda point: point['threshold'],
      default={'name': ''},
    )
    return {
      'probability': float(calibrated),
      'operating_point': strictest['name'],
      'mask': mask,
    }


def check(path, content, checksum):
  if not hashlib.sha256(content).hexdigest().startswith(checksum):
    raise ValueError(f'{path} is damaged: its checksum differs')


def read(path):
  """A picture that numpy or Pillow can open."""
  if path.endswith('.npy'):
    return np.load(path, allow_pickle=False)
  from PIL import Image

  return np.asarray(Image.open(path))


def main(paths):
  try:
    model = Model(pathlib.Path(__file__).parent)
    for path in paths:
      image, size = read(path), model.settings['image_size']
      if image.shape != (size, size) or image.dtype != np.uint8:
        found = f'{image.dtype}{list(image.shape)}'
        raise ValueError(f'{path} is {found}, not uint8[{size}, {size}]')
      found = model.predict(image)
      found['mask'] = f'{found["mask"].sum()} pixels of 1024 x 1024'
      print(json.dumps({'film': path} | found))
  except (ImportError, OSError, ValueError) as error:
    sys.exit(f'error: {error}')


if __name__ == '__main__':
  main(sys.argv[1:])
