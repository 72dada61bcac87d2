"""What evaluation adds to the forward pass, and what follows it on the host.

python -m benchmarks.evaluate --size=1024
python -m benchmarks.evaluate --cases=12047

The second form times everything that follows the network pass of an evaluation,
on generated cases whose masks have the areas of the challenge's, and the
comparison of two runs.
"""

import dataclasses
import pathlib
import resource
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

from pnx_jax.evaluation import (
  bedside,
  comparison,
  kept_masks,
  lesions,
  outlines,
  readers,
  result_files,
  results,
  rule_search,
)
from pnx_jax.evaluation.report import gallery, page
from pnx_jax.formats import files, rle, schema
from pnx_jax.metrics import reader_study
from pnx_jax.metrics.dice import THRESHOLDS, threshold_areas
from pnx_jax.models import segmenter
from pnx_jax.prediction.network import SIZE, Network
from pnx_jax.prediction.postprocess import Postprocess
from pnx_jax.training import sharding

_SIZE = flags.DEFINE_integer('size', 1024, 'Side that the network sees.')
_BATCH = flags.DEFINE_integer('batch_size', 2, 'Images a call.')
_ENCODER = flags.DEFINE_string('encoder', 'resunet', 'As in the config.')
_WIDTH = flags.DEFINE_integer('width', 32, 'As in the config.')
_CASES = flags.DEFINE_integer(
  'cases', 0, 'Generated cases; 0 for the other measurements.'
)
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
    model=model,
    variables=variables,
    image_size=size,
    image_probability='presence_head',
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


# Areas at 1024 x 1024 of the challenge's masks, by quantile.
_QUANTILES = (0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1)
_AREAS = (150, 567, 1364, 4059, 8630, 18388, 45772, 80416, 160000)
_DISTINCT = 400  # Maps of levels that are drawn.


