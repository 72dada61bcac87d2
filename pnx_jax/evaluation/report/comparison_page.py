"""The report of a comparison: one self-contained HTML page."""

import base64
from collections.abc import Sequence

import numpy as np

from pnx_jax import draw, pages
from pnx_jax.evaluation.comparison import Comparison
from pnx_jax.evaluation.report import charts
from pnx_jax.evaluation.report.changed_films import ChangedFilm
from pnx_jax.metrics import summary
from pnx_jax.metrics.paired import LOWER_IS_BETTER


def render(
  comparison: Comparison,
  *,
  films: Sequence[ChangedFilm],
  pictures: Sequence[np.ndarray],
  missing: str,
) -> str:
  """Renders the page as HTML.

  Args:
    comparison: Of the runs.
    films: Those that changed most.
    pictures: uint8[H, W, 3] of each of them, or none.
    missing: Why there are no pictures.
  """
  first, *others = comparison.sides
  table = first.films[0]
  images = [
    base64.b64encode(draw.encoded(picture, '.jpg')).decode('ascii')
    for picture in pictures
  ] or [''] * len(films)
  return pages.render(
    'comparison.html',
    comparison=comparison,
    first=first,
    num_patients=len(np.unique(table.patient)),
    num_positive=int(table.label.sum()),
    num_runs=len(first.films),
    titles=summary.TITLES,
    lower_is_better=LOWER_IS_BETTER,
    sides=[
      {
        'name': side.name,
        'rows': [row for row in comparison.rows if row.side is side],
        'chart': charts.paired_dice(
          first.dice[table.label],
          side.dice[table.label],
          names=(first.name, side.name),
        ),
        'films': [
          {
            'text': (
              f'{table.image_id[film.index]}: Dice '
              f'{first.dice[film.index]:.3f} by {first.name}, '
              f'{side.dice[film.index]:.3f} by {side.name} '
              f'({film.change:+.3f}); '
              f'{"pneumothorax" if table.label[film.index] else "negative"}'
            ),
            'picture': image,
          }
          for film, image in zip(films, images, strict=True)
          if film.side is side
        ],
      }
      for side in others
    ],
    missing=missing,
  )
