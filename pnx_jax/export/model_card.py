"""The model card of an export: what it is, what it scored, what it is not for.

Mitchell et al. 2019, Model Cards for Model Reporting, arXiv:1810.03993.
"""

import json
import os
import pathlib
from collections.abc import Sequence

from pnx_jax import pages
from pnx_jax.errors import UserError
from pnx_jax.metrics import summary
from pnx_jax.metrics.rules import Rule
from pnx_jax.prediction.network import SIZE, Network
from pnx_jax.training import run_files

NOTICE = (
  'For research only. This is no medical device; nothing it says may be used '
  'to diagnose or treat anybody.'
)
_GROUPS = ('view', 'sex', 'age', 'size_quartile')


def render(
  run: str | os.PathLike, settings: dict, networks: Sequence[Network]
) -> str:
  """The card as Markdown.

  Args:
    run: workdir of an evaluated run.
    settings: what model.json holds.
    networks: of the run.
  """
  config = run_files.load(run)
  metrics = _metrics(pathlib.Path(run, 'eval', 'metrics.json'))
  return pages.render(
    'card.md',
    notice=NOTICE,
    settings=settings,
    size=SIZE,
    rule=str(Rule(**settings['rules']['rule'])),
    networks=networks,
    config=config,
    recipe=config.to_json_best_effort(indent=2),
    metrics=metrics,
    headline=summary.TITLES,
    columns=summary.SHORT_TITLES,
    groups=[
      name.removesuffix('/num_images')
      for name in metrics
      if name.startswith(_GROUPS) and name.endswith('/num_images')
    ],
  )


def _metrics(path: pathlib.Path) -> dict:
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise UserError(f'cannot read {path}: {error}; run --mode=eval') from None
