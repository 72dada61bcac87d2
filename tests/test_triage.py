"""Queues against queueing theory, and the command against doctored tables."""

import heapq
import json
import math
import re

import numpy as np
import pytest

from pnx_jax.errors import UserError
from pnx_jax.formats import evaluation_files, files
from pnx_jax.metrics.calibration import OperatingPoint
from pnx_jax.prediction.postprocess import Postprocess
from pnx_jax.triage import simulation
from pnx_jax.triage.__main__ import main
from pnx_jax.triage.cohort import Cohort
from pnx_jax.triage.queue import Clinic, begins, waits


def _clinic(**changes):
  numbers = {
    'films_per_hour': 24.0,
    'minutes_per_film': 2.0,
    'spread': 1.0,
    'readers': 1,
  }
  return Clinic(**numbers | changes)


def _check(waits, theory):
  """Means of independent rows agree with theory within their error."""
  error = waits.std(ddof=1) / math.sqrt(len(waits))
  assert error < 0.05 * theory
  assert abs(waits.mean() - theory) < 4 * error


def _queue(clinic, *, rows=60, length=8000, seed=0):
  """Arrivals, beginnings and random numbers; what is counted of them."""
  rng = np.random.default_rng(seed)
  shape = (rows, length)
  return *clinic.films(rng, shape), rng.random(shape), slice(800, -800)


@pytest.mark.parametrize('spread', [0.0, 0.5, 1.0, 1.5])
def test_one_reader_first_come_first_served(spread):
  """Pollaczek and Khinchine; M/M/1 where the spread is 1, M/D/1 where 0."""
  clinic = _clinic(spread=spread)
  arrival, begin, _, inner = _queue(clinic)
  rate, load = 24 / 60, 0.8
  second_moment = 2**2 * (1 + spread**2)
  theory = rate * second_moment / (2 * (1 - load))
  if spread == 1:
    assert theory == pytest.approx(load / (1 / 2 - rate))
  _check((begin - arrival)[:, inner].mean(axis=1), theory)


@pytest.mark.parametrize('readers', [2, 5])
def test_several_readers_first_come_first_served(readers):
  """Erlang's C formula, 1917."""
  clinic = _clinic(readers=readers, films_per_hour=24.0 * readers)
  arrival, begin, _, inner = _queue(clinic)
  offered = 0.8 * readers
  busy = offered**readers / math.factorial(readers) / (1 - 0.8)
  some_free = sum(offered**n / math.factorial(n) for n in range(readers))
  all_busy = busy / (busy + some_free)
  theory = all_busy * 2 / (readers * (1 - 0.8))
  _check((begin - arrival)[:, inner].mean(axis=1), theory)


@pytest.mark.parametrize(('spread', 'readers'), [(1.0, 1), (0.5, 1), (1.0, 2)])
def test_flagged_films_first(spread, readers):
  """Cobham 1954, Priority assignment in waiting line problems."""
  clinic = _clinic(
    spread=spread, readers=readers, films_per_hour=24.0 * readers
  )
  arrival, begin, random, inner = _queue(clinic)
  flagged = random < 0.3
  found = waits(arrival, begin, flagged.astype(float))[:, inner]
  flagged = flagged[:, inner]
  if readers == 1:
    residual = 0.4 * 2**2 * (1 + spread**2) / 2
  else:  # Both are busy with probability 2 load^2 / (1 + load).
    residual = 2 * 0.8**2 / 1.8 * 2 / readers
  first = residual / (1 - 0.3 * 0.8)
  _check(np.average(found, axis=1, weights=flagged), first)
  second = first / (1 - 0.8)
  _check(np.average(found, axis=1, weights=~flagged), second)


def test_the_most_probable_first():
  """Cobham's formula for ever more classes: W0 / (1 - load of the better)^2."""
  arrival, begin, random, inner = _queue(_clinic())
  found = waits(arrival, begin, random)[:, inner]
  for low, high in ((0.0, 0.1), (0.45, 0.55), (0.9, 1.0)):
    better = 1 - (np.linspace(low, high, 1001)[:-1] + (high - low) / 2000)
    theory = np.mean(1.6 / (1 - 0.8 * better) ** 2)
    chosen = (random[:, inner] >= low) & (random[:, inner] < high)
    _check(np.average(found, axis=1, weights=chosen), theory)


