"""Errors by the spread over networks."""

import csv
import types

import numpy as np
from test_summary import _images

from pnx_jax.evaluation import uncertainty


def test_errors_are_counted_by_quintile_of_spread(tmp_path):
  images = _images(200)
  wrong = images.predicted != images.label
  spread = np.random.default_rng(0).random(200) + wrong
  found = uncertainty.summarize(spread, images)
  order = np.argsort(spread)
  for number, part in enumerate(np.array_split(order, 5), 1):
    each = found.quintiles[number]
    assert each.num_images == 40
    assert each.num_wrong == wrong[part].sum()
    assert each.error_rate == wrong[part].mean()
    assert (each.low, each.high) == (spread[part].min(), spread[part].max())
  records = [types.SimpleNamespace(image_id=str(n)) for n in range(200)]
  path = tmp_path / 'uncertainty.csv'
  uncertainty.write(path, found, records, images)
  with path.open(newline='') as file:
    rows = list(csv.DictReader(file))
  assert [int(row['wrong']) for row in rows] == wrong.astype(int).tolist()
  assert [float(row['spread']) for row in rows] == spread.tolist()


def test_equal_spreads_share_a_quintile():
  found = uncertainty.summarize(np.zeros(30), _images(30))
  assert list(found.quintiles) == [1]
  assert found.quintiles[1].num_images == 30