class Cases:
  """What `HeldOut` and `KeptMasks` hold, of so many generated films.

  Films repeat after `_DISTINCT` of them. Two of nine have a pneumothorax, of
  which one in five is missed; one in eight others has a false positive.
  """

  def __init__(self, count: int):
    rng = np.random.default_rng(0)
    self.fold = np.arange(count) % 5
    self.stored_size = 64
    self.kept = kept_masks.KeptMasks(lowest=0.1)
    self.seconds_of_keeping = 0.0
    self.records, self._truths, rows = [], [], []
    for number in range(_DISTINCT):
      truth, probs = _film(rng, number % 9 < 2)
      film = types.SimpleNamespace(height=SIZE, width=SIZE, pixel_aspect=1.0)
      began = time.process_time()
      self.kept.add([film], probs[None])
      self.seconds_of_keeping += time.process_time() - began
      areas = jax.device_get(_areas_of(probs[None], truth[None]))
      rows.append({name: x[0] for name, x in areas.items()})
      peak = float(probs.max())
      rows[-1]['probability'] = np.clip(peak + rng.normal(0, 0.1), 0.001, 0.999)
      self._truths.append(rle.encode(truth))
    for index in range(count):
      self.records.append(
        schema.Record(
          image_id=f'film {index:05d}',
          label=schema.POSITIVE if index % _DISTINCT % 9 < 2 else 0,
          rle=self._truths[index % _DISTINCT],
          height=SIZE,
          width=SIZE,
          patient=index // 2,
          view=('PA', 'AP')[index % 2],
          sex=('F', 'M')[index // 2 % 2],
          age=20 + index % 60,
          pixel_spacing=(0.35, 0.35),
          pixel_aspect=1.0,
          image=b'',
          mask=b'',
          spacing_plane='patient',
          mirrored=0,
          num_annotations=1,
          agreement=-1.0,
          boxes=np.zeros((0, 5), np.int32),
        )
      )
    self.statistics = {
      name: np.stack([rows[i % _DISTINCT][name] for i in range(count)])
      for name in rows[0]
    }
    self.statistics['probability'] += rng.normal(0, 1e-4, count)

  def levels(self, index: int) -> np.ndarray:
    return self.kept.levels(index % _DISTINCT)

  film_levels = levels

  def truth(self, index: int, size: int) -> np.ndarray:
    return rle.decode(self.records[index].rle, size, size)

  def image(self, index: int, size: int) -> np.ndarray:
    return np.full((size, size), index % 256, np.uint8)


@jax.jit
def _areas_of(probs, truth):
  return threshold_areas(probs, truth)


def _film(rng, positive):
  """The annotated mask and the probabilities of a film."""
  truth, probs = np.zeros((2, SIZE, SIZE), np.float32)

  def ellipse(image, area, center, value):
    ratio = rng.uniform(1, 4)
    axes = np.sqrt(area * np.array([ratio, 1 / ratio]) / np.pi)
    cv2.ellipse(
      image,
      tuple(map(int, center)),
      tuple(map(int, np.maximum(axes, 1))),
      float(rng.uniform(0, 180)),
      *(0, 360, value, -1),
    )

  center = rng.uniform(250, 770, 2)
  if positive:
    area = np.exp(np.interp(rng.random(), _QUANTILES, np.log(_AREAS)))
    ellipse(truth, area, center, 1)
    if rng.random() < 0.8:
      ellipse(probs, area, center + rng.normal(0, 15, 2), rng.uniform(0.5, 1))
  elif rng.random() < 0.125:
    ellipse(probs, 3000, center, rng.uniform(0.3, 1))
  return truth > 0, cv2.GaussianBlur(probs, (0, 0), 6)


def everything(count: int) -> None:
  """Prints seconds of each step after the network pass, and the memory."""
  began = time.perf_counter()
  cases = Cases(count)
  print(f'{count:,} cases made in {time.perf_counter() - began:.0f} s')
  size = cases.kept.num_bytes / _DISTINCT / 1024
  spent = cases.seconds_of_keeping / _DISTINCT * 1e3
  print(f'{size:.1f} KiB a film kept in {spent:.1f} ms of processor time')
  print('| step | s | s of processor time |\n|---|---|---|')
  total = 0.0

  def timed(name, function, *arguments, **options):
    nonlocal total
    began, busy = time.perf_counter(), time.process_time()
    result = function(*arguments, **options)
    spent, busy = time.perf_counter() - began, time.process_time() - busy
    total += spent
    print(f'| {name} | {spent:.1f} | {busy:.1f} |', flush=True)
    return result

  found = timed(
    'rule, calibration, metrics, subgroups',
    results.compute,
    cases,
    cases.statistics,
    cases.fold,
    replicates=1000,
  )
  film_masks = timed(
    'masks, outlines, lesions of each film',
    gallery.masks,
    cases,
    cases,
    cases.statistics,
    found,
  )
  patient = found.images.patient
  report = timed(
    'lesions', lesions.summarize, film_masks.findings, cases.records, patient
  )
  table = outlines.columns(film_masks.outlines, cases.records, found.images)
  rng = np.random.default_rng(1)
  label = found.images.label
  calls = {
    f'reader {number}': readers.Reader(
      reader_study.Calls(
        np.arange(count), rng.random(count) < np.where(label, 0.8, 0.1), None
      ),
      {},
    )
    for number in range(5)
  }
  reader_report = timed(
    '5 readers',
    readers.summarize,
    calls,
    found,
    cases.records,
    film_masks.masks,
    replicates=1000,
  )
  html, _ = timed(
    'page and figures',
    page.render,
    title='generated',
    config='',
    records=cases.records,
    statistics=cases.statistics,
    results=found,
    pictures={},
    lesion_report=report,
    reader_report=reader_report,
    outline_metrics=outlines.summarize(table, found.images),
    at_bedside=bedside.summarize(found, (0.01, 0.05, 0.2)),
    metrics={'patient_safe': True, **found.flat()},
  )
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  print(f'together {total:.1f} s, page of {len(html) / 1024:.0f} KiB')
  print(f'peak memory {peak:.0f} MiB')
  with tempfile.TemporaryDirectory() as folder:
    sides = []
    for name in ('a', 'b'):
      part = pathlib.Path(folder, name, 'eval')
      part.mkdir(parents=True)
      images = found.images
      if name == 'b':
        moved = np.clip(images.dice + rng.normal(0, 0.05, count), 0, 1)
        images = dataclasses.replace(
          images, dice=np.where(images.predicted, moved, images.dice)
        )
      result_files.write_per_image(
        part / 'per_image.csv', cases.records, cases.fold, images
      )
      counts = {'num_images': count, 'num_positive': int(label.sum())}
      mean = {'dice': float(images.dice.mean()), 'intervals': {}}
      files.write_json(part / 'metrics.json', {**mean, **counts})
      sides.append([str(part)])
    timed('comparison of two runs', comparison.compare, sides)


def main(argv: Sequence[str]) -> None:
  del argv
  cv2.setNumThreads(1)
  if _CASES.value:
    everything(_CASES.value)
    return
  devices()
  host()


if __name__ == '__main__':
  app.run(main)
