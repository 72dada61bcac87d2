"""How well a classifier can predict the source of a film from its picture.

  python -m data_prep.source_audit --data_dir=data/both --image_size=256

Where sources differ in prevalence, a network can learn what source a film is
from instead of whether it shows a pneumothorax. A linear classifier looks at
negatives alone, by gray levels, power spectrum and JPEG's blocks, at the size
that the network sees. Its AUC is that of patients it was not fitted to: 0.5
where sources cannot be distinguished. The same after remedies, one after the
other: every film at the lowest resolution among the sources, encoded once more
as the same JPEG, and stretched to the same gray levels.

  python -m data_prep.source_audit --data_dir=data/both \\
      --predictions=runs/both/eval/per_image.csv

also compares a network's probabilities of negatives between the sources.
"""

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from absl import app, flags

from pnx_jax.cli import one_line, parse_flags
from pnx_jax.errors import UserError
from pnx_jax.formats import built_dataset, files, record_reader, schema
from pnx_jax.metrics import bootstrap
from pnx_jax.metrics.curves import curve

_GRAY_BINS = 32
_RINGS = 24
_BLOCK = 8  # JPEG's
_FOLDS = 5
_RIDGE = 10.0
_JPEG_QUALITY = 75
_WINDOW = (0.5, 99.5)  # percentiles that become black and white

Image = np.ndarray
Remedy = Callable[[Image], Image]


def features(image: Image) -> np.ndarray:
  """Returns features of a film's processing: f64[72].

  Args:
    image: u8[S, S].
  """
  levels = np.histogram(image, _GRAY_BINS, (0, 256))[0] / image.size
  return np.concatenate([np.sqrt(levels), _spectrum(image), _blocks(image)])


def audit(
  found: np.ndarray, source: np.ndarray, patient: np.ndarray
) -> tuple[float, bootstrap.Interval]:
  """Measures how well films of one source are distinguished from the others.

  Args:
    found: f64[N, F], the features of each film.
    source: bool[N].
    patient: [N]; no patient is in the films of a fit and in those it scores.

  Returns:
    The AUC and its interval over patients.
  """
  score = _held_out(found, source, patient)
  return separation(score, source, patient)


def separation(
  score: np.ndarray, source: np.ndarray, patient: np.ndarray
) -> tuple[float, bootstrap.Interval]:
  """Returns the AUC of a score for a source, and its interval over patients.

  Args:
    score: f64[N].
    source: bool[N].
    patient: [N]
  """
  intervals = bootstrap.cluster_bootstrap(
    lambda weights: {'auc': curve(score, source, weights).auc}, patient
  )
  return float(curve(score, source).auc), intervals['auc']


def remedies(side: int) -> dict[str, Remedy]:
  """Returns the remedies, each of which includes those before it.

  Args:
    side: The lowest resolution among the sources.
  """
  resized = functools.partial(_resized, side=side)

  def encoded(image: Image) -> Image:
    return _encoded(resized(image))

  def stretched(image: Image) -> Image:
    return _stretched(encoded(image))

  return {
    'as stored': lambda image: image,
    f'common resolution of {side}': resized,
    f'encoded once more as JPEG {_JPEG_QUALITY}': encoded,
    'same window': stretched,
  }


