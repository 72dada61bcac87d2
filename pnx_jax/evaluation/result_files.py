"""The tables that an evaluation leaves behind."""

from pnx_jax.evaluation import tables
from pnx_jax.formats import files
from pnx_jax.metrics.summary import Images

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


def write_per_image(path, records, fold, images: Images) -> None:
  """One row per image; unknown cells and a negative's quartile are empty."""
  quartile = tables.size_quartiles(images.truth_area, images.label)
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
  files.write_csv(path, PER_IMAGE, rows)


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
