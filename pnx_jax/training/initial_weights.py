"""What a run starts from, and the images that its weights were trained on."""

import logging
import os
from typing import Any

import jax
import jax.numpy as jnp

from pnx_jax.config import Config
from pnx_jax.errors import UserError
from pnx_jax.formats import built_dataset
from pnx_jax.models import pretrained
from pnx_jax.storage import local
from pnx_jax.training import run_files, seen_films
from pnx_jax.training.checkpoint import Checkpoints
from pnx_jax.training.experiment import Experiment
from pnx_jax.training.seen_films import SeenFilm
from pnx_jax.training.train_state import TrainState

_logger = logging.getLogger(__name__)


def films_seen(
  config: Config, workdir: str | os.PathLike[str], run: Experiment
) -> list[SeenFilm]:
  """Returns all films that the weights have seen or are chosen by.

  Of a dataset without fingerprints those by which they are chosen are missing.

  Args:
    config: The config of the run.
    workdir: Folder of the run.
    run: Made from that config.

  Raises:
    UserError: A leak: the run that this one starts from was trained on images
      or patients that are held out here.
  """
  copies = built_dataset.test_copies(config.data_dir)
  films = seen_films.of(run.dataset.records, test_copies=copies)
  held_out = seen_films.of(
    run.held_out.records, use=seen_films.VALIDATED, test_copies=copies
  )
  if any(film.is_known for film in films):
    films += held_out
  if run.unlabeled is not None:
    records = run.unlabeled.dataset.records
    films += seen_films.of(records, use=seen_films.UNLABELED)
  if not config.init_from:
    return films
  start = local.fetched(config.init_from)
  before = run_files.seen(start, config.fold) or run_files.seen(
    workdir, config.fold
  )
  trained = [film for film in before if film.use == seen_films.TRAINED]
  _check_held_out(config.init_from, trained, films, held_out)
  ids = {film.image_id for film in films}
  return films + [film for film in before if film.image_id not in ids]


def _check_held_out(
  init_from: str,
  trained: list[SeenFilm],
  films: list[SeenFilm],
  held_out: list[SeenFilm],
) -> None:
  """Checks that none of the films that a run was trained on is held out.

  Raises:
    UserError: One is, or another film of its patient.
  """
  ids = {film.image_id for film in (*films, *held_out)}
  same = {film.image_id for film in held_out} & {x.image_id for x in trained}
  if same:
    raise UserError(
      f'init_from={init_from} was trained on {len(same)} of the images that '
      'are held out here: use the same build and fold for both'
    )
  # Those of this build are in other folds than their copies and patients.
  others = [film for film in trained if film.image_id not in ids]
  if shared := seen_films.overlap(others, held_out):
    raise UserError(
      f'init_from={init_from} was trained on {shared} that are held out here: '
      'build the dataset without them, or use one build and fold for both'
    )
  if others and not any(film.is_known for film in trained):
    _logger.info(
      '%s has no fingerprints of films: only their ids are compared.',
      init_from,
    )


def load(
  config: Config, state: TrainState, abstract_variables: Any
) -> TrainState:
  """Returns the state with the weights that the config starts from.

  Args:
    config: The config of the run.
    state: With random weights.
    abstract_variables: Shapes and shardings of the network's variables.

  Raises:
    UserError: There are no such weights, or they fit another network.
  """
  if config.init_from:
    start = local.fetched(config.init_from)
    run_files.load(start)
    directory = run_files.checkpoint_dir(start, config.fold)
    with Checkpoints(directory, create=False) as checkpoints:
      steps, variables = checkpoints.restore_best(abstract_variables)
    _logger.info('Starting from %s, step %d.', directory, steps[0])
  elif config.pretrained:
    variables = pretrained.load(
      local.fetched(config.pretrained),
      state.variables,
      encoder=config.model.encoder,
    )
    variables = jax.tree.map(
      lambda x, like: jax.device_put(x, like.sharding),
      variables,
      abstract_variables,
    )
    _logger.info('Starting from the encoder weights of %s.', config.pretrained)
  else:
    return state
  # Two copies, because the training step donates both.
  ema = None if state.ema is None else jax.tree.map(jnp.copy, variables)
  return state.replace(variables=variables, ema=ema)
