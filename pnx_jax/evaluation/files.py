"""The tables that an evaluation leaves behind."""

import csv
import json
import pathlib
from collections.abc import Iterable

from pnx_jax.evaluation import scores
from pnx_jax.metrics.figures import Images

PER_IMAGE = (
  'image_id',
  'patient',
  'fold',
  'label',
  'probability',
  'dice',
  'truth_area',
  'predicted_area',
  'size_quartile',
  'view',
  'sex',
  'age',
)
BOXES = ('image_id', 'x', 'y', 'width', 'height', 'area')


def write_json(path, content: dict) -> None:
  text = json.dumps(content, indent=2, allow_nan=False)
  pathlib.Path(path).write_text(text + '\n', encoding='utf-8')


def write_csv(path, header, rows: Iterable) -> None:
  with pathlib.Path(path).open('w', newline='', encoding='utf-8') as file:
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(header)
    writer.writerows(rows)


def write_per_image(path, records, fold, images: Images) -> None:
  """One row per image; unknown cells and a negative's quartile are empty."""
  quartile = scores.size_quartiles(images.truth_area, images.label)
  rows = (
    (
      record.image_id,
      record.patient,
      fold[row],
      int(images.label[row]),
      repr(float(images.probability[row])),
      repr(float(images.dice[row])),
      images.truth_area[row],
      images.predicted_area[row],
      quartile[row] or '',
      record.view,
      record.sex,
      record.age if record.age >= 0 else '',
    )
    for row, record in enumerate(records)
  )
  write_csv(path, PER_IMAGE, rows)


def summary(metrics: dict) -> str:
  """The headline as a table for the terminal."""
  names = {
    'dice': 'Dice',
    'all_empty_dice': 'Dice of all-empty',
    'dice_positive': 'Dice on positives',
    'sensitivity': 'sensitivity',
    'specificity': 'specificity',
    'auc': 'AUC of the probability',
    'optimism': 'optimism of tuning',
  }
  lines = [f'{"n":<24}{metrics["num_images"]:>8}']
  for name, title in names.items():
    if name not in metrics:
      continue
    pair = metrics['intervals'][name]
    between = f'  [{pair[0]:.4f}, {pair[1]:.4f}]' if pair else ''
    value = '-' if metrics[name] is None else f'{metrics[name]:.4f}'
    lines.append(f'{title:<24}{value:>8}{between}')
  return '\n'.join(lines)
