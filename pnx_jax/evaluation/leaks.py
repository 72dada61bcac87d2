"""Leaks: films that are scored must not be those of the training.

Checked are the folds of a run, and films of another dataset that a run is
scored on. Weights to start from are checked by `training.initial_weights`.
Films are compared by id, content and patient; runs and datasets of older
versions by id alone.
"""

import logging
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence

from pnx_jax.errors import UserError
from pnx_jax.formats import evaluation_files
from pnx_jax.prediction.deployment import Member
from pnx_jax.training import run_files, seen_films
from pnx_jax.training.seen_films import SeenFilm

_logger = logging.getLogger(__name__)


def check_out_of_fold(
  films: Mapping[int, Collection[SeenFilm]],
  members: Mapping[int, Sequence[Member]],
  *,
  build: Collection[str],
) -> None:
  """Checks that no network is scored on a film of its own training.

  That happens where runs were trained on builds with different folds. Copies
  and patients of a film of the same build are in its fold.

  Args:
    films: of each fold, the films that are scored.
    members: of each fold, the networks that predict it.
    build: ids of all labeled films of the dataset; () where networks have been
      trained on none of them.

  Raises:
    UserError: a network was trained on one of its films, on a copy or on the
      patient of one; or it was chosen by one, where the dataset is foreign.
  """
  scored: dict[tuple[str, int], list[SeenFilm]] = {}
  for fold, some in films.items():
    for member in members[fold]:
      scored.setdefault((member.workdir, member.fold), []).extend(some)
  for (run, left_out), some in sorted(scored.items(), key=lambda x: x[0]):
    seen = run_files.seen(run, left_out)
    trained = [film for film in seen if film.use == seen_films.TRAINED]
    if not trained:
      _logger.warning(
        'Fold %d of %s has no trained_on.json: whether it was trained on these '
        'images cannot be checked.',
        left_out,
        run,
      )
    if both := {x.image_id for x in trained} & {x.image_id for x in some}:
      raise UserError(
        f'fold {left_out} of {run} was trained with {min(both)}, which is '
        'held out in this build: it would be scored on images that it has '
        'seen; use runs of one build, and --config.data_dir of that build'
      )
    others = [
      film
      for film in seen
      if film.image_id not in build
      and (film.use == seen_films.TRAINED or not build)
    ]
    _check_content(run, left_out, others, some)


def _check_content(
  run: str,
  fold: int,
  seen: Sequence[SeenFilm],
  scored: Collection[SeenFilm],
) -> None:
  """Raises UserError where scored films are copies of films that were seen."""
  pictures = [film for film in seen if film.use == seen_films.UNLABELED]
  learned = [film for film in seen if film.use != seen_films.UNLABELED]
  if learned and not any(film.is_known for film in learned):
    _logger.info(
      'Fold %d of %s has no fingerprints of films: only ids are compared.',
      fold,
      run,
    )
  if shared := seen_films.overlap(learned, scored):
    raise UserError(
      f'fold {fold} of {run} was trained on or chosen by {shared}, which would '
      'be scored here; build the dataset without them'
    )
  if shared := seen_films.overlap(pictures, scored):
    _logger.warning(
      'Fold %d of %s has seen %s, without annotations.', fold, run, shared
    )


def seen_in_training(
  films: Collection[SeenFilm], members: Sequence[Member]
) -> set[str]:
  """Returns the ids of test films that networks saw in training.

  Their scores are not those of new films, even where they were seen without an
  annotation or with one that networks have drawn. It is logged.

  Args:
    films: That are predicted.
    members: The networks that predict them.
  """
  found: set[str] = set()
  for run, fold in sorted(
    {(member.workdir, member.fold) for member in members}
  ):
    seen = run_files.seen(run, fold)
    found.update(film for _, film in seen_films.overlap(seen, films).films)
  if found:
    _logger.warning(
      '%d of %d films of the submission were seen in training.',
      len(found),
      len(films),
    )
  return found


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