@pytest.mark.parametrize('levels', [1, 2, 5, 1000])
def test_waits_are_those_of_a_heap(levels):
  rng = np.random.default_rng(levels)
  arrival = rng.exponential(1, (3, 500)).cumsum(axis=1)
  begin = begins(arrival, rng.exponential(1.8, (3, 500)), 2)
  priority = rng.integers(levels, size=(3, 500)).astype(float)
  expected = np.empty_like(arrival)
  for row in range(3):
    waiting, arrived = [], 0
    for moment in begin[row]:
      while arrived < 500 and arrival[row, arrived] <= moment:
        heapq.heappush(waiting, (-priority[row, arrived], arrived))
        arrived += 1
      film = heapq.heappop(waiting)[1]
      expected[row, film] = moment - arrival[row, film]
  np.testing.assert_array_equal(waits(arrival, begin, priority), expected)


def test_begins_are_those_of_readers_one_by_one():
  rng = np.random.default_rng(0)
  arrival = rng.exponential(1, (2, 200)).cumsum(axis=1)
  minutes = rng.exponential(2.5, (2, 200))
  for row, found in enumerate(begins(arrival, minutes, 3)):
    free = [0.0] * 3
    for film in range(200):
      begin = max(arrival[row, film], heapq.heappop(free))
      assert found[film] == begin
      heapq.heappush(free, begin + minutes[row, film])


