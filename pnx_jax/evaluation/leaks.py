"""Leaks: images that are scored must not be those of the training.

`training.initial_weights` refuses the third kind, weights to start from that
were trained on images which are held out.
"""

import logging
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence

from pnx_jax.errors import UserError
from pnx_jax.formats import evaluation_files
from pnx_jax.prediction.deployment import Member
from pnx_jax.training import run_files

_logger = logging.getLogger(__name__)


def check_out_of_fold(
  image_ids: Mapping[int, Collection[str]],
  members: Mapping[int, Sequence[Member]],
) -> None:
  """Checks that no network is scored on an image of its own training.

  That happens where runs were trained on builds with different folds.

  Args:
    image_ids: of each fold, the images that are scored.
    members: of each fold, the networks that predict it.

  Raises:
    UserError: a network was trained on one of its images.
  """
  scored: dict[tuple[str, int], set[str]] = {}
  for fold, ids in image_ids.items():
    for member in members[fold]:
      scored.setdefault((member.workdir, member.fold), set()).update(ids)
  for (run, left_out), ids in sorted(scored.items()):
    seen = run_files.trained_on(run, left_out)
    if not seen:
      _logger.warning(
        'Fold %d of %s has no trained_on.json: whether it was trained on these '
        'images cannot be checked.',
        left_out,
        run,
      )
    if both := seen.intersection(ids):
      raise UserError(
        f'fold {left_out} of {run} was trained with {min(both)}, which is '
        'held out in this build: it would be scored on images that it has '
        'seen; use runs of one build, and --config.data_dir of that build'
      )


def check_external(
  data_dir: str,
  image_ids: Collection[str],
  workdir: str | os.PathLike[str],
  folds: Sequence[int],
) -> None:
  """Checks that another dataset has no image that networks or rules come from.

  Args:
    data_dir: the other dataset.
    image_ids: of its images.
    workdir: the run, evaluated on its own dataset.
    folds: that were trained.

  Raises:
    UserError: networks were trained, or rules chosen, on some of the images.
  """
  scored = pathlib.Path(workdir, 'eval', 'per_image.csv')
  known = set(evaluation_files.read_per_image(scored).image_id.tolist())
  known.update(*(run_files.trained_on(workdir, fold) for fold in folds))
  if both := known.intersection(image_ids):
    raise UserError(
      f'{data_dir} holds {len(both)} of the {len(known)} images that {workdir} '
      'was trained on or its rules were chosen by: it is neither the dataset '
      'of the training nor one of unseen images; build it without those, or '
      'give --config.data_dir of the training'
    )
