"""The comparison of runs, as the command makes it."""

import csv
import re
import types

import evaluations
import numpy as np
import pytest

from pnx_jax.evaluation import compare, comparison
from pnx_jax.evaluation.report import changed_films
from pnx_jax.formats import rle


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """Three runs: a, a better one b, and one of other seed c."""
  root = tmp_path_factory.mktemp('runs')
  for name, options in {
    'a': {'seed': 1, 'skill': 0.6},
    'b': {'seed': 2, 'skill': 2.0},
    'c': {'seed': 3, 'skill': 0.6},
    'd': {'seed': 4, 'skill': 2.0},
  }.items():
    evaluations.write(root / name / 'eval', **options)
  return root


def _refusal(capsys, *arguments):
  with pytest.raises(SystemExit, match='2'):
    compare.main([*map(str, arguments), '--output_dir=nowhere'])
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('error: ')
  return line


def test_the_command_writes_tables_and_a_page(runs, tmp_path, capsys):
  sides = [str(runs / name) for name in 'abc']
  output = tmp_path / 'out'
  options = [f'--output_dir={output}', '--margin=0.05', '--pictures=3']
  compare.main([*sides, *options, '--metrics=dice,auc'])
  printed = capsys.readouterr().out
  assert '60 films in common, 0 others' in printed
  assert len(re.findall('Holm', printed)) == 4
  with (output / 'differences.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert {(row['first'], row['second']) for row in rows} == {
    ('a', 'b'),
    ('a', 'c'),
  }
  (better,) = (
    row for row in rows if row['second'] == 'b' and row['metric'] == 'auc'
  )
  assert float(better['difference']) > float(better['low']) > 0
  # Negative numbers are numbers, not formulas to be escaped.
  assert any(float(row['low']) < 0 for row in rows if row['low'])
  assert better['non_inferior'] == 'yes'
  assert float(better['p_holm']) >= float(better['p_value'])
  assert {row['metric'] for row in rows if row['p_holm']} == {'dice', 'auc'}
  with (output / 'films.csv').open() as file:
    films = list(csv.DictReader(file))
  assert len(films) == 60
  assert [film['image_id'] for film in films] == sorted(
    film['image_id'] for film in films
  )
  page = (output / 'report.html').read_text()
  assert 'non-inferior by 0.05' in page
  assert 'No pictures: there is no' in page
  assert page.count('<figure class="wide">') == 6


def test_the_order_of_rows_and_films_of_one_run_alone_do_not_matter(
  runs, tmp_path
):
  columns = evaluations.write(tmp_path / 'all', seed=2, skill=2.0)
  order = np.random.default_rng(0).permutation(60)[:50]
  part = {
    name: [values[place] for place in order] for name, values in columns.items()
  }
  # The numbers of patients are those of another build.
  part['patient'] = [1000 - patient for patient in part['patient']]
  evaluations.write(tmp_path / 'part', num_images=50, **part)
  found = comparison.compare([[runs / 'a'], [tmp_path / 'part']])
  assert (found.num_films, found.num_left_out) == (50, 10)
  first, second = (side.films[0] for side in found.sides)
  assert first.image_id.tolist() == second.image_id.tolist()
  places = [columns['image_id'].index(name) for name in second.image_id]
  assert second.dice.tolist() == [columns['dice'][place] for place in places]


def test_several_seeds_are_one_side(runs):
  found = comparison.compare(
    [[runs / 'a', runs / 'c'], [runs / 'b', runs / 'd']], replicates=200
  )
  (dice,) = (row.difference for row in found.rows if row.metric == 'dice')
  means = {
    name: np.mean(
      comparison.compare([[runs / name], [runs / name]], replicates=100)
      .sides[0]
      .dice
    )
    for name in 'abcd'
  }
  assert dice.first == pytest.approx((means['a'] + means['c']) / 2)
  assert dice.second == pytest.approx((means['b'] + means['d']) / 2)
  assert found.sides[0].name == 'a, c'


