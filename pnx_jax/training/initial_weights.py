"""What a run starts from, and the images that its weights were trained on."""

import logging
import os
from typing import Any

import jax
import jax.numpy as jnp

from pnx_jax.config import Config
from pnx_jax.errors import UserError
from pnx_jax.models import pretrained
from pnx_jax.training import run_files
from pnx_jax.training.checkpoint import Checkpoints
from pnx_jax.training.experiment import Experiment
from pnx_jax.training.train_state import TrainState

_logger = logging.getLogger(__name__)


def images_trained_on(
  config: Config, workdir: str | os.PathLike[str], run: Experiment
) -> list[str]:
  """Returns the ids of all images that the weights are trained on.

  Args:
    config: The config of the run.
    workdir: Folder of the run.
    run: Made from that config.

  Raises:
    UserError: A leak: the run that this one starts from was trained on images
      that are held out here.
  """
  trained_on = {record.image_id for record in run.dataset.records}
  if config.init_from:
    before = run_files.trained_on(
      config.init_from, config.fold
    ) or run_files.trained_on(workdir, config.fold)
    leaked = before & {record.image_id for record in run.held_out.records}
    if leaked:
      raise UserError(
        f'init_from={config.init_from} was trained on {len(leaked)} of the '
        'images that are held out here: use the same build and fold for both'
      )
    trained_on |= before
  return sorted(trained_on)


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
    run_files.load(config.init_from)
    directory = run_files.checkpoint_dir(config.init_from, config.fold)
    with Checkpoints(directory, create=False) as checkpoints:
      steps, variables = checkpoints.restore_best(abstract_variables)
    _logger.info('Starting from %s, step %d.', directory, steps[0])
  elif config.pretrained:
    variables = pretrained.load(
      config.pretrained, state.variables, encoder=config.model.encoder
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
