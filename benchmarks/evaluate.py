"""What evaluation adds to the forward pass, and what follows it on the host.

python -m benchmarks.evaluate --size=1024
"""

import statistics
import tempfile
import time
import types
from collections.abc import Callable, Sequence

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from pnx_jax.evaluation import rule_search
from pnx_jax.formats import rle
from pnx_jax.metrics.dice import THRESHOLDS, threshold_areas
from pnx_jax.models import segmenter
from pnx_jax.prediction.network import SIZE, Network
from pnx_jax.prediction.postprocess import Postprocess
from pnx_jax.training import sharding

_SIZE = flags.DEFINE_integer('size', 1024, 'Side that the network sees.')
_BATCH = flags.DEFINE_integer('batch_size', 2, 'Images a call.')
_ENCODER = flags.DEFINE_string('encoder', 'resunet', 'As in the config.')
_WIDTH = flags.DEFINE_integer('width', 32, 'As in the config.')
_TIMES = flags.DEFINE_integer('times', 5, 'Calls, after one to warm up.')

# Images of a whole fold and of the second stage's test set.
_FOLD, _TEST = 2_410, 3_205


def seconds(function: Callable, *arguments) -> list[float]:
  """Of each call; waits for the devices."""
  jax.block_until_ready(function(*arguments))
  times = []
  for _ in range(_TIMES.value):
    began = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    times.append(time.perf_counter() - began)
  return times


def row(name: str, times: Sequence[float], images: int) -> float:
  """Prints milliseconds an image; returns their median."""
  each = [1e3 * value / images for value in times]
  median = statistics.median(each)
  print(f'| {name} | {median:.2f} | {min(each):.2f} to {max(each):.2f} |')
  return median


def broadcast_areas(probs, label):
  """The obvious form: every pixel against every threshold."""
  above = probs[..., None] > jnp.array(THRESHOLDS)
  return above.sum((1, 2)), (above & label[..., None]).sum((1, 2))


def devices() -> None:
  batch, size = _BATCH.value, _SIZE.value
  rng = np.random.default_rng(0)
  image = jnp.asarray(rng.integers(0, 256, (batch, size, size, 1), np.uint8))
  model = segmenter.create_model(
    encoder=_ENCODER.value,
    width=_WIDTH.value,
    dtype=sharding.compute_dtype(
      'auto', platform=sharding.platform(sharding.mesh())
    ),
  )
  variables = jax.jit(model.init, static_argnames='train')(
    jax.random.key(0), jnp.zeros((1, 64, 64, 1)), train=False
  )
  network = Network(
    model=model, variables=variables, image_size=size, presence_trained=True
  )
  probs = jnp.asarray(rng.beta(0.1, 0.5, (batch, SIZE, SIZE)), jnp.float32)
  label = jnp.asarray(rng.random((batch, SIZE, SIZE)) < 0.05)
  print(f'{jax.devices()[0].device_kind}, {_ENCODER.value}, batches of {batch}')
  print('| what | ms an image | spread |')
  print('|---|---|---|')
  forward = row(
    f'forward pass at {size}, with h-flip',
    seconds(lambda: network(image)),
    batch,
  )
  areas = jax.jit(threshold_areas)
  histogram = row(
    f'areas over {len(THRESHOLDS)} thresholds, as a histogram',
    seconds(areas, probs, label),
    batch,
  )
  row(
    'the same by comparing with each',
    seconds(jax.jit(broadcast_areas), probs, label),
    batch,
  )
  print(f'\nThe statistics add {histogram / forward:.1%} to the forward pass.')


def host() -> None:
  rng = np.random.default_rng(0)
  shape = (_FOLD * 5, len(THRESHOLDS))
  areas = -np.sort(-rng.integers(0, 9000, shape), axis=1)
  truth = rng.integers(500, 9000, len(areas)) * (rng.random(len(areas)) < 0.22)
  table = {
    'truth_area': truth,
    'predicted_area': areas,
    'intersection': np.minimum(areas // 2, truth[:, None]),
    'probability': rng.random(len(areas)),
  }
  groups = np.arange(len(areas)) % 5
  began = time.perf_counter()
  rule_search.cross_fit(table, groups)
  spent = time.perf_counter() - began
  print(
    f'{len(rule_search.GRID):,} rules over {len(areas):,} images, '
    f'cross-fitted: {spent:.1f} s'
  )
  # Blobs of the size that masks have: 22 % of the films have one.
  film = types.SimpleNamespace(height=SIZE, width=SIZE, pixel_aspect=1.0)
  blobs = [cv2.resize(rng.random((16, 16), np.float32), (SIZE,) * 2)] * 50
  blobs = [np.float32(blob > 0.8) * blob for blob in blobs]
  empty = np.zeros_like(blobs[0])
  post = Postprocess()
  began = time.perf_counter()
  rows = (
    (
      str(number),
      rle.encode(
        post.film_mask(
          blobs[number % 50] if number % 9 < 2 else empty, 1.0, film
        )
      ),
    )
    for number in range(_TEST)
  )
  with tempfile.TemporaryDirectory() as folder:
    rle.write_csv(f'{folder}/submission.csv', rows)
  spent = time.perf_counter() - began
  print(f'submission of {_TEST:,} masks: {spent:.1f} s')


def main(argv: Sequence[str]) -> None:
  del argv
  cv2.setNumThreads(1)
  devices()
  host()


if __name__ == '__main__':
  app.run(main)
