"""The model card of an export (Mitchell et al. 2019, arXiv:1810.03993)."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from pnx_jax import pages
from pnx_jax.formats import evaluation_files
from pnx_jax.metrics import summary
from pnx_jax.metrics.rules import Rule
from pnx_jax.prediction.network import SIZE, Network
from pnx_jax.training import run_files

NOTICE = (
  'For research only. Not a medical device: its predictions must not be '
  'used to diagnose or treat anybody.'
)
_GROUPS = ('view', 'sex', 'age', 'size_quartile')


def render(
  run: str | os.PathLike[str],
  settings: dict[str, Any],
  networks: Sequence[Network],
) -> str:
  """The card as Markdown.

  Args:
    run: workdir of an evaluated run.
    settings: what model.json holds.
    networks: of the run.
  """
  config = run_files.load(run)
  metrics = evaluation_files.read_metrics(
    pathlib.Path(run, 'eval', 'metrics.json')
  )
  return pages.render(
    'card.md',
    notice=NOTICE,
    settings=settings,
    size=SIZE,
    rule=str(Rule(**settings['rules']['rule'])),
    networks=networks,
    config=config,
    dataset=pathlib.Path(config.data_dir).absolute().name,
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
