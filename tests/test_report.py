"""The report: self-contained, described in words, readable on a phone."""

import base64
import datetime
import html.parser
import re
import types
import xml.etree.ElementTree as ET

import cv2
import numpy as np
import pytest

from pnx_jax import draw
from pnx_jax.evaluation import (
  bedside,
  lesions,
  outlines,
  readers,
  rule_search,
  uncertainty,
)
from pnx_jax.evaluation import results as results_lib
from pnx_jax.evaluation.report import charts, gallery, page
from pnx_jax.metrics import calibration
from pnx_jax.metrics.dice import THRESHOLDS
from pnx_jax.metrics.lesions import FalsePositive, Lesion, Region
from pnx_jax.metrics.reader_study import Calls


def _page(num_images=60, positives=20):
  rng = np.random.default_rng(0)
  label = np.arange(num_images) < positives
  records = [
    types.SimpleNamespace(
      image_id=f'<img{i}>' + '1.2.3' * 30,
      label=int(label[i]),
      patient=i // 2,
      view=('PA', 'AP')[i % 2],
      sex=('F', 'M')[i % 3 == 0],
      age=i,
      pixel_spacing=(0.14, 0.14),
      height=1024,
      width=1024,
      pixel_aspect=1.0,
      mirrored=0,
      source='',
      agreement=(0.0, 0.4, -1.0)[i % 3] if label[i] else -1.0,
    )
    for i in range(num_images)
  ]
  areas = -np.sort(-rng.integers(0, 6000, (num_images, len(THRESHOLDS))))
  truth = np.where(label, rng.integers(300, 40_000, num_images), 0)
  statistics = {
    'truth_area': truth,
    'predicted_area': areas,
    'intersection': np.minimum(areas // 2, truth[:, None]),
    'probability': np.clip(0.3 * label + 0.7 * rng.random(num_images), 0, 1),
  }
  held_out = types.SimpleNamespace(
    records=records, label=label, fold=np.zeros(num_images, int)
  )
  groups = rule_search.patient_groups([r.patient for r in records], label)
  results = results_lib.compute(held_out, statistics, groups, replicates=50)
  image = rng.integers(0, 255, (64, 64), np.uint8)
  pictures = {
    example: draw.panel(image, image > 200, image > 190, text='example')
    for example in gallery.choose(results.images, 2)
  }
  calls = Calls(np.arange(num_images), rng.random(num_images) < 0.5, None)
  reader_report = readers.summarize(
    {'<reader>': readers.Reader(calls, {})},
    results,
    records,
    {},
    replicates=20,
  )
  html, figures = page.render(
    title='runs & <tests>',
    config='{"a": "<b>"}',
    records=records,
    statistics=statistics,
    results=results,
    pictures=pictures,
    lesion_report=lesions.summarize(
      _findings(truth), records, results.images.patient
    ),
    reader_report=reader_report,
    spread=uncertainty.summarize(rng.random(num_images), results.images),
    at_bedside=bedside.summarize(results, (0.05, 0.2)),
    outline_metrics=outlines.summarize(
      outlines.columns({}, records, results.images),
      results.images,
    ),
    metrics={'patient_safe': False, **results.flat()},
  )
  return html, figures


def _findings(truth):
  """A lesion on every positive film, found on every other."""
  found = {}
  for index in np.flatnonzero(truth):
    lesion = Lesion(Region(int(truth[index]), 500, 300), 20 * (index % 2), 0)
    false = [FalsePositive(Region(9, 600, 700), 12)]
    found[int(index)] = lesions.FilmFindings([lesion], false, [lesion], false)
  return found


@pytest.fixture(scope='module')
def page_and_figures():
  return _page()


@pytest.fixture(scope='module')
def report(page_and_figures):
  return page_and_figures[0]


class _Tags(html.parser.HTMLParser):
  """All start tags of a page, as (name, attributes)."""

  def __init__(self, text):
    super().__init__()
    self.found = []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.found.append((tag, dict(attrs)))


def test_nothing_is_fetched(report):
  tags = _Tags(report).found
  for tag, attributes in tags:
    assert tag not in ('script', 'link', 'iframe'), tag
    for name in ('src', 'href', 'data', 'srcset'):
      assert attributes.get(name, 'data:').startswith('data:')
  assert '@import' not in report and 'url(' not in report


def test_pictures_are_described_and_names_escaped(report):
  images = [
    attributes for tag, attributes in _Tags(report).found if tag == 'img'
  ]
  examples, drawn = [], []
  for image in images:
    (drawn if 'svg+xml' in image['src'] else examples).append(image)
  assert len(examples) == 4
  assert all(image['alt'].startswith('<img') for image in examples)
  assert len(drawn) == 9
  for image in drawn:
    _, data = image['src'].split('base64,')
    ET.fromstring(base64.b64decode(data))
    # What the pictures show is also given in numbers.
    assert re.search(r'\d', image['alt']) or 'table below' in image['alt']
  assert 'runs &amp; &lt;tests&gt;' in report


def test_figures_for_papers_are_those_of_the_page(page_and_figures):
  report, figures = page_and_figures
  assert {'roc', 'froc', 'lesions_by_px', 'net_benefit_0.05'} <= set(figures)
  for figure in figures.values():
    assert figure.source in report
    assert figure.pdf.startswith(b'%PDF')


def test_readers_and_spread_are_told(report):
  assert '&lt;reader&gt;' in report
  assert 'they hold for\nthese readers, not for others' in report
  assert 'quintile of spread' in report
  assert 'false positives' in report


def test_annotations_of_one_film_are_compared(report):
  (words,) = re.findall(
    r'<p>(\d+ of these radiographs have.*?)</p>', report, re.S
  )
  numbers = [float(x) for x in re.findall(r'\d+(?:\.\d+)?', words)]
  count, dice, low, high, apart = numbers
  assert (count, apart) == (14, 7)  # Of films 0 to 19, without every third.
  assert dice == 0.2 and low < dice < high


def test_folds_that_may_share_patients_are_said_to(report):
  notices = re.findall(r'<p class="notice">(.*?)</p>', report, re.DOTALL)
  assert any('--patient_map' in notice for notice in notices)


@pytest.mark.parametrize('positives', [0, 12])
def test_one_class_alone_makes_a_page_too(positives):
  assert '<h1>' in _page(12, positives)[0]


@pytest.fixture
def bins(num_images=300):
  """A reliability diagram's bins."""
  rng = np.random.default_rng(0)
  probability = rng.beta(1, 3, num_images)
  label = rng.random(num_images) < probability
  bins = calibration.reliability(probability, label)
  return {name: column[bins['count'] > 0] for name, column in bins.items()}


def _circles(chart):
  """Center and width of every dot of a scatter plot: f64[N, 3]."""
  svg = '{http://www.w3.org/2000/svg}'
  circles = []
  for group in ET.fromstring(chart.svg).iter(f'{svg}g'):
    if group.get('id', '').startswith('PathCollection'):
      for path in group.iter(f'{svg}path'):
        numbers = np.array(re.findall(r'-?[\d.]+', path.get('d')), float)
        x, y = numbers.reshape(-1, 2).T
        circles.append(
          (np.ptp(x) / 2 + x.min(), y[0] - np.ptp(y) / 2, np.ptp(x))
        )
  return np.array(circles)


def test_a_chart_puts_values_where_they_belong(bins):
  x, y, width = _circles(charts.reliability({'as predicted': bins})).T
  for place, value in ((x, bins['probability']), (y, bins['share'])):
    assert abs(np.corrcoef(place, value)[0, 1]) > 1 - 1e-9
  # The area of a dot is the number of images.
  np.testing.assert_allclose(
    width**2 / (width**2).sum(), bins['count'] / bins['count'].sum(), rtol=1e-3
  )


def test_the_same_data_give_the_same_picture(bins):
  first, second = (charts.reliability({'a': bins}) for _ in range(2))
  assert first == second
  assert str(datetime.date.today().year) not in first.svg.decode()


def test_the_table_of_bins_counts_every_image(report):
  cells = re.search('Images in each bin.*?</table>', report, re.DOTALL)[0]
  counts = [int(n) for n in re.findall(r'<td>(\d+)</td>', cells)]
  assert sum(counts) == 2 * 60  # As predicted, and calibrated.


def test_chromium_shows_it_without_sideways_scrolling(report, tab, tmp_path):
  path = tmp_path / 'report.html'
  path.write_text(report)
  for width in (1100, 390):
    tab.set_viewport_size({'width': width, 'height': 2000})
    tab.goto(path.as_uri())
    assert tab.evaluate('document.documentElement.scrollWidth') <= width
    tab.evaluate('for (const i of document.images) i.loading = "eager"')
    tab.wait_for_function(
      '[...document.images].every(i => i.complete && i.naturalWidth)'
    )
    picture = cv2.imdecode(np.frombuffer(tab.screenshot(), np.uint8), 1)
    assert picture.shape == (2000, width, 3)
    # Text and charts on white, over the whole height of the window.
    for part in np.array_split(picture, 6):
      assert part.std() > 5