def test_runs_that_cannot_be_compared_are_refused(runs, tmp_path, capsys):
  columns = evaluations.write(tmp_path / 'x', seed=2)
  label, fold, patient = (
    np.array(columns[name]) for name in ('label', 'fold', 'patient')
  )
  turned = np.arange(60) == 30
  area = np.where(turned, 1234, columns['truth_area'])
  for changes, message in (
    ({'truth_area': area}, '1 differ in their annotation.*film 030'),
    ({'fold': fold ^ turned}, '1 differ in their fold.*film 030'),
    ({'patient': np.where(turned, 3, patient)}, 'to patients differently'),
    ({'patient': patient // 2}, 'to patients differently'),
    ({'image_id': [f'{n}' for n in range(60)]}, 'no film in common'),
  ):
    evaluations.write(tmp_path / 'other', seed=2, **changes)
    assert re.search(message, _refusal(capsys, runs / 'a', tmp_path / 'other'))
  assert len(label) == 60
  for arguments, message in (
    ([runs / 'a'], 'needs two sides or more'),
    ([runs / 'a', f'{runs}/b,{runs}/c'], r'not \[1, 2\]'),
    ([runs / 'a', runs], 'was not evaluated'),
    ([runs / 'a', runs / 'b', '--metrics=dise'], "nearest is 'dice'"),
    ([runs / 'a', runs / 'b', '--margin=0'], 'margin 0 must'),
    ([runs / 'a', runs / 'b', '--replicates=1'], 'must be at least 100'),
    ([runs / 'a', runs / 'b', '--marg=0.1'], 'unrecognized arguments'),
  ):
    assert re.search(message, _refusal(capsys, *arguments))


def test_pictures_show_the_annotation_and_both_masks(runs, monkeypatch):
  found = comparison.compare([[runs / 'a'], [runs / 'b']], replicates=100)
  names = found.sides[0].films[0].image_id.tolist()
  mask = np.zeros((64, 64), bool)
  mask[10:30, 5:25] = True
  for name, shift in (('a', 0), ('b', 30)):
    rle.write_csv(
      runs / name / 'eval' / 'masks.csv',
      ((image_id, rle.encode(np.roll(mask, shift, 1))) for image_id in names),
    )
  record = {'height': 64, 'width': 64, 'pixel_aspect': 1.0}
  dataset = types.SimpleNamespace(
    records=[types.SimpleNamespace(image_id=x, **record) for x in names],
    stored_size=64,
    image=lambda place, size: np.full((size, size), 90, np.uint8),
    label=lambda place, size: mask,
  )
  monkeypatch.setattr(changed_films, '_dataset', lambda side, data_dir: dataset)
  films = changed_films.choose(found, 2)
  changes = found.sides[1].dice - found.sides[0].dice
  assert sorted(np.abs(changes))[-2:] == sorted(abs(f.change) for f in films)
  pictures, missing = changed_films.pictures(found, films, data_dir=None)
  assert not missing and len(pictures) == 2
  width = pictures[0].shape[1] // 3
  centers = []
  for number in range(3):
    tile = pictures[0][:width, number * width : (number + 1) * width]
    colored = np.ptp(tile.astype(int), axis=-1) > 30
    centers.append(np.nonzero(colored)[1].mean() / width)
  assert centers == pytest.approx([15 / 64, 15 / 64, 45 / 64], abs=0.02)


def test_the_page_fits_a_phone(runs, tmp_path, tab):
  arguments = [str(runs / 'a'), str(runs / 'b'), '--margin=0.05']
  compare.main([*arguments, f'--output_dir={tmp_path}'])
  tab.set_viewport_size({'width': 390, 'height': 2000})
  tab.goto((tmp_path / 'report.html').as_uri())
  assert tab.evaluate('document.documentElement.scrollWidth') <= 390
