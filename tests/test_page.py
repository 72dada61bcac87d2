"""The worklist page, used as a reader would: by mouse and by keyboard."""

import re
import tracemalloc

import cv2
import numpy as np
import pytest

from pnx_jax.errors import UserError
from pnx_jax.inference import page
from pnx_jax.inference.readings import Reading
from pnx_jax.metrics.calibration import OperatingPoint

POINTS = [
  OperatingPoint('sensitivity 90%', 0.35, 0.9, 0.8),
  OperatingPoint('specificity 95%', 0.65, 0.7, 0.95),
]
EVIL = '<script>document.title = "broken"</script>"\'&\x1b\udcff'
# Areas in the order of the ranks; one film's spacing is unknown.
AREAS = (300, 5000, 0, 40, 2000)
MM2 = (12.0, -1.0, 0.0, 900.0, 80.0)


def _reading(i, **fields):
  probability = 0.9 - 0.2 * i
  reached = [p for p in POINTS if probability >= p.threshold]
  return Reading(
    name=f'film{i}',
    path=f'/films/{i}.dcm',
    probability=probability,
    operating_point=reached[-1].name if reached else '',
    **{'image_id': f'id{i}', 'model': 'abc', 'rules': 'def'} | fields,
  )


def _readings():
  refused = [
    Reading(
      name=f'refused{i}',
      path=f'/films/{EVIL}{i}.dcm',
      image_id='x',
      reason='lateral_view',
      detail=f'ViewPosition {EVIL}',
    )
    for i in range(2)
  ]
  assessed = [
    _reading(
      i,
      area=area,
      area_mm2=mm2,
      spacing_plane='detector' if i == 3 else '',
      side='left' if area else '',
      view=('PA', 'AP')[i % 2],
      age=-1 if i == 1 else 50 + i,
      **{'image_id': EVIL} if i == 4 else {},
    )
    for i, (area, mm2) in enumerate(zip(AREAS, MM2, strict=True))
  ]
  return [refused[0], *assessed, refused[1]]


def _write(folder, readings, *, num_pictures=None):
  """The page of films whose pictures are of one even gray each."""
  pictures = folder / 'pictures'
  pictures.mkdir(exist_ok=True)
  assessed = [reading for reading in readings if reading.assessed]
  for i, reading in enumerate(assessed[:num_pictures]):
    gray = np.full((60, 50), 40 * i % 256, np.uint8)
    cv2.imwrite(str(pictures / f'{reading.name}.jpg'), gray)
  path = folder / 'worklist.html'
  page.write(
    path,
    readings,
    pictures,
    about={'model': 'abc', 'note': EVIL},
    points=POINTS,
    data=f'Trained on phantoms. {EVIL}',
  )
  return path


@pytest.fixture(scope='module')
def worklist(tmp_path_factory):
  return _write(tmp_path_factory.mktemp('worklist'), _readings())


def _ranks(tab):
  """The ranks of the films that are shown, from top to bottom."""
  return tab.evaluate(
    '[...document.querySelectorAll(".films tbody tr:not([hidden])")]'
    '.map(film => +film.cells[0].textContent)'
  )


def _rank_in_dialog(tab):
  """The rank of the film that is open, or None."""
  return tab.evaluate(
    'document.querySelector("dialog").open'
    ' ? +document.querySelector("dialog dd").textContent : null'
  )


def test_it_says_what_is_known(worklist):
  text = worklist.read_text()
  assert 'For research only' in text
  assert '5 films\nassessed, 4 with a marked region' in text
  assert 'detector plane' in text and '5,000' in text
  assert text.count('data:image/jpeg') == 5
  assert text.count('<td class="text">lateral view</td>') == 2
  assert 'The model: Trained on phantoms.' in text


def test_names_are_escaped_and_nothing_is_fetched(worklist, tab):
  text = worklist.read_text()
  assert text.count('<script>') == 1
  assert '&lt;script&gt;' in text and '\\x1b\\udcff' in text
  assert not re.search(r'(src|href)="(?!data:|#)', text)
  requested = []
  tab.on('request', lambda request: requested.append(request.url))
  tab.goto(worklist.as_uri())
  assert tab.title() == 'Worklist'
  fetched = [url for url in requested if not url.startswith('data:')]
  assert fetched == [worklist.as_uri()]


