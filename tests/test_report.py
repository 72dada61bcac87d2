"""The report: self-contained, described in words, readable on a phone."""

import html.parser
import re
import types
import xml.etree.ElementTree as ET

import cv2
import numpy as np
import pytest

from pnx_jax import draw
from pnx_jax.evaluation import results, rule_search
from pnx_jax.evaluation.report import gallery, page
from pnx_jax.evaluation.report.charts import Axis, Chart
from pnx_jax.metrics.dice import THRESHOLDS


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
  verdict = results.judge(held_out, statistics, groups, replicates=50)
  image = rng.integers(0, 255, (64, 64), np.uint8)
  pictures = {
    case: draw.panel(image, image > 200, image > 190, text='case')
    for case in gallery.choose(verdict.images, 2)
  }
  return page.render(
    title='runs & <tests>',
    config='{"a": "<b>"}',
    records=records,
    statistics=statistics,
    verdict=verdict,
    findings=gallery.Findings(pictures, [], verdict.images.dice),
    metrics={'patient_safe': False, **verdict.flat()},
  )


@pytest.fixture(scope='module')
def report():
  return _page()


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
  assert len(images) == 4
  assert all(image['alt'].startswith('<img') for image in images)
  charts = re.findall(r'<svg.*?</svg>', report, re.DOTALL)
  named = [chart for chart in charts if 'aria-hidden' not in chart]
  assert len(named) == 5
  for chart in charts:
    ET.fromstring(chart)
  for chart in named:
    assert ET.fromstring(chart).get('aria-label')
  assert 'runs &amp; &lt;tests&gt;' in report


def test_folds_that_may_share_patients_are_said_to(report):
  notices = re.findall(r'<p class="notice">(.*?)</p>', report, re.DOTALL)
  assert any('--patient_map' in notice for notice in notices)


@pytest.mark.parametrize('positives', [0, 12])
def test_one_class_alone_makes_a_page_too(positives):
  assert '<h1>' in _page(12, positives)


def test_a_chart_puts_values_where_they_belong():
  chart = Chart(
    'test',
    x=Axis.logarithmic('x', 20, 900),
    y=Axis.linear('y', 0, 10),
  )
  assert [label for _, label in chart.x_ticks] == ['10', '100', '1,000']
  chart.points([10, 1000, 100], [0, 10, 5])
  corners = [dot['place'] for dot in chart.dots]
  assert corners[0] == (chart.left, chart.bottom)
  assert corners[1] == (chart.right, chart.top)
  middle = (chart.left + chart.right) / 2, (chart.top + chart.bottom) / 2
  assert corners[2] == middle


def test_a_bin_of_few_images_looks_uncertain(report):
  charts = re.findall(r'<svg.*?</svg>', report, re.DOTALL)
  (chart,) = (chart for chart in charts if 'Share of positives' in chart)
  dots = [dot for dot in ET.fromstring(chart).iter('circle')]
  told = [re.search('of ([0-9]+) images around', dot[0].text) for dot in dots]
  counts = [int(found[1]) for found in told]
  assert sum(counts) == 2 * 60  # As given, and calibrated.
  radii = np.array([float(dot.get('r')) for dot in dots])
  assert np.all(np.diff(radii[np.argsort(counts)]) >= 0)
  assert radii.max() > 1.5 * radii.min()
  cells = re.search('Images in each bin.*?</table>', report, re.DOTALL)[0]
  assert [int(n) for n in re.findall(r'<td>(\d+)</td>', cells)] == counts


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