def run(
  data_dir: str | os.PathLike[str],
  *,
  image_size: int,
  most_films: int,
  predictions: str = '',
) -> dict[str, Any]:
  """Audits the negatives in the folds of a dataset.

  Args:
    data_dir: A folder written by `python -m data_prep.build`.
    image_size: Side of the images that the network sees.
    most_films: Of each source; a random sample of more.
    predictions: A csv of `image_id` and `probability`, if any.

  Returns:
    By source the films, the AUC after every remedy, and the probabilities.

  Raises:
    UserError: There are no two sources with negatives.
  """
  folds = [
    name
    for name in sorted(built_dataset.split_sizes(data_dir))
    if name not in (schema.TEST_SPLIT, schema.UNLABELED_SPLIT)
  ]
  records = record_reader.read(data_dir, folds)
  negatives = records.chosen(records.column('label') == schema.NEGATIVE)
  sources = np.unique(negatives.column('source').astype(str))
  if len(sources) < 2:
    raise UserError(
      f'{data_dir} has negatives of {len(sources)} source: an audit compares '
      'two or more; name them in the column source of the manifest'
    )
  report: dict[str, Any] = {
    'negatives': {
      str(name): int((negatives.column('source') == name).sum())
      for name in sources
    }
  }
  if predictions:
    report['probability'] = _probabilities(negatives, sources, predictions)
  sample = _sample(negatives, sources, most_films)
  images = list(_images(sample, image_size))
  by_film = np.array(
    [max(record.height, record.width) for record in sample], int
  )
  source = sample.column('source')
  side = min(int(np.median(by_film[source == name])) for name in sources)
  patient = sample.column('patient')
  report['auc'] = {
    step: {
      str(name): _described(audit(found, source == name, patient))
      for name in sources
    }
    for step, remedy in remedies(min(side, image_size)).items()
    for found in [np.array([features(remedy(image)) for image in images])]
  }
  report['films'] = len(images)
  return report


def text(report: Mapping[str, Any]) -> str:
  """Returns a report as lines for the command."""
  lines = ['AUC of one source against the others, on negatives:']
  for step, by_source in report['auc'].items():
    aucs = ', '.join(f'{name} {auc}' for name, auc in by_source.items())
    lines.append(f'  {step}: {aucs}')
  for name, found in report.get('probability', {}).items():
    lines.append(
      f'probability of negatives of {name}: median {found["median"]:.4f}, '
      f'90th percentile {found["90th percentile"]:.4f} (n {found["films"]}); '
      f'AUC against the others {found["auc"]}'
    )
  return '\n'.join(lines)


def _spectrum(image: Image) -> np.ndarray:
  """Returns the log of the mean power on rings of equal frequency: f64[24]."""
  side = len(image)
  taper = np.hanning(side)
  values = (image - image.mean()) * taper[:, None] * taper
  power = np.abs(np.fft.rfft2(values)) ** 2
  rows = np.fft.fftfreq(side)[:, None]
  radius = np.hypot(rows, np.fft.rfftfreq(side))
  ring = np.minimum((radius * 2 * _RINGS).astype(int), _RINGS)
  count = np.bincount(ring.ravel(), minlength=_RINGS + 1)
  total = np.bincount(ring.ravel(), power.ravel(), minlength=_RINGS + 1)
  return np.log(total / np.maximum(count, 1) + 1)[:_RINGS]