@pytest.mark.parametrize(
  'column, first, other',
  [
    ('rank', [5, 4, 3, 2, 1], [1, 2, 3, 4, 5]),
    ('probability', [1, 2, 3, 4, 5], [5, 4, 3, 2, 1]),
    # What is not known comes last in both directions.
    ('area, px', [2, 5, 1, 4, 3], [4, 1, 5, 2, 3]),
    ('area, mm²', [4, 5, 1, 2, 3], [1, 5, 4, 2, 3]),
    ('view', [2, 4, 1, 3, 5], [1, 3, 5, 2, 4]),
    ('age', [5, 4, 3, 1, 2], [1, 3, 4, 5, 2]),
  ],
)
def test_columns_sort(worklist, tab, column, first, other):
  tab.goto(worklist.as_uri())
  assert _ranks(tab) == [1, 2, 3, 4, 5]
  number = tab.evaluate(
    '[...document.querySelectorAll(".films th")]'
    f'.findIndex(head => head.textContent === {column!r})'
  )
  head = f'.films th:nth-child({number + 1})'
  orders = []
  for ranks in (first, other):
    tab.click(f'{head} button')
    found = _ranks(tab)
    # Films that are alike keep their order.
    assert found == ranks
    orders.append(tab.evaluate(f'document.querySelector({head!r}).ariaSort'))
  assert set(orders) == {'ascending', 'descending'}
  assert tab.evaluate('document.querySelectorAll("[aria-sort]").length') == 1


def test_keyboard_alone_sorts_opens_and_leafs_through(worklist, tab):
  tab.goto(worklist.as_uri())
  tab.evaluate('document.querySelector("#part").focus()')
  tab.keyboard.press('Tab')
  tab.keyboard.press('Enter')
  assert _ranks(tab) == [5, 4, 3, 2, 1]
  tab.evaluate('document.querySelector(".thumb").focus()')
  tab.keyboard.press('Enter')
  assert _rank_in_dialog(tab) == 5
  for key, rank in (
    ('ArrowRight', 4),
    ('ArrowRight', 3),
    ('ArrowLeft', 4),
    ('ArrowLeft', 5),
    ('ArrowLeft', 1),
    ('ArrowRight', 5),
    ('ArrowRight', 4),
  ):
    tab.keyboard.press(key)
    assert _rank_in_dialog(tab) == rank
  # Focus stays within the dialog, and returns to the film shown last.
  for _ in range(5):
    tab.keyboard.press('Tab')
  assert tab.evaluate('!!document.activeElement.closest("dialog, body")')
  tab.keyboard.press('Escape')
  assert _rank_in_dialog(tab) is None
  tab.wait_for_function(
    'document.activeElement.getAttribute("aria-label") === "open id3"'
  )


def test_a_click_opens_the_film_large(worklist, tab):
  tab.goto(worklist.as_uri())
  tab.click('.films tbody tr:nth-child(4) .id')
  assert _rank_in_dialog(tab) == 4
  assert tab.evaluate('document.querySelector("dialog").textContent').count(
    '/films/3.dcm'
  )
  screen = cv2.imdecode(np.frombuffer(tab.screenshot(), np.uint8), 0)
  # Most of the window is the film's own gray, JPEG's rounding allowed for.
  assert np.mean(np.abs(screen.astype(int) - 120) < 3) > 0.3
  tab.click('[data-step="1"]')
  assert _rank_in_dialog(tab) == 5
  tab.click('[data-step="0"]')
  assert _rank_in_dialog(tab) is None


