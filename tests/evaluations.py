"""Folders of evaluations, written without a network."""

import numpy as np

from pnx_jax.formats import evaluation_files, files


def write(folder, *, num_images=60, seed=0, skill=1.0, **changes):
  """Writes the tables of a made-up evaluation.

  Args:
    folder: Of the evaluation.
    num_images: Every patient has two of them.
    seed: Of the predictions; films and annotations are always the same.
    skill: Of the network, from 0.
    **changes: Columns by name, to write instead.

  Returns:
    The columns by name.
  """
  films, rng = np.random.default_rng(9), np.random.default_rng(seed)
  label = films.random(num_images) < 0.4
  truth = np.where(label, films.integers(300, 9000, num_images), 0)
  score = skill * label + rng.normal(0, 0.5, num_images)
  predicted = np.where(score > 0.5, films.integers(300, 9000, num_images), 0)
  both = (np.minimum(truth, predicted) * rng.random(num_images)).astype(int)
  total = truth + predicted
  columns = {
    'image_id': [f'film {number:03d}' for number in range(num_images)],
    'patient': np.arange(num_images) // 2,
    'fold': np.arange(num_images) // 2 % 2,
    'label': label.astype(int),
    'probability': 1 / (1 + np.exp(-score)),
    'dice': np.where(total, 2 * both / np.maximum(total, 1), 1.0),
    'truth_area': truth,
    'predicted_area': predicted,
    'size_quartile': [''] * num_images,
    'view': [('PA', 'AP')[number % 2] for number in range(num_images)],
    'sex': [('F', 'M')[number // 2 % 2] for number in range(num_images)],
    'age': np.arange(num_images),
  } | changes
  columns = {name: np.asarray(x).tolist() for name, x in columns.items()}
  rows = list(zip(*columns.values(), strict=True))
  folder.mkdir(parents=True, exist_ok=True)
  files.write_csv(folder / 'per_image.csv', evaluation_files.PER_IMAGE, rows)
  files.write_json(
    folder / 'metrics.json',
    {
      'dice': float(np.mean(columns['dice'])),
      'num_images': len(rows),
      'num_positive': int(np.sum(columns['label'])),
      'intervals': {},
    },
  )
  return columns