def _blocks(image: Image) -> np.ndarray:
  """Returns how much neighbors differ at each place within blocks: f64[16]."""
  values = image.astype(float)
  found: list[np.ndarray] = []
  for axis in (0, 1):
    steps = np.abs(np.diff(values, axis=axis)).mean(axis=1 - axis)
    steps = steps[: len(steps) // _BLOCK * _BLOCK]
    places = steps.reshape(-1, _BLOCK).mean(axis=0)
    found.append(np.log((places + 0.1) / (places.mean() + 0.1)))
  return np.concatenate(found)


def _held_out(
  found: np.ndarray, source: np.ndarray, patient: np.ndarray
) -> np.ndarray:
  """Returns the score of each film, by a fit to other patients' films.

  The fit is a ridge regression on the source, both sides of equal weight.
  """
  _, patient = np.unique(patient, return_inverse=True)
  order = np.random.default_rng(0).permutation(patient.max() + 1)
  fold = order[patient] % _FOLDS
  score = np.zeros(len(source))
  for held_out in range(_FOLDS):
    inside = fold == held_out
    known, truth = found[~inside], source[~inside]
    mean, scale = known.mean(axis=0), known.std(axis=0) + 1e-9
    known = (known - mean) / scale
    weight = np.where(truth, 0.5 / truth.mean(), 0.5 / (1 - truth.mean()))
    weighted = known * weight[:, None]
    center = weighted.mean(axis=0)
    target = np.where(truth, 1.0, -1.0)
    fit = np.linalg.solve(
      weighted.T @ (known - center) + _RIDGE * np.eye(known.shape[1]),
      weighted.T @ target,
    )
    score[inside] = (found[inside] - mean) / scale @ fit
  return score


def _resized(image: Image, *, side: int) -> Image:
  if side >= len(image):
    return image
  small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
  return cv2.resize(small, image.shape[::-1], interpolation=cv2.INTER_LINEAR)


def _encoded(image: Image) -> Image:
  settings = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
  return cv2.imdecode(
    cv2.imencode('.jpg', image, settings)[1], cv2.IMREAD_GRAYSCALE
  )


def _stretched(image: Image) -> Image:
  low, high = np.percentile(image, _WINDOW)
  scaled = (image - low) / max(high - low, 1) * 255
  return np.clip(np.round(scaled), 0, 255).astype(np.uint8)


def _sample(
  records: record_reader.Records, sources: np.ndarray, most: int
) -> record_reader.Records:
  source = records.column('source')
  random_state = np.random.default_rng(0)
  chosen = np.zeros(len(records), bool)
  for name in sources:
    places = np.flatnonzero(source == name)
    chosen[random_state.permutation(places)[:most]] = True
  return records.chosen(chosen)


def _images(records: record_reader.Records, size: int) -> Iterator[Image]:
  for place in range(len(records)):
    png = np.frombuffer(records.payload(place).image, np.uint8)
    image = cv2.imdecode(png, cv2.IMREAD_GRAYSCALE)
    way = cv2.INTER_AREA if len(image) > size else cv2.INTER_LINEAR
    yield cv2.resize(image, (size, size), interpolation=way)


def _probabilities(
  negatives: record_reader.Records, sources: np.ndarray, path: str
) -> dict[str, Any]:
  rows = files.read_csv(
    path, ('image_id', 'probability'), remedy='name a per_image.csv'
  )
  by_id = {row['image_id']: row['probability'] for row in rows}
  found = np.array(
    [float(by_id.get(record.image_id) or 'nan') for record in negatives]
  )
  known = np.isfinite(found)
  source = negatives.column('source')[known]
  patient = negatives.column('patient')[known]
  found = found[known]
  present = [name for name in sources if (source == name).any()]
  if len(present) < 2:
    raise UserError(f'{path} has probabilities of negatives of one source only')
  return {
    str(name): {
      'films': int((source == name).sum()),
      'median': float(np.median(found[source == name])),
      '90th percentile': float(np.quantile(found[source == name], 0.9)),
      'auc': _described(separation(found, source == name, patient)),
    }
    for name in present
  }


def _described(found: tuple[float, bootstrap.Interval]) -> str:
  auc, interval = found
  if interval is None:
    return f'{auc:.3f}'
  return f'{auc:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]'


def main(argv: Sequence[str]) -> None:
  del argv
  values = flags.FLAGS
  with one_line():
    report = run(
      values.data_dir,
      image_size=values.image_size,
      most_films=values.most_films,
      predictions=values.predictions,
    )
    if values.output:
      files.write_json(values.output, report)
  print(text(report))


def _define_flags() -> None:
  flags.DEFINE_string('data_dir', None, 'A built dataset of several sources.')
  flags.DEFINE_integer(
    'image_size',
    256,
    'Side of the image that the network sees.',
    lower_bound=32,
  )
  flags.DEFINE_integer(
    'most_films', 1000, 'Largest number of films per source.', lower_bound=10
  )
  flags.DEFINE_string(
    'predictions', '', 'The per_image.csv of an evaluation, optional.'
  )
  flags.DEFINE_string('output', '', 'JSON file for the report, optional.')
  flags.mark_flag_as_required('data_dir')


if __name__ == '__main__':
  _define_flags()
  app.run(main, flags_parser=parse_flags)