def test_films_are_filtered(worklist, tab):
  tab.goto(worklist.as_uri())
  choose = (
    '{{const least = document.querySelector("#least");'
    'least.selectedIndex = {}; least.dispatchEvent(new Event("change"))}}'
  )
  for index, ranks in ((1, [1, 2]), (2, [1, 2, 3]), (0, [1, 2, 3, 4, 5])):
    tab.evaluate(choose.format(index))
    assert _ranks(tab) == ranks
  tab.evaluate(
    '{const part = document.querySelector("#part"); part.value = "ID2";'
    'part.dispatchEvent(new Event("input"))}'
  )
  assert _ranks(tab) == [3]
  assert '1 of 5' in tab.evaluate(
    'document.querySelector("output").textContent'
  )
  tab.click('.thumb:not([hidden] *)')
  tab.keyboard.press('ArrowRight')
  assert _rank_in_dialog(tab) == 3


@pytest.mark.parametrize('width', [1300, 1024, 700, 390])
def test_no_sideways_scrolling(worklist, tab, width):
  tab.set_viewport_size({'width': width, 'height': 900})
  tab.goto(worklist.as_uri())
  for opened in (False, True):
    assert tab.evaluate('document.documentElement.scrollWidth') <= width
    assert tab.evaluate(
      '[...document.images].every(i => i.naturalWidth || !i.src)'
    )
    if not opened:
      tab.click('.thumb')
      wide = tab.evaluate('document.querySelector("dialog").scrollWidth')
      assert wide <= width


def test_text_stands_out_as_wcag_asks(worklist, tab):
  """Of every text on the page at least 4.5 to 1: WCAG 2.2, level AA."""
  tab.goto(worklist.as_uri())
  tab.click('.thumb')
  ratios = tab.evaluate("""(() => {
    const channels = words => words.match(/[\\d.]+/g).map(Number);
    const light = rgb => {
      const [r, g, b] = rgb.slice(0, 3).map(x => x / 255).map(
          x => x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
      return .2126 * r + .7152 * g + .0722 * b;
    };
    const behind = node => {
      for (; node; node = node.parentElement) {
        const rgb = channels(getComputedStyle(node).backgroundColor);
        if (rgb.length < 4 || rgb[3] > 0) return rgb;
      }
      return [255, 255, 255];
    };
    return [...document.body.querySelectorAll('*')].filter(node =>
      [...node.childNodes].some(one => one.nodeType === 3 && one.data.trim())
      && node.tagName !== 'SCRIPT').map(node => {
        const pair = [behind(node), channels(getComputedStyle(node).color)];
        const [low, high] = pair.map(light).sort((a, b) => a - b);
        return (high + .05) / (low + .05);
      });
  })()""")
  assert len(ratios) > 50
  assert min(ratios) > 4.5


@pytest.mark.parametrize('count', [0, 1])
def test_few_films(tmp_path, tab, count):
  path = _write(tmp_path, [_reading(0)] * count)
  tab.goto(path.as_uri())
  text = tab.evaluate('document.body.innerText')
  assert f'{count} film' in text and 'Not assessed' not in text
  if count:
    tab.click('.thumb')
    tab.keyboard.press('ArrowLeft')
    assert _rank_in_dialog(tab) == 1


def test_many_films_take_little_memory(tmp_path):
  readings = [_reading(0, image_id=f'id{i}', area=i) for i in range(1000)]
  (tmp_path / 'pictures').mkdir()
  picture = tmp_path / 'pictures' / 'film0.jpg'
  picture.write_bytes(bytes(100_000))
  tracemalloc.start()
  page.write(tmp_path / 'x.html', readings, picture.parent, about={})
  _, most = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  text = (tmp_path / 'x.html').read_text()
  assert text.count('data:image/jpeg') == 200
  assert 'Pictures are shown for the first 200 films' in text
  assert most < 5e6 < len(text)


def test_a_missing_picture_is_left_out(tmp_path):
  text = _write(
    tmp_path, [_reading(0), _reading(1)], num_pictures=1
  ).read_text()
  assert text.count('data:image/jpeg') == 1


def test_a_page_that_cannot_be_written_is_one_line(tmp_path):
  file = tmp_path / 'no_folder'
  file.touch()
  with pytest.raises(UserError, match=r'cannot write .*worklist\.html'):
    page.write(file / 'worklist.html', [], tmp_path, about={})
