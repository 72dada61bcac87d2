"""Predicts pneumothorax with the exported model in this folder.

Needs jax with its own numpy and scipy and, to read its programs, flatbuffers:

  python predict.py film.npy ...            # uint8[S, S]; with Pillow, PNG too

  from predict import Model                 # S is `image_size` in model.json
  found = Model('model').predict(image)     # probability, point reached, mask

For research only. Not a medical device.
"""

import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.export
import numpy as np
from scipy import ndimage


class Model:
  """The networks of a folder, and the rules in its model.json.

  Attributes:
    settings: what model.json holds.
    networks: a compiled program and its weights for each network.
  """

  def __init__(self, folder: str | os.PathLike[str]):
    folder = pathlib.Path(folder)
    self.settings: dict[str, Any] = json.loads(
      (folder / 'model.json').read_text()
    )
    if not isinstance(self.settings, dict):
      raise ValueError(f'{folder / "model.json"} is damaged: not an object')
    checksum = self.settings.pop('checksum', '')
    text = json.dumps(self.settings, sort_keys=True)
    check(folder / 'model.json', text.encode(), str(checksum))
    for name, checksum in self.settings['files'].items():
      check(folder / name, (folder / name).read_bytes(), checksum)
    self.networks: list[tuple[Any, dict[str, Any]]] = []
    programs = {}
    for member in self.settings['members']:
      name = member['program']
      if name not in programs:
        programs[name] = self._program(folder / name)
      with np.load(folder / member['weights'], allow_pickle=False) as weights:
        self.networks.append((programs[name], jax.device_put(dict(weights))))

  def _program(self, path: pathlib.Path) -> Any:
    """A compiled program; what another jax cannot run is one sentence."""
    here, there = jax.__version__, self.settings['jax']

    def explained(error: Exception) -> ValueError:
      if here == there:
        return ValueError(f'{path} is damaged: {error}')
      told = (str(error).strip().splitlines() or [type(error).__name__])[0]
      return ValueError(
        f'{path} was written by jax {there}, and jax {here} cannot run it: '
        f"{told[:200]}; run `pip install 'jax>={there}'`"
      )

    try:
      program = jax.jit(
        jax.export.deserialize(bytearray(path.read_bytes())).call
      )
    except Exception as error:
      raise explained(error) from error

    def call(weights: Any, images: Any) -> Any:
      try:
        return program(weights, images)
      except Exception as error:
        if here == there:
          raise
        raise explained(error) from error

    return call

  def probabilities(self, images: np.ndarray) -> dict[str, np.ndarray]:
    """The mean over all networks for uint8[B, S, S, 1], bright where dense.

    `probs` f32[B, 1024, 1024] of each pixel, `probability` f32[B] of each film,
    and where there are several networks `spread` f32[B], the standard deviation
    of that probability over them.
    """
    found = [program(weights, images) for program, weights in self.networks]
    mean = {
      name: np.mean([each[name] for each in found], axis=0)
      for name in ('probs', 'probability')
    }
    if len(found) > 1:
      several = [each['probability'] for each in found]
      mean['spread'] = np.std(several, axis=0, ddof=1)
    return mean

  def predict(
    self, image: np.ndarray, inside: np.ndarray | bool = True
  ) -> dict[str, Any]:
    """Predicts uint8[S, S].

    Args:
      image: letterboxed film, bright where dense.
      inside: bool[1024, 1024], where on that square the film lies.

    Returns:
      `probability`, calibrated; `operating_point`, the strictest one reached,
      or ''; `mask` bool[1024, 1024]; `seal`, whether the model's files are as
      its evaluation wrote them; `spread` of several networks.
    """
    found = self.probabilities(image[None, ..., None])
    post = self.settings['rules']
    probs = found['probs'][0] * inside
    probability = float(found['probability'][0])
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
      'seal': self.settings.get('seal', 'not sealed'),
      **({'spread': float(found['spread'][0])} if 'spread' in found else {}),
    }


def check(path: pathlib.Path, content: bytes, checksum: str) -> None:
  """Raises ValueError where a SHA-256 does not begin with `checksum`."""
  digest = hashlib.sha256(content).hexdigest()
  if len(checksum) < 12 or not digest.startswith(checksum):
    raise ValueError(f'{path} is damaged: its checksum is missing or differs')


def read(path: str) -> np.ndarray:
  """Reads a picture that numpy or Pillow can open."""
  try:
    if path.endswith('.npy'):
      return np.load(path, allow_pickle=False)
    from PIL import Image

    return np.asarray(Image.open(path))
  except (ImportError, OSError):
    raise
  except Exception as error:  # Damaged pictures raise errors of many kinds.
    raise ValueError(f'{path}: {type(error).__name__}: {error}') from error


def main(paths: Sequence[str]) -> None:
  """Prints what is predicted for each picture, as JSON."""
  try:
    model = Model(pathlib.Path(__file__).parent)
    for path in paths:
      image, size = read(path), model.settings['image_size']
      if image.shape != (size, size) or image.dtype != np.uint8:
        given = f'{image.dtype}{list(image.shape)}'
        raise ValueError(f'{path} is {given}, not uint8[{size}, {size}]')
      found = model.predict(image)
      found['mask'] = f'{found["mask"].sum()} pixels of 1024 x 1024'
      print(json.dumps({'film': path} | found))
  except (ImportError, OSError, RecursionError, ValueError) as error:
    sys.exit(f'error: {error}')


if __name__ == '__main__':
  main(sys.argv[1:])