@pytest.fixture
def cohort():
  """90 films of 30 patients; a third positive, and well separated."""
  rng = np.random.default_rng(0)
  label = np.arange(90) % 3 == 0
  probability = np.clip(0.3 * label + 0.7 * rng.random(90), 0, 1)
  return Cohort(np.arange(90) // 3, label, probability)


def test_positives_gain_what_negatives_lose(cohort):
  found = simulation.waiting_times(
    cohort,
    _clinic(),
    {'half': 0.5, 'none': 2.0, 'all': 0.0},
    prevalence=0.2,
    replications=40,
    length=4000,
  )
  first_come = found['first come, first served']
  assert first_come['reduction'].value == 0
  for name in ('none', 'all'):
    assert found[name] == first_come
  for name in ('by probability', 'half'):
    estimates = found[name]
    assert estimates['positives'].value < first_come['positives'].value
    assert estimates['negatives'].value > first_come['negatives'].value
    low, high = estimates['reduction'].interval
    assert 0 < low < estimates['reduction'].value < high
    # The mean over all films does not depend on the order.
    total = (
      0.2 * estimates['positives'].value + 0.8 * estimates['negatives'].value
    )
    assert total == pytest.approx(8.0, rel=0.1)
  # Theory, with the shares that are flagged at a threshold.
  flagged = [(cohort.probability >= 0.5)[k].mean() for k in _kinds(cohort)]
  load = 0.8 * (0.2 * flagged[0] + 0.8 * flagged[1])
  first = 1.6 / (1 - load)
  expected = flagged[0] * first + (1 - flagged[0]) * first / 0.2
  assert found['half']['positives'].value == pytest.approx(expected, rel=0.1)


def _kinds(cohort):
  return cohort.label, ~cohort.label


def test_few_patients_have_no_interval(cohort):
  few = Cohort(np.minimum(cohort.patient, 3), cohort.label, cohort.probability)
  options = {'prevalence': 0.2, 'replications': 20, 'length': 500}
  for films in (cohort, few):
    found = simulation.waiting_times(films, _clinic(), {}, **options)
    for estimates in found.values():
      known = {estimate.interval is not None for estimate in estimates.values()}
      assert known == {films is cohort}
    (found,) = simulation.alert_rates(
      films, {'half': 0.5}, prevalence=0.2
    ).values()
    assert (found['flagged'].interval is not None) == (films is cohort)


def test_prevalence_changes_what_an_alert_is_worth(cohort):
  for prevalence in (0.05, 1 / 3):
    (found,) = simulation.alert_rates(
      cohort, {'half': 0.5}, prevalence=prevalence
    ).values()
    flagged = cohort.probability >= 0.5
    true, false = (flagged[kind].mean() for kind in _kinds(cohort))
    assert found['sensitivity'].value == pytest.approx(true)
    assert found['false_positive_rate'].value == pytest.approx(false)
    for estimate in found.values():
      assert estimate.interval[0] < estimate.value < estimate.interval[1]
    # Bayes' theorem.
    negative = (1 - prevalence) * false
    all_flagged = prevalence * true + negative
    assert found['flagged'].value == pytest.approx(all_flagged)
    assert found['false_discovery_rate'].value == pytest.approx(
      negative / all_flagged
    )
  # At the csv's own share it is what is counted there.
  assert found['false_discovery_rate'].value == pytest.approx(
    1 - cohort.label[flagged].mean()
  )


def test_films_are_drawn_by_patient(cohort):
  rng = np.random.default_rng(3)
  positive = rng.random((50, 400)) < 0.1
  drawn = cohort.draw(positive, rng)
  np.testing.assert_array_equal(cohort.label[drawn], positive)
  for row in drawn:
    # A draw of 30 patients with replacement leaves about 11 of them out.
    patients = len(set(cohort.patient[row].tolist()))
    assert 12 <= patients <= 26


def _write(folder, rows, **metrics):
  """An evaluation's files; rows are `patient,label,probability`."""
  Postprocess(
    temperature=2.0,
    operating_points=(
      OperatingPoint('sensitivity 90%', 0.55, 0.9, 0.6),
      OperatingPoint('never', 1.5, 0.0, 1.0),
    ),
  ).save(folder / 'postprocess.json')
  table, labels = [], []
  for number, row in enumerate(rows):
    patient, label, probability = row.split(',')
    cells = dict.fromkeys(evaluation_files.PER_IMAGE, '0') | {
      'image_id': f'image {number}',
      'patient': patient,
      'label': label,
      'probability': probability,
      'dice': '0.5',
      'size_quartile': '',
    }
    table.append(list(cells.values()))
    labels.append(label == '1')
  path = folder / 'per_image.csv'
  files.write_csv(path, evaluation_files.PER_IMAGE, table)
  metrics = {
    'dice': 0.5,
    'num_images': len(rows),
    'num_positive': sum(labels),
    'intervals': {'dice': [0.4, 0.6], 'auc': None},
  } | metrics
  files.write_json(folder / 'metrics.json', metrics)
  evaluation_files.write_checksums(folder)
  return path


def test_the_command_prints_and_writes_all_estimates(tmp_path, capsys):
  rng = np.random.default_rng(0)
  rows = [
    f'{n // 2},{n % 2},{0.2 + 0.4 * (n % 2) + 0.39 * rng.random()}'
    for n in range(40)
  ]
  path = _write(tmp_path, rows)
  output = tmp_path / 'triage.json'
  main([f'--per_image={path}', '--readers=2', f'--output={output}'])
  text = capsys.readouterr().out
  for words in (
    '20 films per hour, 2 minutes each, readers: 2, utilization 33%; 5.0% '
    'of films with a pneumothorax (in the csv 50.0%)',
    'first come, first served',
    'by probability',
    'sensitivity 90%',
    'For research only',
  ):
    assert words in text
  found = json.loads(output.read_text())
  assert list(found) == ['clinic', 'minutes', 'alerts']
  assert found['alerts']['never']['false_discovery_rate'] is None
  # 0.55 after scaling is this before.
  odds = (0.45 / 0.55) ** 2
  level = 1 / (1 + odds)
  flagged = np.array([float(row.split(',')[2]) >= level for row in rows])
  rate = found['alerts']['sensitivity 90%']['false_positive_rate']['value']
  assert rate == pytest.approx(flagged[::2].mean())


@pytest.mark.parametrize('label', ['0', '1'])
def test_a_cohort_needs_both_classes(tmp_path, label):
  path = _write(tmp_path, [f'1,{label},0.5', f'2,{label},0.5'])
  with pytest.raises(UserError, match='both are needed'):
    Cohort.load(path, Postprocess())


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--films_per_hour=30'], 'utilization 100%: .*raise --readers'),
    (['--films_per_hour=nan'], '--films_per_hour=nan must be above 0'),
    (['--minutes_per_film=-1'], '--minutes_per_film=-1 must be above 0'),
    (['--readers=0'], '--readers=0 must be above 0'),
    (['--spread=11'], '--spread=11 must lie between 0 and 10'),
    (['--prevalence=0'], 'must lie between 0.005 and 0.995'),
    (['--seed=-1'], '--seed=-1 must be at least 0'),
    (['--seed=x'], "invalid int value: 'x'"),
    (['--preval=0.1'], 'unrecognized arguments: --preval=0.1'),
    (['--per_image=gone/per_image.csv'], 'no --per_image=gone/per_image.csv'),
    ([f'--per_image={__file__}'], 'postprocess.json.* --mode=eval'),
  ],
)
def test_a_wrong_flag_is_one_line(tmp_path, capsys, flags, message):
  path = _write(tmp_path, ['1,1,0.5', '2,0,0.4'])
  with pytest.raises(SystemExit, match='2'):
    main([f'--per_image={path}', *flags])
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('error: ')
  assert re.search(message, line)
